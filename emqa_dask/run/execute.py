"""Executor of tasks from an iterator, in this process or on Dask workers, with a bounded number in flight."""

import contextlib
import itertools
import pickle
import statistics
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from emqa_dask.run.supervise import describe_error
from emqa_dask.run.task import NO_LIMITS, Attempt, Limits, Result, Task, make_event, run_packed_attempts, run_task

MAX_WORKER_LOSSES = 5  # workers that one task may lose before it is given up; no image is blamed for that
SUSPECT_LOSSES = 2  # workers lost by a task, from which on it no longer shares one with another such task
WORKER_COUNT_INTERVAL_S = 1.0  # between looks at how many workers there are
BUNDLE_S = 5.0  # that a bundle should take at least: one costs Dask's scheduler 5 ms
MAX_BUNDLE = 64  # tasks in a bundle, at most
MIN_BUNDLE_WINDOWS = 8  # windows of such bundles that came before, so that all workers end at about the same time
N_TIMED = 16  # latest results, whose median time says how many tasks take that long


def execute(
    function: Callable[..., dict | None],
    tasks: Iterable[Task],
    *,
    stage: str,
    client=None,
    tasks_per_worker: int = 3,
    limits: Limits = NO_LIMITS,
    resources: dict[str, float] | None = None,
) -> Iterator[Result]:
    """Results of `function(*task.args, call=call)` for every task as they come, in any order.

    `function` is a module-level function that writes its own results to storage and returns a small record: a dict, in
    which outcome ("done" if absent, "found" where its part was there), n_images and bytes go into the event. It makes
    what a bad image could break by way of `call(function, *args, label=uri)`, see supervise. With `client` (a
    distributed Client) tasks run on its workers, at most `tasks_per_worker` of them (and at least one more than its
    threads) in flight per worker, and `tasks` is drawn only as room comes free; without, they run here, one after the
    other. An exception in a task is a Result with outcome "failed", and the others go on. Quick tasks travel to a
    worker together, as many as take BUNDLE_S: each bundle costs Dask's scheduler milliseconds, whatever is in it.

    A worker that is lost gives a Result "lost" for each of its tasks, and these are run again with their calls isolated
    in child processes: whether one of them was guilty or the node was preempted need not be known, since a guilty image
    now ends its child and is named by it. That costs no image anything; a task fails only
    after MAX_WORKER_LOSSES workers.
    Stopping early (KeyboardInterrupt, or closing the iterator) cancels what is in flight. Where the scheduler is lost,
    some exception of Dask is raised, of which run.connection makes one that says so.
    """
    if client is None:
        attempts = (Attempt(task, has_gpu=resources is not None) for task in tasks)
        return (run_task(function, attempt, stage, limits) for attempt in attempts)
    count_capacity = _TaskCapacity(client, tasks_per_worker)
    return _run_on_workers(_Dispatch(function, iter(tasks), stage, client, count_capacity, limits, resources))


@dataclass
class _Dispatch:
    """Attempts at the tasks of one stage: those in flight on workers, and those to be run again."""

    function: Callable
    tasks: Iterator[Task]
    stage: str
    client: Any
    count_capacity: "_TaskCapacity"
    limits: Limits
    resources: dict[str, float] | None

    def __post_init__(self) -> None:
        from distributed import as_completed

        self.completed = as_completed(loop=self.client.loop)
        self._token = uuid.uuid4().hex[:12]  # a key is an identity: an old result or error never comes back under it
        self._numbers = itertools.count()
        self._fresh = (Attempt(task, has_gpu=self.resources is not None) for task in self.tasks)
        self._lost_attempts: deque[Attempt] = deque()
        self._in_flight: dict[Any, list[Attempt]] = {}  # future -> its attempts
        self._restarted_workers: set[str] = set()  # addresses; a worker that comes back has another one
        self.latest_s: deque[float] = deque(maxlen=N_TIMED)
        self.n_submitted = 0  # tasks that were submitted

    def submit(self) -> None:
        """Submit attempts as long as there is room on the workers."""
        while len(self._in_flight) < self.count_capacity():
            attempts = take_lost_attempt(self._lost_attempts, self._in_flight.values())
            attempts = attempts or list(itertools.islice(self._fresh, self.choose_bundle()))
            if not attempts:
                return
            key = (f"{self.stage}-{self._token}", next(self._numbers), attempts[0].task.name)
            # As bytes: the scheduler would unpickle anything else on its way to the worker.
            packed = pickle.dumps((self.function, attempts, self.stage, self.limits), pickle.HIGHEST_PROTOCOL)
            future = self.client.submit(
                run_packed_attempts, packed, key=key, pure=False, retries=0, resources=self.resources
            )
            self._in_flight[future] = attempts
            self.n_submitted += len(attempts)
            self.completed.add(future)

    def choose_bundle(self) -> int:
        """Number of tasks in the next bundle; one before the first result."""
        if not self.latest_s:
            return 1
        n_quick = int(BUNDLE_S / max(statistics.median(self.latest_s), BUNDLE_S / MAX_BUNDLE))
        return max(1, min(n_quick, self.n_submitted // (MIN_BUNDLE_WINDOWS * self.count_capacity())))

    def collect(self, futures: list) -> list[Result]:
        """Results of completed futures; attempts that were lost are put aside to be run again."""
        finished = [future for future in futures if future.status == "finished"]
        try:
            values = dict(zip(finished, self.client.gather(finished), strict=True))
        except Exception:  # one of them was lost meanwhile: each is asked for by itself
            values = {}
        results = []
        for future in futures:
            attempts = self._in_flight.pop(future)
            attempt_results = values.get(future) or collect_future(future, attempts, self.stage, self.client)
            future.release()
            for attempt, result in zip(attempts, attempt_results, strict=True):
                if result.outcome == "lost":
                    is_isolated = result.failure_kind != "device"
                    self._lost_attempts.append(replace(attempt, number=attempt.number + 1, is_isolated=is_isolated))
                self.latest_s.append(result.event["seconds"])
                results.append(replace(result, task=attempt.task))
            if attempt_results[-1].failure_kind == "device":
                self._restart_worker(attempt_results[-1].event["worker"])
        return results

    def _restart_worker(self, address: str) -> None:
        """Restart the worker whose GPU is lost, once: every task that ran there says so."""
        if address in self._restarted_workers:
            return
        self._restarted_workers.add(address)
        with contextlib.suppress(KeyError):  # of Dask, for a worker that has left by itself
            self.client.restart_workers([address], raise_for_error=False)

    def cancel(self) -> None:
        """Cancel what is in flight."""
        if self._in_flight and self.client.status == "running":
            with contextlib.suppress(Exception):  # of a scheduler that was just lost
                self.client.cancel(list(self._in_flight), force=True)


def _run_on_workers(dispatch: _Dispatch) -> Iterator[Result]:
    try:
        dispatch.submit()
        for futures in dispatch.completed.batches():
            results = dispatch.collect(futures)
            dispatch.submit()
            yield from results
    finally:
        dispatch.cancel()


def take_lost_attempt(lost_attempts: deque[Attempt], in_flight: Iterable[list[Attempt]]) -> list[Attempt]:
    """One of the lost attempts in `lost_attempts`, which is removed from it; none where all have to wait.

    Of those lost `SUSPECT_LOSSES` times only one is in flight at a time: else the last innocent ones could share
    every worker that the guilty one takes along.
    """
    for k, attempt in enumerate(lost_attempts):
        if attempt.number <= SUSPECT_LOSSES or not any(
            a.number > SUSPECT_LOSSES for others in in_flight for a in others
        ):
            del lost_attempts[k]
            return [attempt]
    return []


class _TaskCapacity:
    """Callable that returns how many tasks may be in flight, at least one; updated once a second."""

    def __init__(self, client, tasks_per_worker: int):
        self.client = client
        self.tasks_per_worker = tasks_per_worker
        self.updated_s = float("-inf")
        self.n_tasks = 1

    def __call__(self) -> int:
        if time.monotonic() - self.updated_s > WORKER_COUNT_INTERVAL_S:
            self.n_tasks = count_task_capacity(self.client, self.tasks_per_worker)
            self.updated_s = time.monotonic()
        return self.n_tasks


def count_task_capacity(client, tasks_per_worker: int) -> int:
    """Number of tasks that may be in flight on the present workers; at least one."""
    threads = client.nthreads().values()
    return max(1, sum(max(tasks_per_worker, n + 1) for n in threads))


def collect_future(future, attempts: list[Attempt], stage: str, client) -> list[Result]:
    """Results of a completed future; those of a lost worker have the outcome lost or failed."""
    try:
        return future.result()
    except Exception as error:
        is_cut_off = future.cancelled() or client.status != "running" or isinstance(error, OSError)
        if future.status != "error" and is_cut_off:  # nothing is known of its tasks: it is the scheduler that was lost
            raise
        return [make_lost_result(attempt, error, stage) for attempt in attempts]


def make_lost_result(attempt: Attempt, error: Exception, stage: str) -> Result:
    """Result of an attempt whose worker died, or whose record could not be sent."""
    outcome = "failed"
    failure_kind = "error"
    message = describe_error(error)
    if type(error).__name__ == "KilledWorker":
        outcome = "lost" if attempt.number < MAX_WORKER_LOSSES else "failed"
        failure_kind = "crash"
        message = f"its worker process was lost {attempt.number} times"
    worker = str(getattr(getattr(error, "last_worker", None), "address", ""))
    trace = "".join(traceback.format_exception(error))
    lost_event = make_event(attempt, stage, outcome, worker=worker)
    return Result(attempt.task, outcome, lost_event, failure_kind=failure_kind, error=message, traceback=trace)
