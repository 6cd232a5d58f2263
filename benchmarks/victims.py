"""What a run consists of: the processes that play each role, and a Dask cluster that was started by hand."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from benchmarks.workspaces import TAG, Driver, list_tagged_processes

SPAWNED = "multiprocessing.spawn import spawn_main"
FORK_SERVER = "multiprocessing.forkserver import main"


class DaskCluster:
    """`dask scheduler` and two `dask worker --nanny`, as a person would start them, and start them again."""

    def __init__(self, log: Path, n_workers: int = 2):
        self.log = log
        self.port = _free_port()
        self.tag = f"{os.getpid()}-cluster-{self.port}"
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.scheduler = self._start_scheduler()
        self.nannies = [self._start_nanny() for _ in range(n_workers)]
        self.dead_since: float | None = None
        self.stopped_since: dict[int, float] = {}

    def _start(self, *options: str) -> subprocess.Popen:
        with self.log.open("a") as output:
            command = [sys.executable, "-m", "dask", *options]
            env = os.environ | {TAG: self.tag}
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env)

    def _start_scheduler(self) -> subprocess.Popen:
        return self._start("scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard")

    def _start_nanny(self) -> subprocess.Popen:
        return self._start(
            "worker", self.address, "--nanny", "--nthreads", "1", "--host", "127.0.0.1", "--no-dashboard"
        )

    def workers(self) -> list[psutil.Process]:
        return [p for n in self.nannies if n.poll() is None for p in _children(n.pid) if _is_python_child(p)]

    def mend(self, after_s: float = 1.0, replace_s: float = 45.0) -> None:
        """Start again what is not running, `after_s` after that was first seen; end what is stopped for `replace_s`."""
        for popen in (self.scheduler, *self.nannies):
            if not is_stopped(popen.pid):
                self.stopped_since.pop(popen.pid, None)
            elif time.monotonic() - self.stopped_since.setdefault(popen.pid, time.monotonic()) > replace_s:
                popen.kill()
        everything = [self.scheduler, *self.nannies]
        if all(p.poll() is None for p in everything):
            self.dead_since = None
            return
        self.dead_since = self.dead_since or time.monotonic()
        if time.monotonic() - self.dead_since < after_s:
            return
        if self.scheduler.poll() is not None:
            self.scheduler = self._start_scheduler()
        self.nannies = [n if n.poll() is None else self._start_nanny() for n in self.nannies]

    def close(self) -> None:
        for process in list_tagged_processes(self.tag):  # also workers whose nanny is gone
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for popen in (*self.nannies, self.scheduler):
            popen.wait()


def is_stopped(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return []


def read_command_line(process: psutil.Process) -> str:
    """Its command line; empty when it is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _is_python_child(process: psutil.Process) -> bool:
    """Was it started by multiprocessing to run Python, and not to track resources?"""
    return any(start in read_command_line(process) for start in (SPAWNED, FORK_SERVER))


def list_processes_of_role(role: str, driver: Driver, cluster: DaskCluster | None) -> list[psutil.Process]:
    """The processes that play `role` now."""
    if role == "driver":
        return [psutil.Process(driver.popen.pid)]
    if role == "scheduler":
        return [psutil.Process(cluster.scheduler.pid)] if cluster.scheduler.poll() is None else []
    if role == "nanny":
        return [psutil.Process(n.pid) for n in cluster.nannies if n.poll() is None]
    if cluster is not None:
        return cluster.workers()
    children = _children(driver.popen.pid)
    servers = [p for p in children if FORK_SERVER in read_command_line(p)]
    if role == "fork server":
        return servers
    forked = [p for server in servers for p in _children(server.pid)]
    return forked + [p for p in children if SPAWNED in read_command_line(p)]
