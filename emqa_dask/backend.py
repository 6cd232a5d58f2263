"""Where an array lives: backend(array) -> (xp, ndi), to_device, to_host; and what to do when a GPU fails.

The only module that imports cupy, and only for arrays that are on a GPU or shall go there.
"""

import contextlib
import gc
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

# What cudaGetErrorString() says of the errors after which the process can use the GPU no more: those of which the CUDA
# runtime's reference says that the process must be terminated and relaunched, and uncorrectable hardware errors.
# cupy, RMM and torch all put these words into their exceptions, the codes only some of them.
STICKY = {
    214: "uncorrectable ECC error encountered",
    220: "uncorrectable NVLink error detected",
    226: "Invalid access of peer GPU memory over nvlink or a hardware error",
    700: "an illegal memory access was encountered",
    702: "the launch timed out and was terminated",
    709: "context is destroyed",
    710: "device-side assert triggered",
    714: "hardware stack error",
    715: "an illegal instruction was encountered",
    716: "misaligned address",
    717: "operation not supported on global/shared address space",
    718: "invalid program counter",
    719: "unspecified launch failure",
    721: "tensor memory not completely freed",
    810: "the MPS client has been terminated by the server",
    911: "an async error has occured in external entity outside of CUDA",
}
# How RMM, the CUDA runtime and driver (by cupy or torch), cuBLAS, cuDNN and cuFFT say that GPU memory is exhausted.
OUT_OF_MEMORY = (
    "std::bad_alloc: out_of_memory",
    "cudaErrorMemoryAllocation",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUFFT_ALLOC_FAILED",
)


class DeviceLost(RuntimeError):
    """The GPU context of this process is broken for good (a sticky CUDA error): only a fresh process can go on."""


def get_array_modules(array: Any) -> tuple[ModuleType, ModuleType]:
    """The array module and its ndimage for `array`: (numpy, scipy.ndimage) or (cupy, cupyx.scipy.ndimage)."""
    if type(array).__module__.partition(".")[0] == "cupy":
        import cupy
        import cupyx.scipy.ndimage

        return cupy, cupyx.scipy.ndimage
    import scipy.ndimage

    return np, scipy.ndimage


def get_skimage(array: Any) -> ModuleType | None:
    """scikit-image for the arrays that `array` is one of: skimage, or cucim.skimage for cupy; None where it is missing.

    cuCIM is optional: callers have another way, by cupyx.
    """
    if type(array).__module__.partition(".")[0] != "cupy":
        import skimage

        return skimage
    try:
        import cucim.skimage.filters
        import cucim.skimage.transform
    except ImportError:
        return None
    return cucim.skimage


def to_device(array: np.ndarray, device: str) -> Any:
    """`array` on `device` ("cpu" or "cuda"); "cuda" without a working GPU raises RuntimeError, never falls back."""
    if device == "cpu":
        return array
    if device != "cuda":
        raise ValueError(f"device is {device!r}: it has to be 'cpu' or 'cuda'")
    try:
        import cupy

        n_devices = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        raise RuntimeError(f"device 'cuda' was asked for, but there is no usable GPU here: {error}") from error
    if n_devices == 0:
        raise RuntimeError("device 'cuda' was asked for, but there is no GPU here; set device = 'cpu'")
    return cupy.asarray(array)


def to_host(array: Any) -> np.ndarray:
    """`array` as a numpy array, moved explicitly when it lives on a GPU."""
    return array.get() if type(array).__module__.partition(".")[0] == "cupy" else array


def is_out_of_memory(error: BaseException) -> bool:
    """Is `error` a GPU's memory running out, in the words of cupy, torch or RMM? The host's MemoryError is not."""
    kind = type(error)
    if kind.__name__ == "OutOfMemoryError" and kind.__module__.partition(".")[0] in ("cupy", "torch"):
        return True
    return isinstance(error, MemoryError | RuntimeError) and any(phrase in str(error) for phrase in OUT_OF_MEMORY)


def is_sticky(error: BaseException) -> bool:
    """Has `error`, or one that it was raised from or in the handling of, broken this process' GPU context for good?"""
    return _is_sticky_error(error) is not None


def _is_sticky_error(error: BaseException | None) -> BaseException | None:
    while error is not None:
        text = str(error)
        is_cuda = isinstance(error, MemoryError | RuntimeError) and "cuda" in text.lower()
        if is_cuda and any(phrase in text for phrase in STICKY.values()):
            return error
        error = error.__cause__ or error.__context__
    return None


@contextlib.contextmanager
def guard_device() -> Iterator[None]:
    """Raise DeviceLost in the place of an error after which this process cannot use its GPU; others pass unchanged."""
    try:
        yield
    except Exception as error:
        sticky = _is_sticky_error(error)
        if sticky is None or isinstance(error, DeviceLost):
            raise
        raise DeviceLost(f"{type(sticky).__name__}: {sticky}") from error


_device_lock = threading.Lock()
_waits = threading.local()  # .seconds that this thread has waited for the device


@contextlib.contextmanager
def use_device(device: str) -> Iterator[None]:
    """Computes on `device`: on "cuda" one thread of this process at a time, so that its memory holds the arrays.

    Other threads read their images or finish their tables meanwhile.
    """
    if device != "cuda":
        yield
        return
    started = time.perf_counter()
    with _device_lock:
        _waits.seconds = measure_device_wait_s() + time.perf_counter() - started
        yield


def measure_device_wait_s() -> float:
    """Seconds that this thread has waited for the device so far."""
    return float(getattr(_waits, "seconds", 0.0))


def run_in_batches(function: Callable[[list], Iterable], items: Iterable, size: int) -> Iterator:
    """The results of `function(batch)`, one per item, item by item; a batch has `size` items or what is left.

    When a GPU's memory runs out, what libraries keep of it is freed, the batch is tried again as halves, and the
    batches stay at that size: nothing but the batch that failed is computed twice. When even one item is too large,
    MemoryError names its position (0 is the first). Items are drawn as batches begin, so at most `size` are held.
    """
    if size < 1:
        raise ValueError(f"the batch size is {size}: it has to be at least 1")
    source = iter(items)
    batch: list = []
    n_done = 0
    while batch := batch + list(itertools.islice(source, max(0, size - len(batch)))):
        results = _try_batch(function, batch[:size], n_done)
        if results is None:
            # Only here is the exception gone, and with it the arrays that its traceback kept.
            free_device_memory()
            size = max(1, min(size, len(batch)) // 2)
            continue
        batch = batch[len(results) :]
        n_done = n_done + len(results)
        yield from results


def _try_batch(function: Callable[[list], Iterable], batch: list, n_done: int) -> list | None:
    """`function(batch)` as a list; None when it has to be tried with fewer items."""
    try:
        results = list(function(batch))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        if len(batch) > 1:
            return None
        raise MemoryError(f"item {n_done} alone takes more than the GPU's memory: {error}") from error
    if len(results) != len(batch):
        raise ValueError(f"{len(batch)} items gave {len(results)} results")
    return results


def free_device_memory() -> None:
    """Give cached blocks of GPU memory back, those of libraries that this process has imported."""
    gc.collect()
    cupy = sys.modules.get("cupy")
    torch = sys.modules.get("torch")
    with contextlib.suppress(RuntimeError):  # a GPU that is lost or was never there: whoever uses it next says so
        if cupy is not None:
            cupy.get_default_memory_pool().free_all_blocks()
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def use_wide_vectors() -> None:
    """Let numba compile for vectors of 512 bits where the processor has them: a tenth to a fifth less time here.

    By default LLVM takes half of that, for the sake of processors that slow down for the wide ones. It holds for all
    that numba compiles in this process from now on; NUMBA_CPU_NAME and NUMBA_CPU_FEATURES, when set, stay as they are.
    """
    import llvmlite.binding as llvm
    import numba

    config: Any = numba.config  # gets its attributes while numba is imported
    if config.CPU_NAME or config.CPU_FEATURES is not None or not config.ENABLE_AVX:
        return
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        config.CPU_NAME = llvm.get_host_cpu_name()
        config.CPU_FEATURES = f"{features.flatten()},-prefer-256-bit"
