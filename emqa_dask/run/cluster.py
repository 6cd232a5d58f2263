"""Dask workers: open_cluster() gives a client of them, or None for a run in this process."""

import contextlib
import logging
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.spawn
import os
from collections.abc import Iterator, Sequence

from emqa_dask.settings import Run

# One thread per library per worker: the workers are the parallelism, whatever the user's shell says for one program.
# These are read while a process loads its libraries, so they are set before it is spawned ...
BEFORE_SPAWN = {
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
IN_WORKER = {
    "NUMBA_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "OPENCV_FOR_THREADS_NUM": "1",
    "ZARR_THREADING__MAX_WORKERS": "1",
}
IN_FORK_SERVER = ("distributed.nanny", "emqa_dask.run.workers")
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def warm_up(preload: Sequence[str] = ()) -> None:
    """Start the fork server now: it imports `preload` on another core while this process imports what it needs itself.

    open_cluster() then finds it running. Nothing happens where there is no fork server.
    """
    if METHOD == "forkserver":
        with _environment(BEFORE_SPAWN), _start_without_main():
            multiprocessing.set_forkserver_preload([*IN_FORK_SERVER, *preload])
            multiprocessing.forkserver.ensure_running()


@contextlib.contextmanager
def open_cluster(settings: Run, preload: Sequence[str] = ()) -> Iterator:
    """A distributed Client of `settings.workers` local worker processes, closed at the end; None when in-process.

    They listen on the loopback interface only and share the machine's memory evenly. They are never forked from this
    process, but from a fork server, a fresh process that has imported `preload` once; where there is none (Windows)
    they are spawned. With the libraries of all stages two workers take 6 s to start instead of 14, a worker that
    replaces a dead one 0.2 s, and each holds 20 MB of its own instead of 440 (measured).
    The dashboard is on a free loopback port: `client.dashboard_link`.
    """
    if settings.scheduler == "in-process":
        yield None
        return
    import dask
    from distributed import Client, LocalCluster
    from distributed.utils import get_mp_context

    config = {
        "distributed.worker.multiprocessing-method": METHOD,
        "distributed.worker.preload": ["emqa_dask.run.workers", *preload],
        "distributed.worker.profile.enabled": False,
        "distributed.nanny.pre-spawn-environ": {},
        # Tasks write to storage and return small records: there is nothing to rebalance or to spill.
        "distributed.scheduler.active-memory-manager.start": False,
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(config))
        stack.enter_context(_environment(BEFORE_SPAWN))
        stack.enter_context(_start_without_main())
        if METHOD == "forkserver":  # Dask's own list is set once, by get_mp_context()
            get_mp_context().set_forkserver_preload([*IN_FORK_SERVER, *preload])
        cluster = stack.enter_context(
            LocalCluster(
                n_workers=settings.workers or n_cores(),
                threads_per_worker=settings.threads_per_worker,
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
                env=BEFORE_SPAWN | IN_WORKER,
            )
        )
        yield stack.enter_context(Client(cluster))


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set `variables` in this process, whose children inherit them; afterwards all is as it was."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def _start_without_main() -> Iterator[None]:
    """Start processes that do not import `__main__` again.

    Tasks are functions of importable modules. A script without `if __name__ == "__main__":` would otherwise start
    itself in every worker, and one that is read from stdin could not start any.
    """
    prepare = multiprocessing.spawn.get_preparation_data

    def without_main(name: str) -> dict:
        return {k: v for k, v in prepare(name).items() if k not in ("init_main_from_name", "init_main_from_path")}

    multiprocessing.spawn.get_preparation_data = without_main
    try:
        yield
    finally:
        multiprocessing.spawn.get_preparation_data = prepare
