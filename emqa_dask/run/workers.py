"""Environment, Dask configuration, start and end of a worker process, whoever starts it.

Dask imports this module in workers and nannies as a preload; run.remote brings it to workers that others started.
"""

import asyncio
import atexit
import contextlib
import importlib
import logging
import multiprocessing
import multiprocessing.resource_tracker
import multiprocessing.spawn
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence

from emqa_dask.run.scratch import get_scratch_folder
from emqa_dask.settings import Run, Settings

DEFAULT_MEMORY_GIB = 4.0  # of a worker, where run.memory_gib says nothing
DEFAULT_GPU_MEMORY_GIB = 8.0  # of a worker with a GPU: a guess (CUDA's libraries and pinned batches); not measured
# One thread per library per worker: the workers are the parallelism, whatever the user's shell says for one program.
# These are read while a process loads its libraries, so they are set before it is spawned ...
SPAWN_VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # glibc takes arrays below 32 MiB from a heap of which it keeps up to 256 MiB, instead of asking the system for
    # every one: the page faults of that cost as much again as the work itself (benchmarks/bench_end_to_end.py).
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # pyarrow's one thread; a process with threads is not forked
}
# ... and these when a task first needs the library (numba in this process would not bear to see it change).
WORKER_VARIABLES = {
    "NUMBA_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "OPENCV_FOR_THREADS_NUM": "1",
    "ZARR_THREADING__MAX_WORKERS": "1",
}
FORK_SERVER_MODULES = ("distributed.nanny", "emqa_dask.run.workers")
DASHBOARD_ROUTES = ("scheduler.prometheus", "scheduler.info", "scheduler.json", "health", "statics")
START_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def count_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_dask_configuration(preload: Sequence[str] = ()) -> dict[str, object]:
    """Configuration of the scheduler and the workers that we start, for dask.config.set()."""
    modules = ["emqa_dask.run.workers", *preload]
    return {
        "distributed.worker.multiprocessing-method": START_METHOD,
        "distributed.worker.preload": modules,
        "distributed.worker.profile.enabled": False,
        "distributed.worker.daemon": False,  # a task may run a child process of its own
        "distributed.nanny.pre-spawn-environ": {},
        # Tasks write to storage and return small records: there is nothing to rebalance or to spill. A worker whose
        # memory was not given back would be paused for ever; one that takes too much is ended by its nanny.
        "distributed.scheduler.active-memory-manager.start": False,
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        # A worker that gives no sign of life for so long is started anew, as one that was stopped or lost its network.
        "distributed.scheduler.worker-ttl": "1 minute",
        # What was in hand when a worker died comes back at once: the executor runs it again, under supervision.
        "distributed.scheduler.allowed-failures": 0,
        # The dashboard only shows: no way by it to other machines, and nothing that changes what runs.
        "distributed.scheduler.http.routes": [f"distributed.http.{name}" for name in DASHBOARD_ROUTES],
        # What Dask remembers of the past, which is on record in events.parquet, stays small in a run of a million.
        "distributed.scheduler.dashboard.tasks.task-stream-length": 1000,
        "distributed.scheduler.events-cleanup-delay": "1m",
        "distributed.diagnostics.computations.max-history": 1,
        "distributed.diagnostics.erred-tasks.max-history": 1,
        "distributed.admin.log-length": 1000,
        "distributed.admin.low-level-log-length": 100,
        "distributed.admin.system-monitor.log-length": 600,
    }


def make_worker_environment(preload: Sequence[str] = ()) -> dict[str, str]:
    """Environment of a `dask worker` or `dask scheduler` elsewhere: variables and configuration."""
    config = make_dask_configuration(preload) | {"distributed.nanny.preload": ["emqa_dask.run.workers"]}
    dask_variables = {
        "DASK_" + key.replace(".", "__").replace("-", "_").upper(): repr(value) for key, value in config.items()
    }
    return SPAWN_VARIABLES | WORKER_VARIABLES | dask_variables


# For a `dask cuda worker` that starts elsewhere: no process that has touched CUDA is forked, and CUDA numbers GPUs as
# nvidia-smi and dask-cuda do.
GPU_VARIABLES = {"DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD": "spawn", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def select_memory_gib(run: Run, n_gpus: int) -> float:
    """Memory (GiB) of a worker that someone else's machine has to reserve: run.memory_gib, or a default."""
    return run.memory_gib or (DEFAULT_GPU_MEMORY_GIB if n_gpus else DEFAULT_MEMORY_GIB)


def make_rmm_options(size: float, is_async: bool) -> dict[str, object]:
    """Arguments of dask-cuda for the memory of a GPU: a pool of `size` (bytes, or a fraction), or the driver's own."""
    if is_async:
        return {"rmm_async": True, "rmm_release_threshold": size}
    return {"rmm_pool_size": size, "rmm_maximum_pool_size": size}


def make_gpu_worker_arguments(settings: Settings) -> list[str]:
    """Options of a `dask cuda worker`: the resource GPU, and the memory pool of [cuda]."""
    options = make_rmm_options(settings.cuda.rmm_pool_fraction, settings.cuda.rmm_async)
    flags = [f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}") for name, value in options.items()]
    return ["--resources", "GPU=1", "--set-rmm-allocator-for-libs=cupy,torch", *flags]


def dask_setup(server) -> None:
    """Ignore Ctrl-C, which the driver handles, and exit without taking the interpreter down.

    The terminal sends Ctrl-C to every process, and the driver closes the workers. Taking down an interpreter with every
    library loaded took 3 to 4 s, so a worker, which leaves nothing behind that would need it, does without.

    In a nanny that is a process of its own: have its fork server import what its workers need.
    """
    if type(server).__name__ == "Nanny":
        preload_fork_server()
        return
    from fsspec import config

    # The fork server imported these before this process had its environment.
    config.set_conf_env(config.conf)
    tempfile.tempdir = None
    logging.getLogger("tornado.application").setLevel(logging.CRITICAL)  # of callbacks while this worker closes
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    atexit.register(exit_at_once)  # registered first, so it runs last


def preload_fork_server() -> None:
    import dask
    from distributed.utils import get_mp_context

    if START_METHOD == "forkserver":
        preload = dask.config.get("distributed.worker.preload")
        get_mp_context().set_forkserver_preload([*FORK_SERVER_MODULES, *preload])


def exit_at_once() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


async def prepare_worker(preload: Sequence[str]) -> None:
    """Set the environment and import `preload` in a worker that runs already."""
    os.environ.update(
        SPAWN_VARIABLES | WORKER_VARIABLES
    )  # for libraries that are not loaded yet, and for child processes
    # Nannies start workers as daemons, which may have no child processes; this is the flag that is looked at.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]  # has no public name
    for module in preload:
        await asyncio.to_thread(importlib.import_module, module)


@contextlib.contextmanager
def start_without_main() -> Iterator[None]:
    """Block in which new processes do not import `__main__`.

    Tasks are functions of importable modules. A script without `if __name__ == "__main__":` would otherwise start
    itself in every worker, and one that is read from stdin could not start any.
    """
    get_preparation_data = multiprocessing.spawn.get_preparation_data

    def prepare_without_main(name: str) -> dict:
        return {
            k: v
            for k, v in get_preparation_data(name).items()
            if k not in ("init_main_from_name", "init_main_from_path")
        }

    multiprocessing.spawn.get_preparation_data = prepare_without_main
    try:
        yield
    finally:
        multiprocessing.spawn.get_preparation_data = get_preparation_data


def start_tracker() -> None:
    """Start multiprocessing's resource tracker, which outlives a killed driver, without its warnings.

    It would tell the terminal of every semaphore that it removes ("leaked semaphore objects"). Sockets and temporary
    files of multiprocessing go where the next run removes what is left of a killed one.
    """
    config = multiprocessing.current_process()._config  # type: ignore[attr-defined]  # has no public name
    config.setdefault("tempdir", get_scratch_folder())
    quiet = ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), "ignore:resource_tracker:UserWarning")))
    with set_variables({"PYTHONWARNINGS": quiet}):
        multiprocessing.resource_tracker.ensure_running()


@contextlib.contextmanager
def set_variables(variables: dict[str, str]) -> Iterator[None]:
    """Block in which this process and its children have `variables`; they are restored afterwards."""
    former = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in former.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
