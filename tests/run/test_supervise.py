"""Laws of supervision: a call's crash, hang, hunger or exception ends that call, with its cause; the others go on."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import forkserver

import numpy as np
import psutil
import pytest

from emqa_dask.backend import DeviceLost
from emqa_dask.models import ModelError
from emqa_dask.run import isolate
from emqa_dask.run.supervise import CallFailed, Supervised, compute_time_limit_s, list_running_labels
from emqa_dask.run.workers import START_METHOD

SEEN = []


def double(x):
    return 2 * x


def refuse(x):
    raise ValueError(f"{x} is\nbad")


def segfault():
    ctypes.string_at(0)


def hold_the_gil():
    ctypes.PyDLL(None).sleep(60)


def eat():
    held = []
    while True:
        held.append(np.ones(2**20))


def no_memory():
    raise MemoryError


def bad_company():
    """Fails where it was called before."""
    SEEN.append(1)
    if len(SEEN) > 1:
        os.abort()
    return len(SEEN)


def pid():
    return os.getpid()


def lose_the_gpu():
    raise RuntimeError("CUDA error: an illegal memory access was encountered (cudaErrorIllegalAddress)")


def damaged_model():
    raise ModelError("model/weights: not whole")


def missing_library():
    import no_such_library  # noqa: F401


def note_and_sleep(path, seconds):
    with open(path, "a") as notes:
        notes.write(f"{os.getpid()}\n")
    time.sleep(seconds)
    return "slept"


def stop_first(path):
    """Stops the first process that calls it, and is done in every later one."""
    try:
        open(path, "x").close()
    except FileExistsError:
        return "done"
    os.kill(os.getpid(), signal.SIGSTOP)


def refuse_here_only(driver):
    if os.getpid() == driver:
        raise ValueError("not here")
    return "elsewhere"


@pytest.fixture
def isolated():
    with Supervised(timeout_s=20, memory_bytes=2**30, is_isolated=True) as call:
        yield call


def test_a_call_is_the_function_here_or_in_a_child(isolated):
    with Supervised() as call:
        assert call(pid) == os.getpid()
    image = np.arange(12.0).reshape(3, 4)
    assert isolated(pid) not in (os.getpid(), None)
    np.testing.assert_array_equal(isolated(double, image), 2 * image)
    assert isolated(pid) == isolated(pid)


@pytest.mark.parametrize(
    ("function", "kind", "said"),
    [
        (segfault, "crash", "ended by SIGSEGV"),
        (os.abort, "crash", "ended by SIGABRT"),
        (no_memory, "memory", "MemoryError"),
        (eat, "memory", "over the limit of 1,024 MiB"),
    ],
)
def test_a_call_that_ends_its_process_reports_the_reason(isolated, function, kind, said):
    with pytest.raises(CallFailed, match=said) as caught:
        isolated(function)
    assert caught.value.failure_kind == kind
    assert caught.value.attempts == 1
    assert isolated(double, 4) == 8


def test_a_segfault_leaves_its_traceback(isolated):
    with pytest.raises(CallFailed) as caught:
        isolated(segfault)
    assert "in segfault" in caught.value.traceback


def test_a_call_that_hangs_is_ended_and_located():
    with Supervised(timeout_s=1, is_isolated=True) as call:
        with pytest.raises(CallFailed, match=r"not done after 1 s") as caught:
            call(hold_the_gil)
        assert call(double, 1) == 2
    assert caught.value.failure_kind == "timeout"
    assert "in hold_the_gil" in caught.value.traceback


@pytest.mark.parametrize("is_isolated", [False, True])
def test_an_exception_is_one_wherever_it_is_raised(is_isolated):
    with Supervised(is_isolated=is_isolated) as call, pytest.raises(CallFailed, match="ValueError: 3 is bad") as caught:
        call(refuse, 3)
    died = caught.value
    assert (died.failure_kind, died.error, died.attempts) == ("error", "ValueError: 3 is bad", 1 if is_isolated else 2)
    assert "in refuse" in died.traceback


def test_what_fails_here_but_not_alone_has_not_failed():
    with Supervised() as call:
        assert call(refuse_here_only, os.getpid()) == "elsewhere"


def test_what_fails_in_company_is_tried_alone(isolated):
    assert [isolated(bad_company) for _ in range(3)] == [1, 1, 1]


def test_a_lost_gpu_is_not_the_calls_fault():
    with Supervised() as call, pytest.raises(DeviceLost, match="illegal memory access"):
        call(lose_the_gpu)


@pytest.mark.parametrize("is_isolated", [False, True])
@pytest.mark.parametrize(
    ("function", "kind", "said"),
    [(damaged_model, ModelError, "model/weights: not whole"), (missing_library, ImportError, "no_such_library")],
)
def test_faults_of_models_and_libraries_blame_no_call(is_isolated, function, kind, said):
    with Supervised(is_isolated=is_isolated) as call:
        with pytest.raises(kind, match=said):
            call(function)
        assert call(double, 2) == 4


def test_a_function_that_a_child_cannot_import_blames_no_call(isolated, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("def work():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here

    (tmp_path / "only_here.py").unlink()
    with pytest.raises(ImportError, match="only_here"):
        isolated(only_here.work)


def test_a_call_is_out_of_time_once_only(tmp_path):
    path = tmp_path / "calls"
    with Supervised(timeout_s=1, is_isolated=True) as call:
        assert call(double, 1) == 2  # the child is not fresh any more
        with pytest.raises(CallFailed, match="not done after 1 s") as caught:
            call(note_and_sleep, path, 60)
    assert len(path.read_text().splitlines()) == 1
    assert (caught.value.failure_kind, caught.value.attempts) == ("timeout", 1)


def test_a_larger_image_may_take_longer(tmp_path):
    assert [compute_time_limit_s(120, megapixels) for megapixels in (0, 1, 4, 8, 100)] == [120, 120, 120, 240, 3000]
    assert compute_time_limit_s(0, 100) == 0
    with Supervised(timeout_s=1, is_isolated=True) as call:
        assert call(note_and_sleep, tmp_path / "large", 2.5, megapixels=16) == "slept"
        with pytest.raises(CallFailed, match="not done after 1 s"):
            call(note_and_sleep, tmp_path / "small", 2.5, megapixels=1)


def test_a_child_that_somebody_stops_blames_no_call(tmp_path):
    with Supervised(timeout_s=1, is_isolated=True) as call:
        assert call(stop_first, tmp_path / "stopped") == "done"


@pytest.mark.parametrize("is_isolated", [False, True])
def test_labels_say_what_is_being_worked_on(is_isolated, tmp_path):
    with Supervised(is_isolated=is_isolated) as call:
        thread = threading.Thread(target=call, args=(note_and_sleep, tmp_path / "a", 2), kwargs={"label": "a/b.tif"})
        thread.start()
        while not (tmp_path / "a").exists():
            time.sleep(0.02)
        ((label, seconds),) = list_running_labels()
        thread.join()
    assert label == "a/b.tif"
    assert seconds > 0
    assert list_running_labels() == []


@pytest.mark.skipif(START_METHOD != "forkserver", reason="there is no fork server here")
def test_a_fork_server_that_is_stopped_is_replaced(monkeypatch):
    monkeypatch.setattr(isolate, "FORK_SERVER_INTERVAL_S", 0.2)
    with Supervised(is_isolated=True) as call:
        assert call(double, 1) == 2
    server = forkserver._forkserver._forkserver_pid
    os.kill(server, signal.SIGSTOP)
    with Supervised(is_isolated=True) as call:
        assert call(double, 2) == 4
    assert forkserver._forkserver._forkserver_pid != server


def test_children_go_with_their_supervisor_however_it_ends(tmp_path):
    program = (
        "import os, time\nfrom emqa_dask.run.supervise import Supervised\n"
        "with Supervised(is_isolated=True) as call:\n"
        "    print(os.getpid(), call(os.getpid), flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as supervisor:
        _, child = map(int, supervisor.stdout.readline().split())
        assert psutil.pid_exists(child)
        os.kill(supervisor.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while psutil.pid_exists(child):
        assert time.monotonic() < deadline, "the child outlives its supervisor"
        time.sleep(0.05)
