"""Numbers that people give as options: one line names the option, its value and what it may be."""

import math

MAX_SEED = 2**32 - 1  # the largest that every library takes
MANY = 10**9  # more steps, images or evaluations than anybody waits for


def check_whole(name: str, value: object, least: int, most: int = MANY) -> None:
    """Raises ValueError unless `value` is a whole number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} is {value!r}: it has to be a whole number from {least:,} to {most:,}")


def check_number(name: str, value: object, above: float, most: float = math.inf) -> None:
    """Raises ValueError unless `value` is a finite number above `above` and at most `most`."""
    is_bool = isinstance(value, bool)
    if is_bool or not (isinstance(value, int | float) and math.isfinite(value) and above < value <= most):
        limit = f" and at most {most:g}" if math.isfinite(most) else ""
        raise ValueError(f"{name} is {value!r}: it has to be a number above {above:g}{limit}")


def check_share(name: str, value: object) -> None:
    """Raises ValueError unless `value` is a number from 0 to below 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"{name} is {value!r}: it has to be a share, from 0 to below 1")


def check_seed(name: str, value: object) -> None:
    """Raises ValueError unless `value` is a seed that every library takes."""
    check_whole(name, value, 0, MAX_SEED)
