"""Supervision of calls: a crash, hang, excess of memory or exception ends one call and no other."""

import contextlib
import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from emqa_dask.backend import DeviceLost, guard_device
from emqa_dask.run.isolate import (
    ENVIRONMENT_ERRORS,
    CallFailed,
    IsolatedProcess,
    Suspended,
    classify_error,
    describe_error,
)

__all__ = [
    "Call",
    "CallFailed",
    "Supervised",
    "call_directly",
    "classify_error",
    "compute_time_limit_s",
    "describe_error",
    "list_running_labels",
]

# Megapixels of an image up to which run.timeout_s holds; a larger one has more in proportion: 30 s each by default.
# Mask R-CNN takes 0.6 s of CPU for one, LoG 0.2 s; detectron2's R_50_FPN 2.5 s for an image, 16 networks 1.1 s.
BASE_MEGAPIXELS = 4.0
MAX_SUSPENDED = 3  # children of one call that somebody stops, before it is given up

Call = Callable[..., Any]  # call(function, *args, label="", megapixels=0.0) -> function(*args)


def call_directly(function: Callable, *args: Any, label: str = "", megapixels: float = 0.0) -> Any:
    """Value of the call without supervision; its exceptions are raised as they are."""
    return function(*args)


def compute_time_limit_s(timeout_s: float, megapixels: float) -> float:
    """Seconds for a call on `megapixels`, from those for a plain image (`timeout_s`); 0 = no limit."""
    return timeout_s * max(1.0, megapixels / BASE_MEGAPIXELS)


class Supervised:
    """Callable whose call(function, *args, label=...) is function(*args), or raises CallFailed.

    The function is importable, and its result is pickled.

    A call runs in this process, and once more alone in a fresh process when it raises, so that only what fails twice
    has failed. With `is_isolated` (this task has lost a worker already) every call runs in a child process from the
    start. A child that gets a signal, exceeds its time limit or takes more than `memory_bytes` is ended from outside,
    and the worker goes on. A child that dies may suffer from what earlier calls left behind, so the call is tried again
    in a fresh one, unless it was the child's first, or out of time. Zero means no limit.

    In this process, a call over its time limit ends the whole process (faulthandler's watchdog needs no GIL): the task
    is then run again elsewhere, isolated. DeviceLost, ModelError and ImportError are raised as they are: no image is to
    blame for them.
    """

    def __init__(
        self,
        timeout_s: float = 0.0,
        memory_bytes: int = 0,
        *,
        is_isolated: bool = False,
        may_exit: bool = False,
    ):
        self.timeout_s = timeout_s
        self.memory_bytes = memory_bytes
        self.is_isolated = is_isolated
        self.may_exit = may_exit
        self._child: IsolatedProcess | None = None

    def __call__(self, function: Callable, *args: Any, label: str = "", megapixels: float = 0.0) -> Any:
        limit = compute_time_limit_s(self.timeout_s, megapixels)
        with _note_label(label):
            n_failures = 0
            if not self.is_isolated:
                try:
                    with _watchdog(limit if self.may_exit else 0.0), guard_device():
                        return function(*args)
                except (DeviceLost, *ENVIRONMENT_ERRORS):
                    raise
                except Exception:
                    n_failures = 1
                    self.close()  # alone, in a fresh process
            return self._isolated(function, args, limit, n_failures)

    def _isolated(self, function: Callable, args: tuple, limit: float, n_failures: int) -> Any:
        n_suspended = 0
        while True:
            if self._child is None:
                self._child = IsolatedProcess(function.__module__)
            is_fresh = self._child.n_calls == 0
            try:
                return self._child.call(function, args, limit, self.memory_bytes)
            except Suspended:
                self.close()
                n_suspended += 1
                if n_suspended == MAX_SUSPENDED:
                    raise CallFailed(
                        "timeout", f"its process was stopped {n_suspended} times", "", n_failures + 1
                    ) from None
            except CallFailed as failure:
                failure.attempts += n_failures
                self.close()
                if is_fresh or failure.failure_kind == "timeout":
                    raise
                n_failures += 1

    def close(self) -> None:
        """End the child process, if there is one."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def __enter__(self) -> "Supervised":
        return self

    def __exit__(self, *_) -> None:
        self.close()


_labels_by_thread: dict[int, tuple[str, float]] = {}  # thread -> label of its call, and since when


@contextlib.contextmanager
def _note_label(label: str) -> Iterator[None]:
    thread = threading.get_ident()
    _labels_by_thread[thread] = label, time.monotonic()
    try:
        yield
    finally:
        _labels_by_thread.pop(thread, None)


def list_running_labels() -> list[tuple[str, float]]:
    """(label, seconds so far) of the running calls of this process, the oldest first."""
    now_s = time.monotonic()
    return sorted(
        ((label, now_s - start_s) for label, start_s in _labels_by_thread.copy().values()), key=lambda pair: -pair[1]
    )


_DEVNULL = os.open(os.devnull, os.O_WRONLY)  # the watchdog may write to it at any time
_deadlines_by_thread: dict[int, float] = {}
_lock = threading.Lock()


@contextlib.contextmanager
def _watchdog(timeout_s: float) -> Iterator[None]:
    """End this process when the block takes over `timeout_s`; all threads share one timer."""
    if not timeout_s:
        yield
        return
    thread = threading.get_ident()
    with _lock:
        _deadlines_by_thread[thread] = time.monotonic() + timeout_s
        _set_watchdog()
    try:
        yield
    finally:
        with _lock:
            del _deadlines_by_thread[thread]
            _set_watchdog()


def _set_watchdog() -> None:
    if _deadlines_by_thread:
        seconds_left = max(min(_deadlines_by_thread.values()) - time.monotonic(), 0.001)
        faulthandler.dump_traceback_later(seconds_left, exit=True, file=_DEVNULL)  # the isolated call will tell
    else:
        faulthandler.cancel_dump_traceback_later()
