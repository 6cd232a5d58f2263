"""Dask workers: open_cluster() gives a client of them, or None for a run in this process."""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence

from emqa_dask.settings import Run

# One thread per library per worker: the workers are the parallelism. Set before a worker's Python starts, since
# libraries read these when they load. MALLOC_TRIM_THRESHOLD_ makes glibc give freed memory back.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "OPENCV_FOR_THREADS_NUM": "1",
    "ZARR_THREADING__MAX_WORKERS": "1",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def open_cluster(settings: Run, preload: Sequence[str] = ()) -> Iterator:
    """A distributed Client of `settings.workers` local worker processes, closed at the end; None when in-process.

    Processes are spawned, listen on the loopback interface only, and import the modules `preload` while they start.
    The dashboard is on a free loopback port: `client.dashboard_link`.
    """
    if settings.scheduler == "in-process":
        yield None
        return
    import dask
    from distributed import Client, LocalCluster

    config = {
        "distributed.worker.multiprocessing-method": "spawn",
        "distributed.nanny.pre-spawn-environ": ENVIRONMENT,
        "distributed.worker.preload": list(preload),
        "distributed.worker.profile.enabled": False,
        "distributed.scheduler.worker-saturation": "inf",
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(config))
        cluster = stack.enter_context(
            LocalCluster(
                n_workers=settings.workers or n_cores(),
                threads_per_worker=settings.threads_per_worker,
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
            )
        )
        yield stack.enter_context(Client(cluster))
