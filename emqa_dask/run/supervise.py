"""Call a function under supervision: what crashes, hangs, runs out of memory or raises ends that call and no other."""

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import psutil

from emqa_dask.backend import DeviceLost, guard
from emqa_dask.run.workers import METHOD, start_without_main

POLL_S = 0.05  # between looks at a child's memory
GRACE_S = 1.0  # that a stuck child has to write down where it is stuck
START_S = 300.0  # that a child may take to start


Call = Callable[..., Any]  # call(function, *args, label="") -> function(*args)


class Died(Exception):
    """A call that failed for good; kind is error, crash, timeout or memory, as in tables.FAILURES."""

    def __init__(self, kind: str, error: str, traceback: str = "", attempts: int = 1, peak_memory_bytes: int = 0):
        super().__init__(error)
        self.kind, self.error, self.traceback, self.attempts = kind, error, traceback, attempts
        self.peak_memory_bytes = peak_memory_bytes


def direct(function: Callable, *args: Any, label: str = "") -> Any:
    """The call itself, unsupervised; its exceptions are its own."""
    return function(*args)


class Supervised:
    """call(function, *args, label=...) -> function(*args), or Died; the function is importable, its result is pickled.

    A call runs here, and once more alone in a fresh process when it raises, so that only what fails twice has failed.
    With `is_isolated` (this task has lost a worker already) every call runs in a child process from the start: its
    signal, its standing still for `timeout_s` and its memory beyond `memory_bytes` are seen from outside, and end the
    child instead of the worker. A child that dies may suffer from what earlier calls left behind, so the call is tried
    again in a fresh one, unless it was the child's first. Zero means no limit.

    Here, a call that takes over `timeout_s` ends this whole process (faulthandler's watchdog needs no GIL): the task is
    then run again elsewhere, isolated. DeviceLost goes straight through: it is this process's fault, not the call's.
    """

    def __init__(
        self,
        timeout_s: float = 0.0,
        memory_bytes: int = 0,
        *,
        is_isolated: bool = False,
        may_exit: bool = False,
    ):
        self.timeout_s, self.memory_bytes, self.is_isolated = timeout_s, memory_bytes, is_isolated
        self.may_exit = may_exit
        self._child: _Child | None = None

    def __call__(self, function: Callable, *args: Any, label: str = "") -> Any:
        before = 0
        if not self.is_isolated:
            try:
                with _watchdog(self.timeout_s if self.may_exit else 0.0), guard():
                    return function(*args)
            except DeviceLost:
                raise
            except Exception:
                before = 1
                self.close()  # alone, in a fresh process
        while True:
            if self._child is None:
                self._child = _Child(function.__module__)
            is_fresh = self._child.n_calls == 0
            try:
                return self._child.call(function, args, self.timeout_s, self.memory_bytes)
            except Died as died:
                died.attempts += before
                self.close()
                if is_fresh:
                    raise
                before += 1

    def close(self) -> None:
        """End the child process, if there is one."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def __enter__(self) -> "Supervised":
        return self

    def __exit__(self, *_) -> None:
        self.close()


class _Child:
    """A process that does one call after the other, and the end of the pipe to it."""

    def __init__(self, module: str):
        context = multiprocessing.get_context(METHOD)
        if METHOD == "forkserver":  # it imports what the calls need once; a child is then there in 20 ms
            context.set_forkserver_preload([module])
        self.pipe, theirs = context.Pipe()
        with tempfile.NamedTemporaryFile(prefix="emqa-", suffix=".trace", delete=False) as notes:
            self.notes = notes.name
        self.worker = context.Process(target=_serve, args=(theirs, self.notes), daemon=True)
        with start_without_main():
            self.worker.start()
        theirs.close()
        self.n_calls = 0

    def call(self, function: Callable, args: tuple, timeout_s: float, memory_bytes: int) -> Any:
        self.n_calls += 1
        peak = 0
        try:
            self.pipe.send((function, args, timeout_s))
            watched = psutil.Process(self.worker.pid)
            if not self.pipe.poll(START_S):
                raise Died("timeout", f"no process for it could be started within {START_S:g} s", self._where())
            self.pipe.recv()  # it has the call: from now on time is its own
            deadline = time.monotonic() + timeout_s + GRACE_S if timeout_s else float("inf")
            while not self.pipe.poll(POLL_S):
                with contextlib.suppress(psutil.Error):
                    peak = max(peak, watched.memory_info().rss)
                if memory_bytes and peak > memory_bytes:
                    text = f"it took {peak / 2**20:,.0f} MiB, over the limit of {memory_bytes / 2**20:,.0f} MiB"
                    raise Died("memory", f"{text}: give the workers more memory", self._where(), 1, peak)
                if time.monotonic() > deadline:
                    text = f"it was not done after {timeout_s:g} s: raise run.timeout_s if it only is slow"
                    raise Died("timeout", text, self._where(), 1, peak)
            outcome, *said = self.pipe.recv()
        except (EOFError, ConnectionError, psutil.NoSuchProcess):
            self.worker.join(5)
            raise Died("crash", _cause(self.worker.exitcode), self._where(), 1, peak) from None
        if outcome == "returned":
            return said[0]
        raise Died(*said, 1, peak)

    def _where(self) -> str:
        with open(self.notes, encoding="utf-8", errors="replace") as notes:
            return notes.read()[-20_000:]

    def end(self) -> None:
        self.pipe.close()
        self.worker.kill()
        self.worker.join(5)
        with contextlib.suppress(OSError):
            os.unlink(self.notes)


def _serve(pipe, notes_path: str) -> None:
    """What a child does: answer calls until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    with open(notes_path, "w") as notes:
        faulthandler.enable(notes)
        while True:
            try:
                function, args, timeout_s = pipe.recv()
            except (EOFError, OSError):
                os._exit(0)
            pipe.send("started")
            if timeout_s:
                faulthandler.dump_traceback_later(timeout_s, file=notes)
            try:
                answer = ("returned", function(*args))
            except Exception as error:
                answer = ("raised", kind_of(error), describe(error), "".join(traceback.format_exception(error)))
            faulthandler.cancel_dump_traceback_later()
            pipe.send(answer)


def _leave_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


_NOWHERE = os.open(os.devnull, os.O_WRONLY)  # the watchdog may write to it at any time
_deadlines: dict[int, float] = {}
_lock = threading.Lock()


@contextlib.contextmanager
def _watchdog(timeout_s: float) -> Iterator[None]:
    """End this process when the block takes over `timeout_s`; there is one timer for the calls of all threads."""
    if not timeout_s:
        yield
        return
    thread = threading.get_ident()
    with _lock:
        _deadlines[thread] = time.monotonic() + timeout_s
        _arm()
    try:
        yield
    finally:
        with _lock:
            del _deadlines[thread]
            _arm()


def _arm() -> None:
    if _deadlines:
        left = max(min(_deadlines.values()) - time.monotonic(), 0.001)
        faulthandler.dump_traceback_later(left, exit=True, file=_NOWHERE)  # the isolated call will tell
    else:
        faulthandler.cancel_dump_traceback_later()


def kind_of(error: BaseException) -> str:
    """memory or error."""
    return "memory" if isinstance(error, MemoryError) else "error"


def describe(error: BaseException) -> str:
    """An exception's type and text in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _cause(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"its process ended with exit code {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    return f"its process was ended by {name}"
