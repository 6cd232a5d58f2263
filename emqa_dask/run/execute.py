"""One small executor: tasks from an iterator, here or on Dask workers, a bounded number of them in flight."""

import itertools
import pickle
import resource
import sys
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import psutil

from emqa_dask.backend import DeviceLost
from emqa_dask.run.supervise import Died, Supervised, describe, kind_of

IN_PROCESS = "in-process"
MAX_LOST = 5  # workers that one task may lose before it is given up; no image is blamed for that
REFRESH_S = 1.0  # between looks at how many workers there are


@dataclass(frozen=True)
class Task:
    """A piece of work: `function(*args, call=...)` for partition (or batch of files) `name`, of `n_images` images."""

    name: str
    args: tuple = ()
    n_images: int = 0


@dataclass(frozen=True)
class Limits:
    """What one call in a task may cost, see supervise.Supervised; 0 = no limit on time, the worker's own on memory."""

    timeout_s: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True)
class Result:
    """What became of a task: `value` (the function's record) or `error` and `traceback`, and its `event`."""

    task: Task
    outcome: str  # done, found, failed, or lost: its worker went away, and the task is given to another
    event: dict  # a row of tables.EVENTS
    value: dict = field(default_factory=dict)
    kind: str = ""  # of a failure, as in tables.FAILURES: error, memory or crash
    error: str = ""
    traceback: str = ""


@dataclass(frozen=True)
class _Attempt:
    task: Task
    number: int = 1
    is_isolated: bool = False


def execute(
    function: Callable[..., dict | None],
    tasks: Iterable[Task],
    *,
    stage: str,
    client=None,
    tasks_per_worker: int = 3,
    limits: Limits = Limits(),
    resources: dict[str, float] | None = None,
    bundle: int = 1,
) -> Iterator[Result]:
    """Run `function(*task.args, call=call)` for every task and yield results as they come, in any order.

    `function` is a module-level function that writes its own results to storage and returns a small record: a dict, in
    which outcome ("done" if absent, "found" where its part was there), n_images and bytes go into the event. It makes
    what a bad image could break by way of `call(function, *args, label=uri)`, see supervise. With `client` (a
    distributed Client) tasks run on its workers, at most `tasks_per_worker` of them (and at least one more than its
    threads) in flight per worker, and `tasks` is drawn only as room comes free; without, they run here, one after the
    other. An exception in a task is a Result with outcome "failed", and the others go on. `bundle` of them travel to a
    worker together: each costs Dask's scheduler 2 ms, whatever it does, and a million images should not wait for that.

    A worker that is lost gives a Result "lost" for each of its tasks, and these are run again with their calls isolated
    in child processes: whether one of them was guilty or the node was preempted need not be known, since a guilty image
    now ends its child and is named by it. That costs no image anything; only after MAX_LOST workers a task has failed.
    Stopping early (KeyboardInterrupt, or closing the iterator) cancels what is in flight. A scheduler that is lost
    raises RuntimeError.
    """
    if client is None:
        return (_run(function, _Attempt(task), stage, limits) for task in tasks)
    return _on_workers(function, iter(tasks), stage, client, tasks_per_worker, limits, resources, bundle)


def _unpack_and_run(packed: bytes) -> list[Result]:
    """_run() on a worker, one after the other; what the driver has, tasks with their arguments, does not travel back.

    Once the GPU is lost, the rest is lost, too.
    """
    function, attempts, stage, limits = pickle.loads(packed)
    results: list[Result] = []
    for attempt in attempts:
        if results and results[-1].kind == "device":
            event = results[-1].event | {"partition": attempt.task.name, "seconds": 0.0, "attempt": attempt.number}
            results.append(replace(results[-1], event=event))
        else:
            results.append(replace(_run(function, attempt, stage, limits), task=None))
    return results


def _run(function: Callable, attempt: _Attempt, stage: str, limits: Limits) -> Result:
    """Run one task where we are; whatever it raises becomes text, since an exception may not survive pickling."""
    started, clock = time.time(), time.perf_counter()
    task, value, failure = attempt.task, {}, {}
    worker = _worker()
    call = Supervised(
        limits.timeout_s,
        limits.memory_bytes or _memory_bytes(worker),
        is_isolated=attempt.is_isolated,
        may_exit=worker is not None,
    )
    try:
        with call:
            value = function(*task.args, call=call) or {}
        outcome = value.get("outcome", "done")
    except DeviceLost as error:
        outcome, failure = "lost", {"kind": "device", "error": describe(error)}
    except Exception as error:
        outcome = "failed"
        text = "".join(traceback.format_exception(error))
        failure = {"kind": kind_of(error), "error": describe(error), "traceback": text}
        if isinstance(error, Died):  # of a call that the function cannot do without
            failure = {"kind": error.kind, "error": error.error, "traceback": error.traceback}
    event = {
        "stage": stage,
        "partition": task.name,
        "worker": worker.address if worker else IN_PROCESS,
        "started": started,
        "seconds": time.perf_counter() - clock,
        "n_images": 0 if outcome == "lost" else int(value.get("n_images", task.n_images)),
        "bytes": int(value.get("bytes", 0)),
        "peak_memory_bytes": peak_memory_bytes(),
        "attempt": attempt.number,
        "outcome": outcome,
    }
    return Result(task, outcome, event, value, **failure)


def peak_memory_bytes() -> int:
    """Peak resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes on Linux


def _worker():
    """The Dask worker that runs this, or None."""
    distributed = sys.modules.get("distributed")
    try:
        return distributed.get_worker() if distributed else None
    except ValueError:  # not in a task of a worker
        return None


def where_am_i() -> str:
    """The address of the Dask worker that runs this, or in-process."""
    worker = _worker()
    return worker.address if worker else IN_PROCESS


def _memory_bytes(worker) -> int:
    """What a child of this worker may take: the worker's share, less what the worker itself holds."""
    share = worker.memory_manager.memory_limit if worker else psutil.virtual_memory().total
    return max(int(share) - psutil.Process().memory_info().rss, int(share) // 2) if share else 0


def _on_workers(
    function: Callable,
    tasks: Iterator[Task],
    stage: str,
    client,
    tasks_per_worker: int,
    limits: Limits,
    resources: dict[str, float] | None,
    bundle: int,
) -> Iterator[Result]:
    from distributed import as_completed

    # A key is an identity: with a token per run, an old result or error never comes back under it.
    token, numbers = uuid.uuid4().hex[:12], itertools.count()
    in_flight: dict = {}
    again: deque[_Attempt] = deque()
    completed = as_completed()
    room = _Room(client, tasks_per_worker)

    def submit() -> None:
        while len(in_flight) < room():
            attempts = [again.popleft()] if again else list(itertools.islice(fresh, bundle))
            if not attempts:
                return
            key = (f"{stage}-{token}", next(numbers), attempts[0].task.name)
            # As bytes: the scheduler would unpickle anything else on its way to the worker.
            packed = pickle.dumps((function, attempts, stage, limits), pickle.HIGHEST_PROTOCOL)
            future = client.submit(_unpack_and_run, packed, key=key, pure=False, retries=0, resources=resources)
            in_flight[future] = attempts
            completed.add(future)

    fresh = map(_Attempt, tasks)
    try:
        submit()
        for batch in completed.batches():
            finished = [future for future in batch if future.status == "finished"]
            try:
                values = dict(zip(finished, client.gather(finished), strict=True))
            except Exception:  # one of them was lost meanwhile: each is asked for by itself
                values = {}
            results = []
            for future in batch:
                attempts = in_flight.pop(future)
                found = values.get(future) or _collect(future, attempts, stage, client)
                future.release()
                for attempt, result in zip(attempts, found, strict=True):
                    if result.outcome == "lost":
                        again.append(replace(attempt, number=attempt.number + 1, is_isolated=result.kind != "device"))
                    results.append(replace(result, task=attempt.task))
                if found[-1].kind == "device":
                    client.restart_workers([found[-1].event["worker"]], raise_for_error=False)
            submit()
            yield from results
    finally:
        if in_flight and client.status == "running":
            client.cancel(list(in_flight), force=True)


class _Room:
    """room() tasks may be in flight on the workers that are there: never fewer than one; asked anew once a second."""

    def __init__(self, client, tasks_per_worker: int):
        self.client, self.tasks_per_worker = client, tasks_per_worker
        self.asked, self.n = float("-inf"), 1

    def __call__(self) -> int:
        if time.monotonic() - self.asked > REFRESH_S:
            self.n, self.asked = window(self.client, self.tasks_per_worker), time.monotonic()
        return self.n


def window(client, tasks_per_worker: int) -> int:
    """Tasks that may be in flight on the workers that are there now: never fewer than one."""
    threads = client.nthreads().values()
    return max(1, sum(max(tasks_per_worker, n + 1) for n in threads))


def _collect(future, attempts: list[_Attempt], stage: str, client) -> list[Result]:
    """The results of a finished future; of one whose worker died, Results that say so."""
    try:
        return future.result()
    except Exception as error:
        name = type(error).__name__
        if name in ("FutureCancelledError", "CancelledError"):
            raise RuntimeError(
                f"the Dask scheduler at {client.scheduler.address} was lost; what is finished is kept, so start it and "
                "run the same command again"
            ) from error
        return [_lost(attempt, error, stage) for attempt in attempts]


def _lost(attempt: _Attempt, error: Exception, stage: str) -> Result:
    """What is to be said of an attempt whose worker died, or whose record could not be sent."""
    outcome, kind, said = "failed", "error", describe(error)
    if type(error).__name__ == "KilledWorker":
        outcome = "lost" if attempt.number < MAX_LOST else "failed"
        kind, said = "crash", f"its worker process was lost {attempt.number} times"
    event = {
        "stage": stage,
        "partition": attempt.task.name,
        "worker": str(getattr(getattr(error, "last_worker", None), "address", "")),
        "started": time.time(),
        "seconds": 0.0,
        "n_images": 0 if outcome == "lost" else attempt.task.n_images,
        "bytes": 0,
        "peak_memory_bytes": 0,
        "attempt": attempt.number,
        "outcome": outcome,
    }
    text = "".join(traceback.format_exception(error))
    return Result(attempt.task, outcome, event, kind=kind, error=said, traceback=text)
