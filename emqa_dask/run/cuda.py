"""One worker per GPU of this machine, by dask-cuda, with one RMM memory pool for cupy and torch."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from emqa_dask.run import tls
from emqa_dask.run.gpu_utilisation import get_handle
from emqa_dask.run.local import watch_workers
from emqa_dask.run.supervise import describe_error
from emqa_dask.run.workers import (
    SPAWN_VARIABLES,
    WORKER_VARIABLES,
    make_dask_configuration,
    make_rmm_options,
    set_variables,
    start_tracker,
    start_without_main,
)
from emqa_dask.settings import Settings

# CUDA numbers GPUs by speed unless told otherwise, nvidia-smi and dask-cuda by their place on the bus.
GPU_WORKER_VARIABLES = SPAWN_VARIABLES | WORKER_VARIABLES | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
GIB = 2**30
ALIGNMENT_BYTES = 256  # of RMM's pools


class Gpu(NamedTuple):
    device: str  # number or UUID, as in CUDA_VISIBLE_DEVICES
    name: str
    memory_bytes: int
    is_slice: bool = False  # a MIG slice


@contextlib.contextmanager
def open_cuda(settings: Settings, preload: Sequence[str] = (), say: Callable[[str], None] = print) -> Iterator:
    """A distributed Client of one worker process per GPU, with `run.gpu_threads` threads, closed at the end.

    Before any task a worker takes `cuda.rmm_pool_fraction` of its GPU's memory as a pool from which both cupy and torch
    allocate, so that neither hoards what the other needs. Workers are spawned: no process that has touched CUDA is ever
    forked. Their environment, preload and loopback interface are those of local workers. RuntimeError with the remedy
    where there is no dask-cuda, driver or GPU, or the pool cannot be had: nothing ever runs on the CPU instead.
    """
    run = settings.run
    cluster_class = make_cluster_class()
    import dask
    from distributed import Client

    gpus = list_gpus(settings.cuda.devices)
    if run.workers > len(gpus):
        raise ValueError(f"run.workers is {run.workers}, but there is one worker per GPU, and {len(gpus)} of those")
    gpus = gpus[: run.workers or None]
    security = tls.load_security(run.tls) or (tls.make_temporary_security() if settings.local.tls else None)
    config = make_dask_configuration(preload) | {"distributed.worker.multiprocessing-method": "spawn"}
    start_tracker()
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(config))
        stack.enter_context(set_variables(SPAWN_VARIABLES))
        stack.enter_context(start_without_main())
        asyncio_log = logging.getLogger("asyncio")
        former_level = asyncio_log.level
        asyncio_log.setLevel(logging.CRITICAL)  # it would print a traceback for every worker that cannot start
        clusters = stack.enter_context(watch_workers())
        try:
            cluster = cluster_class(
                CUDA_VISIBLE_DEVICES=[gpu.device for gpu in gpus],
                threads_per_worker=run.gpu_threads,
                memory_limit=int(run.memory_gib * GIB) or "auto",
                device_memory_limit=None,  # tasks return small records: nothing on a GPU is Dask's to spill
                resources={"GPU": 1},
                preload=config["distributed.worker.preload"],  # which dask-cuda adds its own to
                host="127.0.0.1",
                dashboard_address=run.dashboard,
                silence_logs=logging.CRITICAL,
                security=security,
                rmm_allocator_external_lib_list=["cupy", "torch"],
                **make_rmm_options(select_pool_size(gpus, settings.cuda.rmm_pool_fraction), settings.cuda.rmm_async),
            )
            stack.enter_context(cluster)
            cluster.sync(wait_for_nannies, cluster)
            clusters.append(cluster)
        except Exception as error:
            cause = describe_error(find_root_cause(error))
            raise RuntimeError(
                f"GPU workers could not start ({cause}): does `nvidia-smi` show that others use the GPU? Then set "
                "cuda.rmm_pool_fraction lower, or name other GPUs in cuda.devices"
            ) from error
        finally:
            asyncio_log.setLevel(former_level)
        client = stack.enter_context(Client(cluster, security=security, set_as_default=False))
        say("; ".join(f"GPU {gpu.device}: {gpu.name}, {gpu.memory_bytes / GIB:.0f} GiB" for gpu in gpus))
        yield client


async def wait_for_nannies(cluster) -> None:
    """Raise the error that kept a worker from starting: dask-cuda continues without the worker."""
    for nanny in list(cluster.workers.values()):
        await nanny


def find_root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def select_pool_size(gpus: Sequence[Gpu], fraction: float) -> float | int:
    """Size of each worker's memory pool: `fraction`, or with MIG slices bytes, that of the smallest slice.

    dask-cuda takes a fraction for that of the whole GPU that a slice is a part of.
    """
    if not any(gpu.is_slice for gpu in gpus):
        return fraction
    return int(fraction * min(gpu.memory_bytes for gpu in gpus)) // ALIGNMENT_BYTES * ALIGNMENT_BYTES


def list_gpus(devices: Sequence[str] = ()) -> list[Gpu]:
    """GPUs in `devices`, else in CUDA_VISIBLE_DEVICES, else all; RuntimeError where one does not exist.

    A GPU in MIG mode counts as its slices: CUDA would use the first of them alone, with the memory of all in mind.
    Asks the driver's management library, which makes no CUDA context in this process.
    """
    import pynvml

    visible_devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    device = ""
    try:
        pynvml.nvmlInit()
        if not devices:
            every_device = map(str, range(pynvml.nvmlDeviceGetCount()))
            devices = (
                every_device if visible_devices is None else filter(None, map(str.strip, visible_devices.split(",")))
            )
        gpus = []
        for device in devices:
            gpus += _describe_slices(device) or [_describe_gpu(device)]
    except pynvml.NVMLError as error:
        name = f"GPU {device}" if device else "the NVIDIA driver"
        raise RuntimeError(
            f"run.scheduler is 'cuda', but {name} does not answer ({error}): `nvidia-smi` has to list it; in a "
            "container start with --gpus all. Nothing is run on the CPU instead; run.scheduler = 'local' does that"
        ) from error
    if not gpus:
        reason = "" if visible_devices is None else f" (CUDA_VISIBLE_DEVICES is {visible_devices!r})"
        raise RuntimeError(f"run.scheduler is 'cuda', but there is no GPU here{reason}")
    return gpus


def _describe_gpu(device: str) -> Gpu:
    import pynvml
    from dask_cuda.utils import get_device_total_memory

    memory_bytes = get_device_total_memory(int(device) if device.isdigit() else device)
    return Gpu(device, pynvml.nvmlDeviceGetName(get_handle(device)), memory_bytes)


def _describe_slices(device: str) -> list[Gpu]:
    """The MIG slices of a GPU; empty where it is not in MIG mode."""
    import pynvml

    slices = []
    for uuid in _list_slices(get_handle(device)):
        handle = get_handle(uuid)
        memory_bytes = pynvml.nvmlDeviceGetMemoryInfo(handle).total
        slices.append(Gpu(uuid, pynvml.nvmlDeviceGetName(handle), memory_bytes, is_slice=True))
    return slices


def _list_slices(handle) -> list[str]:
    """UUIDs of the MIG slices of a GPU, or of a slice itself; empty for a GPU that is not in MIG mode or cannot be."""
    import pynvml

    if pynvml.nvmlDeviceIsMigDeviceHandle(handle):
        return [pynvml.nvmlDeviceGetUUID(handle)]
    try:
        mode, _ = pynvml.nvmlDeviceGetMigMode(handle)
    except pynvml.NVMLError_NotSupported:
        return []
    uuids = []
    for k in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle) if mode else 0):
        with contextlib.suppress(pynvml.NVMLError_NotFound):  # a place without a slice
            uuids.append(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, k)))
    return uuids


def make_cluster_class() -> type:
    """Cluster class of dask-cuda whose workers get our environment and their CUDA_VISIBLE_DEVICES."""
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError as error:
        raise RuntimeError(
            f"run.scheduler is 'cuda', but dask-cuda cannot be imported ({error}): pip install 'emqa_dask[gpu]'"
        ) from error

    class OneWorkerPerGpu(LocalCUDACluster):
        def new_worker_spec(self) -> dict:
            specs = super().new_worker_spec()  # it replaces what was asked for in `env`
            for spec in specs.values():
                spec["options"]["env"] = GPU_WORKER_VARIABLES | spec["options"]["env"]
            return specs

    return OneWorkerPerGpu
