"""Laws of a failing GPU, by real exceptions of cupy, RMM and torch: what is out of memory, what is lost."""

import gc
import itertools
import re
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emqa_dask.backend import (
    STICKY,
    DeviceLost,
    get_skimage,
    guard_device,
    is_out_of_memory,
    is_sticky,
    measure_device_wait_s,
    run_in_batches,
    use_device,
)

MEMORY_ALLOCATION = 2
ILLEGAL_ADDRESS = 700
NO_DEVICE = 100


def cuda_error(code):
    runtime = pytest.importorskip("cupy_backends.cuda.api.runtime", reason="cupy is not installed")
    return runtime.CUDARuntimeError(code)


def cupy_out_of_memory():
    memory = pytest.importorskip("cupy.cuda.memory", reason="cupy is not installed")
    return memory.OutOfMemoryError(1 << 30, 1 << 28, 1 << 29)


def torch_error(text, kind="AcceleratorError"):
    return getattr(pytest.importorskip("torch"), kind)(text)


def rmm_error(limit_bytes):
    """What RMM raises for 1 MiB: beyond a limit, or, without one, because there is no GPU."""
    mr = pytest.importorskip("rmm", reason="rmm is not installed").mr
    resource = mr.CudaMemoryResource()
    try:
        (mr.LimitingResourceAdaptor(resource, limit_bytes) if limit_bytes else resource).allocate(1 << 20)
    except MemoryError as error:
        return error
    pytest.skip("there is a GPU here: it has 1 MiB")


def host_out_of_memory():
    try:
        np.empty(1 << 50)
    except MemoryError as error:
        return error


@pytest.mark.parametrize(
    "made",
    [
        cupy_out_of_memory,
        lambda: cuda_error(MEMORY_ALLOCATION),
        lambda: rmm_error(limit_bytes=1 << 10),
        lambda: torch_error("CUDA out of memory. Tried to allocate 2.00 GiB.", "OutOfMemoryError"),
        lambda: torch_error("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=["cupy", "cuda", "rmm", "torch", "torch-cuda", "cublas"],
)
def test_a_gpus_exhausted_memory_is_known_and_not_sticky(made):
    error = made()
    assert is_out_of_memory(error)
    assert not is_sticky(error)


@pytest.mark.parametrize(
    "made",
    [
        host_out_of_memory,
        MemoryError,
        lambda: MemoryError("std::bad_alloc"),  # of a C++ library on the host
        lambda: rmm_error(limit_bytes=None),
        lambda: cuda_error(NO_DEVICE),
        lambda: ValueError("CUDA error: out of memory"),
        lambda: ValueError("CUDA error: an illegal memory access was encountered"),
        lambda: RuntimeError("misaligned address"),  # nobody said that it is CUDA's
        lambda: OSError("cuda: device-side assert triggered.tif: no such file"),
    ],
    ids=["numpy", "python", "c++", "rmm-no-gpu", "no-gpu", "other", "other-sticky", "no-cuda", "a-path"],
)
def test_what_merely_looks_like_it_is_neither(made):
    error = made()
    assert error is not None
    assert not is_out_of_memory(error)
    assert not is_sticky(error)


@pytest.mark.parametrize("code", sorted(STICKY))
def test_cuda_says_of_every_sticky_error_what_the_table_says(code):
    error = cuda_error(code)
    assert STICKY[code] in str(error)
    assert is_sticky(error)
    assert is_sticky(torch_error(f"CUDA error: {STICKY[code]}\nCompile with `TORCH_USE_CUDA_DSA` to enable"))
    assert not is_out_of_memory(error)


def test_cuda_errors_that_require_a_new_process_are_sticky():
    found = [Path(p) / "nvidia/cu13/include/driver_types.h" for p in sys.path]
    header = next((path for path in found if path.exists()), None)
    if header is None:
        pytest.skip("the CUDA runtime's headers (nvidia-cuda-runtime) are not installed")
    documented = re.findall(r"/\*\*((?:(?!\*/).)*)\*/\s*cudaError\w+\s*=\s*(\d+)", header.read_text(), re.DOTALL)
    assert len(documented) > 100
    fatal = {int(code) for text, code in documented if "relaunched" in text}
    assert {ILLEGAL_ADDRESS, 710, 719} <= fatal
    assert fatal <= set(STICKY)


def test_a_sticky_error_is_recognised_as_a_cause():
    error = ValueError("this image is odd")
    error.__cause__ = cuda_error(ILLEGAL_ADDRESS)
    with pytest.raises(DeviceLost, match=r"^CUDARuntimeError: .*an illegal memory access") as caught, guard_device():
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [ValueError("bad"), KeyboardInterrupt(), MemoryError("std::bad_alloc"), DeviceLost("CUDA: misaligned address")],
)
def test_the_guard_lets_other_errors_through_as_they_are(error):
    with pytest.raises(type(error)) as caught, guard_device():
        raise error
    assert caught.value is error


class Device:
    """Doubles numbers; fails, as RMM does, for batches of more than `room` items, and for items that are too large."""

    def __init__(self, room, too_large=()):
        self.room = room
        self.too_large = set(too_large)
        self.tried = []
        self.done = []

    def __call__(self, batch):
        self.tried.append(len(batch))
        if len(batch) > self.room or self.too_large & set(batch):
            raise MemoryError("std::bad_alloc: out_of_memory: RMM failure at: pool_memory_resource.hpp:321: no room")
        self.done += batch
        return [2 * item for item in batch]


@given(n=st.integers(0, 60), size=st.integers(1, 20), room=st.integers(1, 20))
def test_every_item_once_in_order_and_nothing_computed_twice(n, size, room):
    device = Device(room)
    assert list(run_in_batches(device, iter(range(n)), size)) == [2 * i for i in range(n)]
    assert device.done == list(range(n))
    failed = [tried for tried in device.tried if tried > room]
    assert len(failed) <= size.bit_length()
    # sizes only shrink, each by halving, until the last batch, which is what is left
    assert all(after <= before for before, after in itertools.pairwise(device.tried))
    assert all(after <= before // 2 for before, after in itertools.pairwise(failed))
    if n >= size > room:
        assert device.tried[: len(failed) + 1] == [size >> k for k in range(len(failed) + 1)]


def test_a_failed_size_is_not_tried_again():
    device = Device(room=5)
    assert len(list(run_in_batches(device, range(20), 16))) == 20
    assert device.tried == [16, 8, 4, 4, 4, 4, 4]


def test_earlier_results_are_delivered_and_the_error_names_the_item():
    device = Device(room=4, too_large=[9])
    got = []
    with pytest.raises(MemoryError, match=r"^item 9 alone .*: std::bad_alloc: out_of_memory") as caught:
        got.extend(run_in_batches(device, range(20), 4))
    assert got == [0, 2, 4, 6, 8, 10, 12, 14, 16]
    assert is_out_of_memory(caught.value.__cause__)
    assert device.tried == [4, 4, 4, 2, 1, 1]


@pytest.mark.parametrize(
    "error", [ValueError("bad image"), host_out_of_memory(), RuntimeError("CUDA error: misaligned address")]
)
def test_other_errors_pass_and_nothing_is_tried_again(error):
    tried = []

    def function(batch):
        tried.append(len(batch))
        raise error

    with pytest.raises(type(error)) as caught:
        list(run_in_batches(function, range(5), 4))
    assert caught.value is error
    assert tried == [4]


def test_an_error_in_a_lazy_result_belongs_to_its_batch():
    device = Device(room=2)
    assert list(run_in_batches(lambda batch: (x for x in device(batch)), range(7), 4)) == [2 * i for i in range(7)]


def test_what_the_failed_batch_held_is_free_before_the_next():
    """The traceback of the exception would keep the arrays of the batch alive, and the halves would fail, too."""
    held = []
    alive = []

    def function(batch):
        alive.append([ref() is not None for ref in held])
        array = np.zeros(len(batch))
        held.append(weakref.ref(array))
        if len(batch) > 1:
            raise MemoryError("std::bad_alloc: out_of_memory: CUDA error")
        return array.tolist()

    gc.disable()
    try:
        assert list(run_in_batches(function, range(4), 4)) == [0.0] * 4
    finally:
        gc.enable()
    assert alive[:3] == [[], [False], [False, False]]


def test_items_are_drawn_as_batches_begin():
    drawn = []
    results = run_in_batches(list, (drawn.append(i) or i for i in range(100)), 8)
    assert drawn == []
    assert [next(results) for _ in range(9)] == list(range(9))
    assert len(drawn) == 16


def test_missing_results_and_empty_batches_are_refused():
    with pytest.raises(ValueError, match="4 items gave 3 results"):
        list(run_in_batches(lambda batch: batch[1:], range(8), 4))
    with pytest.raises(ValueError, match="the batch size is 0"):
        list(run_in_batches(list, range(8), 0))


def use_device_for(seconds, device, barrier, times, waits):
    barrier.wait()
    with use_device(device):
        start = time.perf_counter()
        time.sleep(seconds)
        times.append((start, time.perf_counter()))
    waits.append(measure_device_wait_s())


@pytest.mark.parametrize(("device", "n_with_wait"), [("cuda", 2), ("cpu", 0)])
def test_one_thread_at_a_time_uses_the_gpu(device, n_with_wait):
    barrier = threading.Barrier(3)
    times: list[tuple[float, float]] = []
    waits: list[float] = []
    arguments = (0.05, device, barrier, times, waits)
    threads = [threading.Thread(target=use_device_for, args=arguments) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times.sort()
    n_overlapping = sum(start < end for (_, end), (start, _) in itertools.pairwise(times))
    assert (n_overlapping == 0) == (device == "cuda")
    assert sum(seconds > 0.04 for seconds in waits) == n_with_wait


def test_neither_cupy_nor_torch_is_imported_without_need():
    program = (
        "import sys; from emqa_dask.backend import run_in_batches, is_sticky, guard_device\n"
        "def f(batch):\n    if len(batch) > 1: raise MemoryError('std::bad_alloc: out_of_memory')\n    return batch\n"
        "assert list(run_in_batches(f, range(3), 3)) == [0, 1, 2]\n"
        "assert not {'cupy', 'torch', 'rmm', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


class OnDevice:
    """Stands for an array of cupy, which nobody can make without a GPU."""

    __module__ = "cupy"


def test_scikit_image_of_cupy_arrays_is_cucims():
    cucim = pytest.importorskip("cucim.skimage", reason="cucim is not installed")
    assert get_skimage(OnDevice()) is cucim
    assert cucim.filters.gaussian.__module__.startswith("cucim.")
    assert cucim.transform.downscale_local_mean.__module__.startswith("cucim.")
    assert get_skimage(np.zeros(1)).__name__ == "skimage"


def test_without_cucim_there_is_no_scikit_image_for_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cucim.skimage.filters", None)
    assert get_skimage(OnDevice()) is None
