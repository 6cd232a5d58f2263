"""One small executor: tasks from an iterator, here or on Dask workers, a bounded number of them in flight."""

import itertools
import resource
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from emqa_dask.run.supervise import describe

IN_PROCESS = "in-process"


@dataclass(frozen=True)
class Task:
    """A piece of work: `function(*args)` for the partition (or batch of files) `name`, of `n_images` images."""

    name: str
    args: tuple = ()
    n_images: int = 0


@dataclass(frozen=True)
class Result:
    """What became of a task: `value` (the function's record) or `error` and `traceback`, and its `event`."""

    task: Task
    outcome: str  # done, found or failed
    event: dict  # a row of tables.EVENTS
    value: dict = field(default_factory=dict)
    kind: str = ""  # of a failure, as in tables.FAILURES: error, memory or crash
    error: str = ""
    traceback: str = ""


def execute(
    function: Callable[..., dict | None],
    tasks: Iterable[Task],
    *,
    stage: str,
    client=None,
    tasks_per_worker: int = 3,
) -> Iterator[Result]:
    """Run `function(*task.args)` for every task and yield results as they come, in any order.

    `function` is a module-level function that writes its own results to storage and returns a small record: a dict, in
    which outcome ("done" if absent, "found" where its part was there), n_images and bytes go into the event. With
    `client` (a distributed Client) tasks run on its workers, at most `tasks_per_worker` of them (and at least one more
    than its threads) in flight per worker, and `tasks` is drawn only as room comes free; without, they run here, one
    after the other. An exception in a task, or a worker that dies of it, is a Result with outcome "failed", and the
    others go on. Stopping early (KeyboardInterrupt, or closing the iterator) cancels what is in flight.
    """
    if client is None:
        return (_run(function, task, stage) for task in tasks)
    return _on_workers(function, iter(tasks), stage, client, tasks_per_worker)


def _run(function: Callable, task: Task, stage: str) -> Result:
    """Run one task where we are; whatever it raises becomes text, since an exception may not survive pickling."""
    started, clock = time.time(), time.perf_counter()
    value, failure = {}, {}
    try:
        value = function(*task.args) or {}
        outcome = value.get("outcome", "done")
    except Exception as error:
        outcome = "failed"
        failure = {
            "kind": "memory" if isinstance(error, MemoryError) else "error",
            "error": describe(error),
            "traceback": "".join(traceback.format_exception(error)),
        }
    event = {
        "stage": stage,
        "partition": task.name,
        "worker": _worker(),
        "started": started,
        "seconds": time.perf_counter() - clock,
        "n_images": int(value.get("n_images", task.n_images)),
        "bytes": int(value.get("bytes", 0)),
        "peak_memory_bytes": peak_memory_bytes(),
        "attempt": 1,
        "outcome": outcome,
    }
    return Result(task, outcome, event, value, **failure)


def peak_memory_bytes() -> int:
    """Peak resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes on Linux


def _worker() -> str:
    distributed = sys.modules.get("distributed")
    try:
        return distributed.get_worker().address if distributed else IN_PROCESS
    except ValueError:  # not in a task of a worker
        return IN_PROCESS


def _on_workers(
    function: Callable, tasks: Iterator[Task], stage: str, client, tasks_per_worker: int
) -> Iterator[Result]:
    from distributed import as_completed

    # A key is an identity: with a token per run, an old result or error never comes back under it.
    token, numbers = uuid.uuid4().hex[:12], itertools.count()
    in_flight = {}
    completed = as_completed()

    def submit(n: int) -> None:
        for task in itertools.islice(tasks, max(n, 0)):
            future = client.submit(
                _run, function, task, stage, key=(f"{stage}-{token}", next(numbers), task.name), pure=False, retries=0
            )
            in_flight[future] = task
            completed.add(future)

    try:
        submit(window(client, tasks_per_worker))
        for future in completed:
            task = in_flight.pop(future)
            result = _collect(future, task, stage)
            future.release()
            submit(window(client, tasks_per_worker) - len(in_flight))
            yield result
    finally:
        if in_flight and client.status == "running":
            client.cancel(list(in_flight), force=True)


def window(client, tasks_per_worker: int) -> int:
    """Tasks that may be in flight on the workers that are there now: never fewer than one."""
    threads = client.nthreads().values()
    return max(1, sum(max(tasks_per_worker, n + 1) for n in threads))


def _collect(future, task: Task, stage: str) -> Result:
    """The result of a finished future; a worker that died of the task (KilledWorker) is a failed one, too.

    Here bisecting a partition, quarantine and time-outs will hook in: all they need is this Result.
    """
    try:
        return future.result()
    except Exception as error:
        event = {
            "stage": stage,
            "partition": task.name,
            "worker": "",
            "started": time.time(),
            "seconds": 0.0,
            "n_images": task.n_images,
            "bytes": 0,
            "peak_memory_bytes": 0,
            "attempt": getattr(error, "allowed_failures", 0) + 1,
            "outcome": "failed",
        }
        died = type(error).__name__ == "KilledWorker"
        reason = f"the worker process died of it {event['attempt']} times (a crash, or out of memory)"
        text = "".join(traceback.format_exception(error))
        said = f"KilledWorker: {reason}" if died else describe(error)
        return Result(task, "failed", event, kind="crash", error=said, traceback=text)
