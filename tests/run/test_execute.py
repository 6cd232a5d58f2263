"""Laws of the executor: here or on workers the same records, a bounded window, a lazy iterator, failures as records."""

import contextlib
import ctypes
import itertools
import os
import subprocess
import sys
import threading
import time
from collections import deque

import pytest
from distributed import LocalCluster

from emqa_dask import tables
from emqa_dask.run.devices import share_gpu
from emqa_dask.run.execute import MAX_WORKER_LOSSES, Limits, Task, _Dispatch, count_task_capacity, execute
from emqa_dask.run.supervise import CallFailed
from emqa_dask.settings import Run

CALLS = itertools.count()


def square(x, call):
    return {"square": x * x, "n_images": 2, "bytes": 10 * x}


def stubborn(x, call):
    if x % 3 == 1:
        raise ValueError(f"{x} is\nbad")
    return {"outcome": "found"} if x % 3 == 2 else None


def slow(x, seconds, call):
    time.sleep(seconds)
    return {"x": x}


def exit_at_two(x):
    if x == 2:
        os._exit(1)
    return x


def one_of_its_calls_dies(x, call):
    lost = []
    for y in (x, 10 * x, 2 if x == 4 else 0):
        try:
            call(exit_at_two, y)
        except CallFailed as died:
            lost.append((y, died.failure_kind, died.error))
    return {"lost": lost, "n_images": 3}


def die(x, call):
    exit_at_two(x)


def lose_the_gpu_once(x, marker, call):
    def fail_once():
        with contextlib.suppress(FileExistsError), open(marker, "x") as file:
            file.write(str(os.getpid()))
            raise RuntimeError("CUDA error: an illegal memory access was encountered (cudaErrorIllegalAddress)")

    if x == 2:
        call(fail_once)
    return {"pid": os.getpid()}


def sleep_long():
    ctypes.PyDLL(None).sleep(60)  # holds the GIL: no thread of this process can do anything about it


def stand_still(call):
    try:
        call(sleep_long)
    except CallFailed as died:
        return {"kind": died.failure_kind, "traceback": died.traceback}


class Stubborn(Exception):
    def __reduce__(self):
        raise TypeError("cannot be pickled")


def unpicklable_error(call):
    raise Stubborn("really")


def unpicklable_record(call):
    return {"lock": threading.Lock()}


def hungry(call):
    raise MemoryError


def count(call):
    return {"call": next(CALLS), "pid": os.getpid()}


def tasks(n, n_images=1):
    return [Task(f"p{i}", (i,), n_images) for i in range(n)]


def said(results):
    """What must not depend on where a task ran, sorted by task."""
    kept = ("stage", "partition", "n_images", "bytes", "attempt", "outcome")
    rows = [(r.task, r.outcome, r.value, r.failure_kind, r.error, {k: r.event[k] for k in kept}) for r in results]
    return sorted(rows, key=lambda row: row[0].name)


@pytest.fixture(params=["in-process", pytest.param("workers", marks=pytest.mark.real)])
def place(request):
    return None if request.param == "in-process" else request.getfixturevalue("client")


def test_every_task_gives_one_result_and_a_whole_event(place):
    before = time.time()
    results = list(execute(square, tasks(7), stage="detect", client=place))
    assert [r.value["square"] for r in sorted(results, key=lambda r: r.task.name)] == [i * i for i in range(7)]
    events = tables.conform([r.event for r in results], tables.EVENTS).to_pandas()
    assert set(events["stage"]) == {"detect"}
    assert sorted(events["partition"]) == [f"p{i}" for i in range(7)]
    assert set(events["outcome"]) == {"done"}
    assert set(events["attempt"]) == {1}
    assert sorted(events["bytes"]) == [10 * i for i in range(7)]
    assert set(events["n_images"]) == {2}
    assert events["started"].between(before, time.time()).all()
    assert events["seconds"].between(0, 60).all()
    assert events["peak_memory_bytes"].between(10 * 2**20, 100 * 2**30).all()
    assert not events.drop(columns="gpu_percent").isna().any().any()
    assert events["gpu_percent"].isna().all()  # of tasks without a GPU
    assert set(events["worker"]) <= ({"in-process"} if place is None else set(place.nthreads()))


@pytest.mark.real
@pytest.mark.parametrize("function", [square, stubborn])
def test_here_and_on_workers_the_results_are_the_same(client, function):
    here = said(execute(function, tasks(9), stage="s"))
    assert here == said(execute(function, tasks(9), stage="s", client=client))
    assert len(here) == 9


def test_a_failing_task_is_a_record_and_others_continue(place):
    results = {r.task.name: r for r in execute(stubborn, tasks(6, 5), stage="s", client=place)}
    assert {name: r.outcome for name, r in results.items()} == {
        "p0": "done",
        "p1": "failed",
        "p2": "found",
        "p3": "done",
        "p4": "failed",
        "p5": "found",
    }
    failed = results["p4"]
    assert (failed.failure_kind, failed.error, failed.value) == ("error", "ValueError: 4 is bad", {})
    assert 'raise ValueError(f"{x} is\\nbad")' in failed.traceback
    assert failed.event["outcome"] == "failed"
    assert failed.event["n_images"] == 5


def test_unpicklable_exceptions_and_exceeded_memory_are_records(place):
    (result,) = execute(unpicklable_error, [Task("a")], stage="s", client=place)
    assert (result.failure_kind, result.error) == ("error", "Stubborn: really")
    (result,) = execute(hungry, [Task("a")], stage="s", client=place)
    assert (result.failure_kind, result.error) == ("memory", "MemoryError")


def test_nothing_to_do_is_nothing(place):
    assert list(execute(square, [], stage="s", client=place)) == []


def test_in_process_runs_take_one_task_at_a_time():
    drawn = []
    source = (drawn.append(i) or Task(str(i), (i,)) for i in itertools.count())
    for n, _ in enumerate(itertools.islice(execute(square, source, stage="s"), 5)):
        assert len(drawn) == n + 1


@pytest.mark.real
@pytest.mark.parametrize(("per_worker", "expected"), [(1, 4), (3, 6)])
def test_no_more_than_a_window_of_tasks_is_in_flight(client, per_worker, expected):
    assert (
        count_task_capacity(client, per_worker) == expected
    )  # two workers of one thread each: at least two tasks for each
    drawn = 0
    finished = 0
    most = 0

    def source():
        nonlocal drawn, most
        for i in range(40):
            drawn += 1
            most = max(most, drawn - finished)
            yield Task(str(i), (i, 0.005))

    for _ in execute(slow, source(), stage="s", client=client, tasks_per_worker=per_worker):
        finished += 1
        assert drawn <= finished + 2 * expected  # what finished together is handed out one after the other
    assert (drawn, finished) == (40, 40)
    assert most <= 2 * expected


@pytest.mark.real
def test_a_task_is_never_answered_from_an_earlier_run(client):
    """A Dask key is an identity: without a token per run the first run's result would come back."""
    calls = []
    for _ in range(2):
        results = list(execute(count, [Task("same"), Task("same")], stage="s", client=client))
        calls += [(r.value["pid"], r.value["call"]) for r in results]
    assert len(set(calls)) == 4


@pytest.mark.real
def test_stopping_early_cancels_what_is_in_flight(client):
    results = execute(slow, (Task(str(i), (i, 0.05)) for i in itertools.count()), stage="early", client=client)
    next(results)
    results.close()
    deadline = time.monotonic() + 20
    while any(client.processing().values()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert client.futures == {}


@pytest.mark.real
def test_a_record_that_cannot_be_pickled_is_a_failure(client):
    (result,) = execute(unpicklable_record, [Task("a")], stage="s", client=client)
    assert result.outcome == "failed"
    assert "pickle" in result.error


@pytest.mark.real
def test_a_task_that_kills_workers_is_isolated(client):
    results = list(execute(one_of_its_calls_dies, tasks(6, 3), stage="s", client=client))
    final = {r.task.name: r for r in results if r.outcome != "lost"}
    assert len(final) == len(results) - sum(r.outcome == "lost" for r in results) == 6
    assert {r.outcome for r in final.values()} == {"done"}
    dead = [(2, "crash", "its process ended with exit code 1")]
    assert {name: r.value["lost"] for name, r in final.items() if r.value["lost"]} == {"p2": dead, "p4": dead}
    events = tables.conform([r.event for r in results], tables.EVENTS).to_pandas()
    lost = events[events["outcome"] == "lost"]
    assert {"p2", "p4"} <= set(lost["partition"])
    assert set(lost["n_images"]) == {0}
    assert events["n_images"].sum() == 18
    assert len(events) <= 6 + 2 * 4  # a worker that dies takes at most the tasks in its window along
    client.wait_for_workers(2)


@pytest.mark.real
def test_bundled_tasks_give_equal_results_and_isolate_failures(client, monkeypatch):
    monkeypatch.setattr(_Dispatch, "choose_bundle", lambda dispatch: 2)
    plain = said(execute(stubborn, tasks(11), stage="s"))
    assert plain == said(execute(stubborn, tasks(11), stage="s", client=client))
    results = list(execute(one_of_its_calls_dies, tasks(6, 3), stage="s", client=client))
    final = {r.task.name: r for r in results if r.outcome != "lost"}
    assert {name for name, r in final.items() if r.value["lost"]} == {"p2", "p4"}
    assert sum(r.event["n_images"] for r in results) == 18
    client.wait_for_workers(2)


@pytest.mark.parametrize(
    ("latest_s", "n_submitted", "expected"),
    [
        ([], 10**6, 1),
        ([0.01] * 20, 10**6, 64),
        ([0.0], 10**6, 64),
        ([30.0] * 3 + [0.5] * 13, 10**6, 10),
        ([2.0], 10**6, 2),
        ([9.0], 10**6, 1),
        ([0.01] * 20, 40, 1),
        ([0.01] * 20, 480, 10),
    ],
)
def test_bundles_have_as_many_tasks_as_take_seconds(latest_s, n_submitted, expected):
    dispatch = object.__new__(_Dispatch)
    dispatch.count_capacity = lambda: 6
    dispatch.n_submitted = n_submitted
    dispatch.latest_s = deque(latest_s, maxlen=16)
    assert dispatch.choose_bundle() == expected


@pytest.mark.real
def test_a_lost_gpu_restarts_its_worker_and_repeats_tasks(client, tmp_path, monkeypatch):
    monkeypatch.setattr(_Dispatch, "choose_bundle", lambda dispatch: 2)
    todo = [Task(f"p{i}", (i, str(tmp_path / "lost"))) for i in range(6)]
    results = list(execute(lose_the_gpu_once, todo, stage="s", client=client))
    final = {r.task.name: r for r in results if r.outcome != "lost"}
    assert {r.outcome for r in final.values()} == {"done"}
    assert len(final) == 6
    lost = [r for r in results if r.outcome == "lost"]
    assert {"p2", "p3"} <= {r.task.name for r in lost}
    pids = {name: r.value["pid"] for name, r in final.items()}
    assert int((tmp_path / "lost").read_text()) not in (pids["p2"], pids["p3"])
    client.wait_for_workers(2)


def lose_the_gpu_together(x, folder, n, call):
    """As many tasks as a worker has threads run at once; its GPU is lost to all of them, in one process."""
    is_first = not os.path.exists(f"{folder}/lost")
    open(f"{folder}/{x}", "w").close()
    deadline = time.monotonic() + 20
    while is_first and len(os.listdir(folder)) < n and time.monotonic() < deadline:
        time.sleep(0.01)
    if is_first:
        time.sleep(0.2)  # all of them have looked
        open(f"{folder}/lost", "w").close()
        call(raise_illegal_address)
    return {"pid": os.getpid()}


def raise_illegal_address():
    raise RuntimeError("CUDA error: an illegal memory access was encountered (cudaErrorIllegalAddress)")


@pytest.mark.real
@pytest.mark.parametrize("n", [1, 3, 4])
def test_tasks_share_a_gpu_and_lose_it_together(n, tmp_path):
    resources = share_gpu(Run(device="cuda", gpu_threads=n))
    with (
        LocalCluster(n_workers=1, threads_per_worker=n, resources={"GPU": 1}, dashboard_address=None) as cluster,
        cluster.get_client() as client,
    ):
        todo = [Task(f"p{i}", (i, str(tmp_path), n)) for i in range(2 * n)]
        results = list(execute(lose_the_gpu_together, todo, stage="s", client=client, resources=resources))
    lost = [result for result in results if result.outcome == "lost"]
    assert {result.failure_kind for result in lost} <= {"device", "crash"}
    assert len({result.event["worker"] for result in lost if result.failure_kind == "device"}) == 1
    assert sum(result.failure_kind == "device" for result in lost) >= 1
    final = [result for result in results if result.outcome != "lost"]
    assert sorted(result.task.name for result in final) == sorted(task.name for task in todo)
    assert {result.outcome for result in final} == {"done"}


@pytest.mark.real
def test_a_task_that_always_loses_its_worker_is_abandoned(client):
    results = list(execute(die, tasks(5), stage="s", client=client))
    final = {r.task.name: r for r in results if r.outcome != "lost"}
    assert {name for name, r in final.items() if r.outcome == "done"} == {"p0", "p1", "p3", "p4"}
    dead = final["p2"]
    assert (dead.outcome, dead.failure_kind, dead.event["attempt"]) == ("failed", "crash", MAX_WORKER_LOSSES)
    assert dead.error == f"its worker process was lost {MAX_WORKER_LOSSES} times"
    client.wait_for_workers(2)


@pytest.mark.real
def test_a_call_that_stands_still_is_ended_with_its_traceback(client):
    (*lost, result) = execute(stand_still, [Task("a", (), 1)], stage="s", client=client, limits=Limits(timeout_s=1.0))
    assert [r.outcome for r in lost] == ["lost"]
    assert result.value["kind"] == "timeout"
    assert "in sleep_long" in result.value["traceback"]
    client.wait_for_workers(2)


def test_in_process_dask_is_not_even_imported():
    program = (
        "import sys; from emqa_dask.run.execute import Task, execute; from emqa_dask.run import cluster, progress\n"
        "from emqa_dask.settings import Settings, replace\n"
        "with cluster.open_cluster(replace(Settings(), {'run': {'scheduler': 'in-process'}})) as client:\n"
        "    assert client is None and [r.value for r in execute(lambda call: {}, [Task('a')], stage='s')] == [{}]\n"
        "assert not {'dask', 'distributed'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
