"""Workers on this machine."""

import contextlib
import logging
import multiprocessing
import multiprocessing.forkserver
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker

import psutil

from emqa_dask.run import tls
from emqa_dask.run.isolate import is_stopped
from emqa_dask.run.scratch import get_scratch_folder
from emqa_dask.run.supervise import describe_error
from emqa_dask.run.workers import (
    FORK_SERVER_MODULES,
    SPAWN_VARIABLES,
    START_METHOD,
    WORKER_VARIABLES,
    count_cores,
    make_dask_configuration,
    set_variables,
    start_tracker,
    start_without_main,
)
from emqa_dask.settings import Settings

MAX_STARTS = 3  # tries to start the workers
WATCH_INTERVAL_S = 5.0  # between looks at this process's children


def start_fork_server(preload: Sequence[str] = ()) -> None:
    """Start the fork server early: it imports `preload` while this process imports its own modules.

    open_cluster() then finds it running. Nothing happens where there is no fork server.
    """
    start_tracker()
    if START_METHOD == "forkserver":
        with set_variables(SPAWN_VARIABLES), start_without_main():
            multiprocessing.set_forkserver_preload([*FORK_SERVER_MODULES, *preload])
            multiprocessing.forkserver.ensure_running()


@contextlib.contextmanager
def open_local(settings: Settings, preload: Sequence[str] = (), say: Callable[[str], None] = print) -> Iterator:
    """A distributed Client of `run.workers` local worker processes, closed at the end.

    They listen on the loopback interface, unless `local.host` says otherwise, and share the machine's memory evenly,
    unless `run.memory_gib` does. They are never forked from this process, but from a fork server, a fresh process that
    has imported `preload` once; where there is none (Windows) they are spawned. With the libraries of all stages two
    workers take 6 s to start instead of 14, a worker that replaces a dead one 0.2 s, and each holds 20 MB of its own
    instead of 440 (measured).
    """
    import dask
    from distributed import Client, LocalCluster
    from distributed.utils import get_mp_context

    run = settings.run
    memory = {"memory_limit": int(run.memory_gib * 2**30)} if run.memory_gib else {}
    security = tls.load_security(run.tls) or (tls.make_temporary_security() if settings.local.tls else None)
    start_tracker()
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(make_dask_configuration(preload)))
        stack.enter_context(set_variables(SPAWN_VARIABLES))
        stack.enter_context(start_without_main())
        if START_METHOD == "forkserver":  # Dask's own list is set once, by get_mp_context()
            get_mp_context().set_forkserver_preload([*FORK_SERVER_MODULES, *preload])
        options = {
            "n_workers": run.workers or count_cores(),
            "threads_per_worker": run.threads_per_worker,
            "processes": True,
            "host": settings.local.host,
            "dashboard_address": run.dashboard,
            "silence_logs": logging.CRITICAL,
            "security": security,
            # Of this process, too: the fork server may be older than the credentials of a bucket, say.
            "env": dict(os.environ) | SPAWN_VARIABLES | WORKER_VARIABLES | {"TMPDIR": get_scratch_folder()},
            **memory,
        }
        clusters = stack.enter_context(watch_workers())
        cluster = start_cluster(LocalCluster, options, say)
        stack.callback(close_cluster, cluster)
        clusters.append(cluster)
        yield stack.enter_context(Client(cluster, security=security, set_as_default=False))


def start_cluster(make_cluster: Callable, options: dict, say: Callable[[str], None]):
    """`make_cluster(**options)`, with several tries: one worker that dies at its start ends the whole cluster."""
    for n_left in reversed(range(MAX_STARTS)):
        try:
            return make_cluster(**options)
        except RuntimeError as error:
            if not n_left:
                raise RuntimeError(
                    f"the workers did not start in {MAX_STARTS} tries ({describe_error(error)}); what is finished is "
                    "kept, so run the same command again"
                ) from error
            say(f"the workers did not start ({describe_error(error)}): trying once more")


def close_cluster(cluster) -> None:
    """Close `cluster`, and kill the processes that do not end."""
    try:
        cluster.close()
    except Exception:
        for process in list_descendants(cluster):
            with contextlib.suppress(psutil.Error):
                process.kill()


@contextlib.contextmanager
def watch_workers() -> Iterator[list]:
    """List for a cluster, whose workers are watched: stopped ones (SIGSTOP) and lost ones are replaced.

    A stopped process never answers, and keeps its connections: whoever waits for it would wait for ever. A worker, a
    fork server or a child of theirs that is stopped is ended, and so replaced. Ctrl-Z stops this process, too, and `fg`
    continues all of them before there are two looks. Dask gives a nanny up whose worker dies just when it looks again
    for one that died 15 s ago; what it gave up is started anew. A cluster that is still being started is watched, too.
    """
    clusters: list = []
    n_workers = 0
    is_ended = threading.Event()

    def watch() -> None:
        nonlocal n_workers
        previously_stopped: set[psutil.Process] = set()
        while not is_ended.wait(WATCH_INTERVAL_S):
            stopped_processes = {process for process in list_descendants(*clusters) if is_stopped(process)}
            for process in stopped_processes & previously_stopped:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            previously_stopped = stopped_processes
            for cluster in clusters:
                n_workers = n_workers or len(cluster.worker_spec)
                if cluster.status.name == "running" and len(cluster.workers) < n_workers:
                    cluster.scale(n_workers)

    threading.Thread(target=watch, name="emqa-local", daemon=True).start()
    try:
        yield clusters
    finally:
        is_ended.set()


def list_descendants(*clusters) -> set[psutil.Process]:
    """Processes that this process has started, and workers whose fork server has ended."""
    tracker_pid = resource_tracker._resource_tracker._pid  # type: ignore[attr-defined]  # has no public name
    processes = {p for p in psutil.Process().children(recursive=True) if p.pid != tracker_pid}
    for nanny in [nanny for cluster in clusters for nanny in list(cluster.workers.values())]:
        pid = getattr(nanny, "pid", None)
        with contextlib.suppress(psutil.Error):
            processes |= {psutil.Process(pid)} if pid else set()
    return processes
