"""Laws of the workers: loopback only, one thread per library, quiet, interruptible, and startable from any script."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request

import psutil
import pytest

from emqa_dask.run import local
from emqa_dask.run.cluster import open_cluster
from emqa_dask.run.workers import SPAWN_VARIABLES, START_METHOD, WORKER_VARIABLES
from emqa_dask.settings import Run, Settings
from tests.slurm import virtual
from tests.waiting import wait_until

pytestmark = pytest.mark.real

SCRIPT = textwrap.dedent(
    """
    import sys, time
    from emqa_dask.run.cluster import open_cluster
    from emqa_dask.settings import Run, Settings

    with open_cluster(Settings(run=Run(workers=1))) as client:
        for seconds in SECONDS:
            client.submit(time.sleep, seconds, pure=False).result()
            print("done", flush=True)
    """
)


def environment():
    return dict(os.environ), multiprocessing.parent_process().pid


def parent_of():
    parent = psutil.Process().parent()
    driver = multiprocessing.parent_process().pid
    return parent.pid, f"{parent.num_threads()} thread, {'' if parent.pid == driver else 'not '}the driver"


def alive(group):
    """Processes of a process group that run once those that are about to end have had some time."""
    deadline = time.monotonic() + 10
    while True:
        found = [p.pid for p in psutil.process_iter(["status"]) if p.info["status"] != psutil.STATUS_ZOMBIE]
        left = [pid for pid in found if group_of(pid) == group]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)


def group_of(pid):
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def listening():
    """Addresses on which this process and its children listen, but for the virtual SLURM of other tests."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    family = [process for process in family if process.name() not in virtual.PROGRAMS]
    return {c.laddr.ip for process in family for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}


def test_no_process_of_the_run_listens_to_the_network(client):
    assert listening() == {"127.0.0.1"}
    with urllib.request.urlopen(client.dashboard_link) as page:
        assert page.status == 200


def test_other_computations_of_the_process_keep_their_client(client):
    from distributed.client import _get_global_client

    assert client.submit(os.getpid).result(timeout=60) != os.getpid()
    assert _get_global_client() is None


def test_the_scheduler_remembers_little(client):
    """What it keeps of the past does not grow with the number of tasks, and one stage is one group of one prefix."""

    def kept(dask_scheduler):
        events = dask_scheduler._broker._topics.values()
        return {
            "allowed_failures": dask_scheduler.allowed_failures,
            "tasks": len(dask_scheduler.tasks),
            "groups": len(dask_scheduler.task_groups),
            "stage": [name for name in dask_scheduler.task_prefixes if name.startswith("stage")],
            "logs": max([len(dask_scheduler.transition_log), *(len(topic.events) for topic in events)]),
        }

    for run in range(2):
        keys = [(f"stage-{run:012x}", n, f"partition {n}") for n in range(300)]
        futures = [client.submit(abs, -1, key=key, pure=False) for key in keys]
        assert client.gather(futures) == [1] * 300
        del futures
    wait_until(lambda: client.run_on_scheduler(kept)["tasks"] == 0, "all is forgotten")
    found = client.run_on_scheduler(kept)
    assert found.pop("logs") <= 100
    assert found == {"allowed_failures": 0, "tasks": 0, "groups": 0, "stage": ["stage"]}


def test_tasks_start_processes_and_workers_have_their_memory_limit():
    with open_cluster(Settings(run=Run(workers=1, memory_gib=1.5))) as client:
        (info,) = client.scheduler_info()["workers"].values()
        assert info["memory_limit"] == 1.5 * 2**30
        assert client.submit(exit_code_of_a_child).result() == 3


def exit_code_of_a_child():
    child = multiprocessing.get_context("spawn").Process(target=sys.exit, args=(3,))
    child.start()
    child.join()
    return child.exitcode


def test_workers_are_processes_of_one_thread_with_the_environment_set(client):
    assert list(client.nthreads().values()) == [1, 1]
    found = client.run(environment)
    assert len(found) == 2
    for variables, parent in found.values():
        assert variables.items() >= (SPAWN_VARIABLES | WORKER_VARIABLES).items()
        assert parent == os.getpid()


def test_the_drivers_environment_is_as_it_was(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    with open_cluster(Settings(run=Run(workers=1)), preload=["json.tool"]) as client:
        (loaded,) = client.run(lambda: ("json.tool" in sys.modules, os.environ["OMP_NUM_THREADS"])).values()
        assert loaded == (True, "1")
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "NUMBA_NUM_THREADS" not in os.environ


@pytest.mark.skipif(START_METHOD != "forkserver" or sys.platform != "linux", reason="there is no fork server here")
def test_workers_come_from_a_process_of_one_thread(client):
    """Never fork a process with threads: the fork server has imported libraries, but none has started a thread."""
    (server,) = {parent for _, parent in client.run(parent_of).values()}
    assert server.startswith("1 thread, not the driver")


@pytest.mark.parametrize("how", ["file", "stdin"])
def test_a_script_needs_no_main_guard(tmp_path, how):
    text = SCRIPT.replace("SECONDS", "[0, 0]")
    (tmp_path / "script.py").write_text(text)
    command = [sys.executable, "-W", "error", *(["script.py"] if how == "file" else [])]
    ran = subprocess.run(
        command, input=text if how == "stdin" else "", cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "done\ndone\n", "")


@pytest.mark.skipif(os.name != "posix", reason="process groups are POSIX")
def test_ctrl_c_ends_the_run_quietly_and_leaves_no_process(tmp_path):
    text = "try:" + textwrap.indent(SCRIPT.replace("SECONDS", "[0] + [1] * 99"), "    ")
    (tmp_path / "script.py").write_text(text + "except KeyboardInterrupt:\n    sys.exit(130)\n")
    # a session of its own: the whole group gets the signal, as from a terminal
    script = subprocess.Popen(
        [sys.executable, "-W", "error", "script.py"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert script.stdout.readline() == "done\n"
        os.killpg(script.pid, signal.SIGINT)
        _, errors = script.communicate(timeout=60)
        assert (script.returncode, errors) == (130, "")
        assert alive(script.pid) == []
    finally:
        if script.poll() is None:
            os.killpg(script.pid, signal.SIGKILL)
            script.communicate()


def test_a_worker_that_dask_gives_up_is_started_anew(monkeypatch):
    monkeypatch.setattr(local, "WATCH_INTERVAL_S", 0.1)
    with open_cluster(Settings(run=Run(workers=2))) as client:
        nanny = client.cluster.workers.pop(0)  # as SpecCluster does with one whose worker died at the wrong moment
        client.sync(nanny.close)
        while len(client.nthreads()) < 2 or nanny.worker_address in client.nthreads():
            time.sleep(0.05)


@pytest.mark.skipif(START_METHOD != "forkserver" or sys.platform != "linux", reason="there is no fork server here")
@pytest.mark.parametrize("victim", ["worker", "fork server"])
def test_what_is_stopped_is_replaced(victim, monkeypatch):
    monkeypatch.setattr(local, "WATCH_INTERVAL_S", 0.5)
    with open_cluster(Settings(run=Run(workers=2)), ["json.tool"]) as client:
        before = client.run(os.getpid)
        server = multiprocessing.forkserver._forkserver._forkserver_pid
        worker = min(before.values())
        os.kill(server if victim == "fork server" else worker, signal.SIGSTOP)
        if victim == "fork server":
            os.kill(worker, signal.SIGKILL)
        while len(now := client.run(os.getpid, on_error="ignore")) < 2 or worker in now.values():
            time.sleep(0.1)
        assert client.submit(abs, -1).result() == 1


@pytest.mark.skipif(START_METHOD != "forkserver" or sys.platform != "linux", reason="there is no fork server here")
def test_a_cluster_with_a_stopped_fork_server_closes_quietly():
    program = textwrap.dedent(
        """
        import os, signal
        from multiprocessing import forkserver
        from emqa_dask.run.cluster import open_cluster
        from emqa_dask.settings import Run, Settings

        with open_cluster(Settings(run=Run(workers=2))) as client:
            print(*client.run(os.getpid).values())
            os.kill(forkserver._forkserver._forkserver_pid, signal.SIGSTOP)
        """
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    wait_until(lambda: not any(psutil.pid_exists(int(pid)) for pid in ran.stdout.split()), "all have left")


@pytest.mark.skipif(START_METHOD != "forkserver" or sys.platform != "linux", reason="there is no fork server here")
def test_a_fork_server_stopped_at_start_is_replaced():
    program = textwrap.dedent(
        """
        import os, signal
        from multiprocessing import forkserver
        from emqa_dask.run.cluster import open_cluster, start_fork_server
        from emqa_dask.settings import Run, Settings

        start_fork_server()
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGSTOP)
        with open_cluster(Settings(run=Run(workers=1)), say=lambda text: None) as client:
            print(client.submit(abs, -1).result())
        """
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "1\n", "")


def test_workers_that_do_not_start_are_tried_again_and_named():
    said = []
    made = []

    def make_cluster(n_workers):
        made.append(n_workers)
        raise RuntimeError("Nanny failed to start.")

    with pytest.raises(RuntimeError, match=r"did not start in 3 tries .*Nanny failed.*; what is finished is"):
        local.start_cluster(make_cluster, {"n_workers": 2}, said.append)
    assert made == [2, 2, 2]
    assert len(said) == 2
    assert local.start_cluster(lambda n_workers: n_workers, {"n_workers": 5}, said.append) == 5
