"""Laws of supervision: a call's crash, hang, hunger or exception ends that call, with its cause; the others go on."""

import ctypes
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from emqa_dask.backend import DeviceLost
from emqa_dask.run.supervise import Died, Supervised

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
def test_a_call_that_ends_its_process_says_why_and_the_next_is_well(isolated, function, kind, said):
    with pytest.raises(Died, match=said) as caught:
        isolated(function)
    assert caught.value.kind == kind
    assert caught.value.attempts == 1
    assert isolated(double, 4) == 8


def test_a_segfault_leaves_its_traceback(isolated):
    with pytest.raises(Died) as caught:
        isolated(segfault)
    assert "in segfault" in caught.value.traceback


def test_a_call_that_hangs_with_the_gil_is_ended_and_says_where():
    with Supervised(timeout_s=1, is_isolated=True) as call:
        with pytest.raises(Died, match=r"not done after 1 s") as caught:
            call(hold_the_gil)
        assert call(double, 1) == 2
    assert caught.value.kind == "timeout"
    assert "in hold_the_gil" in caught.value.traceback


@pytest.mark.parametrize("is_isolated", [False, True])
def test_an_exception_is_one_wherever_it_is_raised(is_isolated):
    with Supervised(is_isolated=is_isolated) as call, pytest.raises(Died, match="ValueError: 3 is bad") as caught:
        call(refuse, 3)
    died = caught.value
    assert (died.kind, died.error, died.attempts) == ("error", "ValueError: 3 is bad", 1 if is_isolated else 2)
    assert "in refuse" in died.traceback


def test_what_fails_here_but_not_alone_has_not_failed():
    with Supervised() as call:
        assert call(refuse_here_only, os.getpid()) == "elsewhere"


def test_what_fails_in_company_is_tried_alone(isolated):
    assert [isolated(bad_company) for _ in range(3)] == [1, 1, 1]


def test_a_lost_gpu_is_not_the_calls_fault():
    with Supervised() as call, pytest.raises(DeviceLost, match="illegal memory access"):
        call(lose_the_gpu)


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
