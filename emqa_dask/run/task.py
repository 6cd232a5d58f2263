"""Tasks, their results, and the function that runs a task in a Dask worker or in this process."""

import math
import pickle
import resource
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import psutil

from emqa_dask.backend import DeviceLost
from emqa_dask.run.gpu_utilisation import GpuUtilisation
from emqa_dask.run.supervise import CallFailed, Supervised, classify_error, describe_error

IN_PROCESS = "in-process"


@dataclass(frozen=True)
class Task:
    """A piece of work: `function(*args, call=...)` for partition (or batch of files) `name`, of `n_images` images."""

    name: str
    args: tuple = ()
    n_images: int = 0


@dataclass(frozen=True)
class Limits:
    """Limits of one call in a task; 0 = no limit on time, the worker's own limit on memory."""

    timeout_s: float = 0.0
    memory_bytes: int = 0


NO_LIMITS = Limits()


@dataclass(frozen=True)
class Result:
    """Result of a task: `value` (the function's record) or `error` and `traceback`, and its `event`."""

    task: Task
    outcome: str  # done, found, failed, or lost: its worker went away, and the task is given to another
    event: dict  # a row of tables.EVENTS
    value: dict = field(default_factory=dict)
    failure_kind: str = ""  # of a failure, as in tables.FAILURES: error, memory or crash
    error: str = ""
    traceback: str = ""


@dataclass(frozen=True)
class Attempt:
    """The `number`-th attempt at a task; `is_isolated` once the task has lost a worker."""

    task: Task
    number: int = 1
    is_isolated: bool = False
    has_gpu: bool = False  # and may use it, so that its utilisation is measured


def run_packed_attempts(packed: bytes) -> list[Result]:
    """Results of run_task() on a worker; their tasks, which the driver has, are left out.

    Once the GPU is lost, the rest is lost, too.
    """
    call = pickle.loads(packed)
    function, attempts = call[:2]
    stage, limits = call[2:]
    results: list[Result] = []
    for attempt in attempts:
        if results and results[-1].failure_kind == "device":
            event = results[-1].event | {"partition": attempt.task.name, "seconds": 0.0, "attempt": attempt.number}
            results.append(replace(results[-1], event=event))
        else:
            results.append(replace(run_task(function, attempt, stage, limits), task=None))
    return results


def run_task(function: Callable, attempt: Attempt, stage: str, limits: Limits) -> Result:
    """Result of one task in this process. An exception becomes text, since it may not survive pickling."""
    started = time.time()
    clock_start = time.perf_counter()
    task = attempt.task
    value = {}
    failure = {}
    worker = get_dask_worker()
    utilisation = GpuUtilisation(attempt.has_gpu)
    call = Supervised(
        limits.timeout_s,
        limits.memory_bytes or compute_memory_limit_bytes(worker),
        is_isolated=attempt.is_isolated,
        may_exit=worker is not None,
    )
    try:
        with call, utilisation:
            value = function(*task.args, call=call) or {}
        outcome = value.get("outcome", "done")
    except DeviceLost as error:
        outcome = "lost"
        failure = {"failure_kind": "device", "error": describe_error(error)}
    except Exception as error:
        outcome = "failed"
        text = "".join(traceback.format_exception(error))
        failure = {"failure_kind": classify_error(error), "error": describe_error(error), "traceback": text}
        if isinstance(error, CallFailed):  # of a call that the function cannot do without
            failure = {"failure_kind": error.failure_kind, "error": error.error, "traceback": error.traceback}
    task_event = make_event(
        attempt,
        stage,
        outcome,
        n_images=int(value.get("n_images", task.n_images)),
        bytes=int(value.get("bytes", 0)),
        worker=get_worker_address(),
        started=started,
        seconds=time.perf_counter() - clock_start,
        peak_memory_bytes=measure_peak_memory_bytes(),
        gpu_percent=utilisation.compute_mean(),
    )
    return Result(task, outcome, task_event, value, **failure)


def make_event(attempt: Attempt, stage: str, outcome: str, **columns) -> dict:
    """Row of tables.EVENTS for an attempt, without images where it was lost.

    Columns that are not given are zero, or NaN for unknown.
    """
    row = {"stage": stage, "partition": attempt.task.name, "worker": "", "started": time.time(), "seconds": 0.0}
    row |= {"n_images": attempt.task.n_images, "bytes": 0, "peak_memory_bytes": 0, "gpu_percent": math.nan} | columns
    row |= {"attempt": attempt.number, "outcome": outcome}
    return row | ({"n_images": 0} if outcome == "lost" else {})


def measure_peak_memory_bytes() -> int:
    """Peak resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes on Linux


def get_dask_worker():
    """The Dask worker that runs this code, or None."""
    distributed = sys.modules.get("distributed")
    try:
        return distributed.get_worker() if distributed else None
    except ValueError:  # not in a task of a worker
        return None


def get_worker_address() -> str:
    """Address of the Dask worker that runs this code, or in-process."""
    worker = get_dask_worker()
    return worker.address if worker else IN_PROCESS


def compute_memory_limit_bytes(worker) -> int:
    """Memory for a child of this worker: the worker's share without what the worker itself uses."""
    worker_bytes = worker.memory_manager.memory_limit if worker else psutil.virtual_memory().total
    return max(int(worker_bytes) - psutil.Process().memory_info().rss, int(worker_bytes) // 2) if worker_bytes else 0
