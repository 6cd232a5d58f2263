"""Laws of a lost scheduler: whatever the driver waits for, it ends soon, and says which scheduler and what to do."""

import contextlib
import os
import signal
import threading
import time

import pytest

from emqa_dask.run import connection, remote
from emqa_dask.run.cluster import open_cluster
from emqa_dask.run.execute import Task, execute
from tests.run.test_remote import remotely, scheduler, started, worker

pytestmark = pytest.mark.real
BLOWS = [signal.SIGKILL, signal.SIGSTOP]
LOST = r"the Dask scheduler at tcp://127\.0\.0\.1:\d+ was lost \(.*\); what is finished is kept, so start it and run"


def slow(seconds, call):
    time.sleep(seconds)
    return {}


def sleep(seconds):
    time.sleep(seconds)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(connection, "HEARTBEAT_S", 0.2)
    monkeypatch.setattr(connection, "ANSWER_S", 2.0)
    monkeypatch.setattr(connection, "CLOSE_S", 1.0)
    monkeypatch.setattr(remote, "CONNECT_S", 3.0)


@contextlib.contextmanager
def cluster(folder, n_workers=1):
    """The file of a scheduler of our own, and the process that it is."""
    path = folder / "scheduler.json"
    with started(scheduler(path), *([worker(path)] * n_workers)) as running:
        try:
            yield f"file:{path}", running[0]
        finally:
            running[0].kill()


def later(process, blow, after_s=1.0):
    timer = threading.Timer(after_s, process.send_signal, (blow,))
    timer.start()
    return timer


def run_tasks(client, strike):
    for _ in execute(slow, (Task(str(n), (0.1,)) for n in range(10_000)), stage="s", client=client):
        strike()


def run_on_workers(client, strike):
    strike()
    client.run(sleep, 100)


def ask_until_it_fails(client, strike):
    strike()
    while True:
        client.nthreads()
        client.submit(abs, -1, pure=False).result()


@pytest.mark.parametrize("blow", BLOWS)
@pytest.mark.parametrize("work", [run_tasks, run_on_workers, ask_until_it_fails])
def test_a_lost_scheduler_ends_the_run_and_is_named(tmp_path, blow, work):
    with cluster(tmp_path) as (where, process):
        timers = []

        def strike():
            if not timers:
                timers.append(later(process, blow))

        with pytest.raises(RuntimeError, match=LOST), open_cluster(remotely(where), say=lambda text: None) as client:
            work(client, strike)


@pytest.mark.parametrize("blow", BLOWS)
def test_a_scheduler_that_is_lost_without_workers_is_named(tmp_path, blow):
    with cluster(tmp_path, n_workers=0) as (where, process), pytest.raises(RuntimeError, match=LOST):
        open_cluster(remotely(where), say=lambda text: "worker" in text and later(process, blow)).__enter__()


@pytest.mark.parametrize("blow", BLOWS)
def test_work_that_is_done_is_not_lost_with_the_scheduler(tmp_path, blow):
    with (
        cluster(tmp_path) as (where, process),
        open_cluster(remotely(where), say=lambda text: None) as client,
    ):
        assert len(list(execute(slow, [Task("a", (0.0,))], stage="s", client=client))) == 1
        process.send_signal(blow)


def test_a_silent_scheduler_is_an_error_with_remedy(tmp_path):
    with cluster(tmp_path) as (where, process):
        with open_cluster(remotely(where), say=lambda text: None):
            pass
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(RuntimeError, match=r"no Dask scheduler answers at tcp.*is it running"):
            open_cluster(remotely(where)).__enter__()


def test_other_errors_are_not_the_schedulers(tmp_path):
    with (
        cluster(tmp_path) as (where, _),
        pytest.raises(OSError, match="a disk"),
        open_cluster(remotely(where), say=lambda text: None),
    ):
        raise OSError("a disk")


def test_a_scheduler_that_pauses_is_not_lost(tmp_path):
    with cluster(tmp_path) as (where, process), open_cluster(remotely(where), say=lambda text: None) as client:
        process.send_signal(signal.SIGSTOP)
        later(process, signal.SIGCONT)
        assert len(list(execute(slow, [Task("a", (0.0,))], stage="s", client=client))) == 1


def test_a_worker_that_is_stopped_is_started_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "SILENT_S", 3.0)
    with cluster(tmp_path) as (where, _), open_cluster(remotely(where), say=lambda text: None) as client:
        (stopped,) = client.run(os.getpid).values()
        os.kill(stopped, signal.SIGSTOP)
        (result,) = [r for r in execute(slow, [Task("a", (0.0,))], stage="s", client=client) if r.outcome != "lost"]
        assert result.outcome == "done"
        assert list(client.run(os.getpid).values()) != [stopped]
