"""Dask workers of every kind: open_cluster() connects to those that run.scheduler names."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

from emqa_dask.run.devices import check_devices
from emqa_dask.run.local import start_fork_server
from emqa_dask.run.workers import count_cores
from emqa_dask.settings import Settings
from emqa_dask.settings.schedulers import BATCH_SYSTEMS

__all__ = ["count_cores", "open_cluster", "start_fork_server"]


@contextlib.contextmanager
def open_cluster(settings: Settings, preload: Sequence[str] = (), say: Callable[[str], None] = print) -> Iterator:
    """A distributed Client of the workers that `run.scheduler` names; None when in-process.

    What this starts, it also ends; a scheduler that was there before is left running. Workers have the environment and
    configuration of run.workers and have imported `preload`. At least one worker is there, after at most `run.wait_s`;
    `say` is told what is being waited for. ValueError, OSError or RuntimeError with the remedy where none can be had.
    """
    scheduler = settings.run.scheduler
    if scheduler == "in-process":
        yield None
        return
    check_devices(settings)
    with import_opener(scheduler)(settings, preload, say) as client:
        yield client


def import_opener(scheduler: str) -> Callable:
    """Function that opens a cluster. A scheduler's module is imported on use, since its packages are optional."""
    if scheduler in BATCH_SYSTEMS:
        from emqa_dask.run.batch import open_batch as opener
    elif scheduler == "local":
        from emqa_dask.run.local import open_local as opener
    elif scheduler == "cuda":
        from emqa_dask.run.cuda import open_cuda as opener
    elif scheduler == "kubernetes":
        from emqa_dask.run.kubernetes import open_kubernetes as opener
    else:
        from emqa_dask.run.remote import open_remote as opener
    return opener
