"""Child process for calls that may crash, hang or take too much memory: IsolatedProcess, CallFailed."""

import contextlib
import faulthandler
import multiprocessing
import multiprocessing.forkserver
import os
import pickle
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import psutil

from emqa_dask.models import ModelError
from emqa_dask.run.scratch import get_scratch_folder
from emqa_dask.run.workers import START_METHOD, start_without_main

MEMORY_INTERVAL_S = 0.05  # between looks at a child's memory
GRACE_S = 1.0  # that a stuck child has to write down where it is stuck
START_S = 300.0  # that a child may take to start
FORK_SERVER_INTERVAL_S = 5.0  # between looks at a fork server that has not answered
RESTART_PAUSE_S = 0.5  # that one that was ended may take to be gone
ENVIRONMENT_ERRORS = (ModelError, ImportError)  # no image is to blame for these


class CallFailed(Exception):
    """A call that failed for good; `failure_kind` is error, crash, timeout or memory, as in tables.FAILURES."""

    def __init__(
        self, failure_kind: str, error: str, traceback: str = "", attempts: int = 1, peak_memory_bytes: int = 0
    ):
        super().__init__(error)
        self.failure_kind = failure_kind
        self.error = error
        self.traceback = traceback
        self.attempts = attempts
        self.peak_memory_bytes = peak_memory_bytes


class Suspended(Exception):
    """The child of a call was stopped by a signal (SIGSTOP), which is no failure of the call."""


class IsolatedProcess:
    """A child process that runs one call after the other, and the parent's end of the pipe to it."""

    def __init__(self, module: str):
        context: Any = multiprocessing.get_context(START_METHOD)  # typed as a context without Process
        if START_METHOD == "forkserver":  # it imports what the calls need once; a child is then there in 20 ms
            context.set_forkserver_preload([module])
        self.pipe, child_pipe = context.Pipe()
        with tempfile.NamedTemporaryFile(dir=get_scratch_folder(), suffix=".trace", delete=False) as notes:
            self.notes = notes.name
        self.worker = context.Process(target=serve_calls, args=(child_pipe, self.notes), daemon=True)
        with start_without_main():
            start_process(self.worker)
        child_pipe.close()
        self.n_calls = 0

    def call(self, function: Callable, args: tuple, timeout_s: float, memory_bytes: int) -> Any:
        """Value of function(*args); raises CallFailed, one of ENVIRONMENT_ERRORS, or Suspended."""
        self.n_calls += 1
        peak = 0
        try:
            self.pipe.send_bytes(pickle.dumps((function, args, timeout_s), pickle.HIGHEST_PROTOCOL))
            process = psutil.Process(self.worker.pid)
            if not self.pipe.poll(START_S):
                raise CallFailed(
                    "timeout", f"no process for it could be started within {START_S:g} s", self._read_notes()
                )
            self.pipe.recv()  # it has the call: from now on time is its own
            deadline = time.monotonic() + timeout_s + GRACE_S if timeout_s else float("inf")
            while not self.pipe.poll(MEMORY_INTERVAL_S):
                with contextlib.suppress(psutil.Error):
                    peak = max(peak, process.memory_info().rss)
                if memory_bytes and peak > memory_bytes:
                    message = f"it took {peak / 2**20:,.0f} MiB, over the limit of {memory_bytes / 2**20:,.0f} MiB"
                    raise CallFailed("memory", f"{message}: give the workers more memory", self._read_notes(), 1, peak)
                if time.monotonic() > deadline:
                    if process.status() == psutil.STATUS_STOPPED:
                        raise Suspended
                    message = f"it was not done after {timeout_s:g} s: raise run.timeout_s if it only is slow"
                    raise CallFailed("timeout", message, self._read_notes(), 1, peak)
            outcome, *answer = self.pipe.recv()
        except (EOFError, ConnectionError, psutil.NoSuchProcess):
            self.worker.join(5)
            raise CallFailed("crash", describe_exit(self.worker.exitcode), self._read_notes(), 1, peak) from None
        if outcome == "returned":
            return answer[0]
        if outcome in _ENVIRONMENT_ERROR_BY_NAME:
            raise _ENVIRONMENT_ERROR_BY_NAME[outcome](*answer)
        failure_kind, error, trace = answer
        raise CallFailed(failure_kind, error, trace, 1, peak)

    def _read_notes(self) -> str:
        with open(self.notes, encoding="utf-8", errors="replace") as notes:
            return notes.read()[-20_000:]

    def end(self) -> None:
        """Kill the process and remove its notes."""
        self.pipe.close()
        self.worker.kill()
        self.worker.join(5)
        with contextlib.suppress(OSError):
            os.unlink(self.notes)


_ENVIRONMENT_ERROR_BY_NAME = {error.__name__: error for error in ENVIRONMENT_ERRORS}


def start_process(process) -> None:
    """Start `process`; a fork server that was stopped (SIGSTOP) is replaced."""
    for is_last in (False, False, False, True):
        errors: list[BaseException] = []
        thread = threading.Thread(target=collect_start_error, args=(process, errors), daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(FORK_SERVER_INTERVAL_S)
            if thread.is_alive() and (server := find_fork_server()) is not None and is_stopped(server):
                server.kill()
        if not errors:
            return
        if is_last or not isinstance(errors[0], (EOFError, OSError)):
            raise errors[0]
        time.sleep(RESTART_PAUSE_S)


def collect_start_error(process, errors: list[BaseException]) -> None:
    try:
        process.start()
    except BaseException as error:
        errors.append(error)


def find_fork_server() -> psutil.Process | None:
    """The fork server of this process, if it has started one."""
    pid = multiprocessing.forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]  # has no public name
    try:
        return psutil.Process(pid) if pid else None
    except psutil.NoSuchProcess:
        return None


def is_stopped(process: psutil.Process) -> bool:
    """Whether a signal (SIGSTOP, Ctrl-Z) has stopped the process."""
    try:
        return process.status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False


def serve_calls(pipe, notes_path: str) -> None:
    """Main function of a child: run calls until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    with open(notes_path, "w") as notes:
        faulthandler.enable(notes)
        while True:
            try:
                packed = pipe.recv_bytes()
            except (EOFError, OSError):
                os._exit(0)
            pipe.send(answer_call(packed, notes, pipe))


def answer_call(packed: bytes, notes, pipe) -> tuple:
    is_started = False
    try:
        function, args, timeout_s = pickle.loads(packed)  # imports what it needs: that is no time of the call
        pipe.send("started")
        is_started = True
        if timeout_s:
            faulthandler.dump_traceback_later(timeout_s, file=notes)
        return ("returned", function(*args))
    except ENVIRONMENT_ERRORS as error:
        error_name = next(
            name for name, error_type in _ENVIRONMENT_ERROR_BY_NAME.items() if isinstance(error, error_type)
        )
        return (error_name, str(error))
    except Exception as error:
        return ("raised", classify_error(error), describe_error(error), "".join(traceback.format_exception(error)))
    finally:
        faulthandler.cancel_dump_traceback_later()
        if not is_started:
            pipe.send("failed to start")


def end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def classify_error(error: BaseException) -> str:
    """Kind of failure: memory or error."""
    return "memory" if isinstance(error, MemoryError) else "error"


def describe_error(error: BaseException) -> str:
    """An exception's type and text in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def describe_exit(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"its process ended with exit code {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    return f"its process was ended by {name}"
