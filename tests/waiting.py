"""wait_until(): what real components do takes the time it takes."""

import time
from collections.abc import Callable


def wait_until(holds: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
    """Return once `holds()` is true; AssertionError with `what` when it was not within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.1)
