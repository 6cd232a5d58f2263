"""Laws of schedulers that others have started: they are found, waited for, made fit, and left as they were."""

import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest
from distributed import LocalCluster

from emqa_dask.run import remote
from emqa_dask.run.cluster import open_cluster
from emqa_dask.run.workers import WORKER_VARIABLES
from emqa_dask.settings import Run, Settings


def remotely(scheduler: str, **run) -> Settings:
    return Settings(run=Run(scheduler=scheduler, **{"wait_s": 30.0, **run}))


@contextlib.contextmanager
def started(*commands):
    """Dask's own command line, as an administrator would use it: `dask scheduler ...`, `dask worker ...`."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    here = os.environ | {"PYTHONPATH": os.path.dirname(__file__)}  # where this module's functions are found
    running = [subprocess.Popen([sys.executable, "-m", "dask", *command], env=here, **quiet) for command in commands]
    try:
        yield running
    finally:
        for command in reversed(running):
            command.send_signal(signal.SIGTERM)
        for command in running:
            try:
                command.wait(timeout=30)
            except subprocess.TimeoutExpired:
                command.kill()
                command.wait()


def scheduler(path, *options):
    return "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(path), *options


def worker(path, *options):
    return "worker", "--scheduler-file", str(path), "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1", *options


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The file of a scheduler with one plain worker."""
    path = tmp_path_factory.mktemp("dask") / "scheduler.json"
    with started(scheduler(path), worker(path)):
        yield path


def what_a_task_finds():
    import multiprocessing

    child = multiprocessing.get_context("spawn").Process(target=sys.exit, args=(3,))
    child.start()
    child.join()
    return dict(os.environ), "json.tool" in sys.modules, child.exitcode


@pytest.mark.real
def test_a_plain_worker_is_prepared_and_left_running(plain):
    said = []
    with open_cluster(remotely(f"file:{plain}"), ["json.tool"], said.append) as client:
        address = client.scheduler.address
        environment, has_preload, exit_code = client.submit(what_a_task_finds, pure=False).result()
        assert environment.items() >= WORKER_VARIABLES.items()
        assert has_preload
        assert exit_code == 3
    with open_cluster(remotely(address), ["json.tool"], said.append) as client:
        assert client.submit(what_a_task_finds, pure=False).result()[1:] == (True, 3)


@pytest.mark.real
def test_a_late_worker_is_awaited_and_prepared(tmp_path):
    path = tmp_path / "scheduler.json"
    said = []
    is_waiting = threading.Event()

    def say(text):
        said.append(text)
        is_waiting.set()

    with contextlib.ExitStack() as stack:
        stack.enter_context(started(scheduler(path)))

        def bring_worker():
            is_waiting.wait(60)
            with started(worker(path)):
                is_over.wait(60)

        is_over = threading.Event()
        thread = threading.Thread(target=bring_worker)
        thread.start()
        stack.callback(thread.join)
        stack.callback(is_over.set)
        client = stack.enter_context(open_cluster(remotely(f"file:{path}"), ["json.tool"], say))
        assert client.submit(what_a_task_finds).result()[1:] == (True, 3)
    assert any("waiting for" in text for text in said)


@pytest.mark.real
def test_no_worker_is_an_error_with_the_remedy():
    with LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as alone:
        address = alone.scheduler_address
        said = []
        with pytest.raises(RuntimeError, match=f"no worker came within 0.2 s.*`dask worker {address}`"):
            open_cluster(remotely(address, wait_s=0.2), say=said.append).__enter__()
    assert said == [f"waiting for the first worker: start some: `dask worker {address}`"]


@pytest.mark.real
def test_a_worker_without_a_module_is_an_error(plain):
    with (
        pytest.raises(RuntimeError, match=r"cannot import.*no_such_module.*install this emqa_dask there"),
        open_cluster(remotely(f"file:{plain}"), ["emqa_dask.no_such_module"]),
    ):
        pass


@pytest.mark.real
def test_an_address_without_scheduler_is_an_error(monkeypatch):
    monkeypatch.setattr(remote, "CONNECT_S", 0.5)
    with pytest.raises(RuntimeError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1 .*dask scheduler"):
        open_cluster(remotely("tcp://127.0.0.1:1")).__enter__()


@pytest.mark.parametrize(
    ("text", "problem"),
    [(None, "no such scheduler file"), ("{", "not a scheduler file"), ('{"a": 1}', "not a sch"), ("[]", "not a sch")],
)
def test_a_file_without_scheduler_is_an_error(tmp_path, text, problem):
    path = tmp_path / "scheduler.json"
    said = []
    if text is not None:
        path.write_text(text)
    with pytest.raises(RuntimeError, match=f"{problem}.*dask scheduler --scheduler-file"):
        open_cluster(remotely(f"file:{path}", wait_s=0.1), say=said.append).__enter__()
    assert len(said) == 1


@pytest.mark.parametrize(
    ("address", "folder", "remedy"),
    [("tls://127.0.0.1:1", "", "speaks TLS only: set run.tls"), ("tcp://127.0.0.1:1", "certificates", "leave run.tls")],
)
def test_tls_on_one_side_only_is_refused_first(address, folder, remedy):
    with pytest.raises(RuntimeError, match=remedy):
        open_cluster(remotely(address, tls=folder)).__enter__()
