"""Workers in SLURM jobs: the scheduler is in this process, and there are more jobs while there is much to do."""

import asyncio
import contextlib
import math
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from distributed import Client
from distributed.deploy import Adaptive

from emqa_dask.run import tls
from emqa_dask.run.remote import wait_for_workers
from emqa_dask.run.workers import GPU_VARIABLES, configuration, environment, gpu_worker_arguments
from emqa_dask.settings import Settings

GIB = 2**30
DEFAULT_MEMORY_GIB = 4.0  # of a worker, where run.memory_gib says nothing
INTERVAL_S = 10.0  # between looks at what is to do, and at the queue
IDLE_LOOKS = 12  # in which a job has nothing to do before it is given back: between two stages it is kept
TARGET_S = 1.0  # the window of tasks is a few per worker, so what waits in it for longer than this wants more jobs
REST_S = 600.0  # the longest rest after jobs that ended before a worker came
Say = Callable[[str], None]


@contextlib.contextmanager
def open_slurm(settings: Settings, preload: Sequence[str] = (), say: Say = print) -> Iterator:
    """A distributed Client of workers in SLURM jobs, once there is one; all jobs are cancelled at the end.

    `run.workers` is their number; 0 lets it follow the work, between `slurm.min_jobs` and `slurm.max_jobs`. Workers
    leave `slurm.leave_s` before their walltime, and a job that SLURM has no more is replaced. Raises ValueError or
    RuntimeError, with the remedy, where no job can be submitted, or where the first jobs end before a worker comes.
    """
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise RuntimeError("scheduler 'slurm' needs dask-jobqueue: pip install 'emqa_dask[slurm]'") from error
    import dask

    if missing := [command for command in ("sbatch", "squeue", "scancel") if shutil.which(command) is None]:
        raise RuntimeError(f"no {', '.join(missing)} on this machine: start the run on a login node of the cluster")
    options = cluster_options(settings, preload)
    slurm = settings.slurm
    per_job = options["processes"]
    jobs = math.ceil(settings.run.workers / per_job)
    config = configuration(preload) | {"distributed.deploy.lost-worker-timeout": "1h"}  # the queue says what is lost
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(config))
        cluster = stack.enter_context(SLURMCluster(**options))
        _ask(cluster.job_script())
        client = stack.enter_context(Client(cluster, security=options["security"]))
        jobs_of = cluster.adapt(
            Adaptive=Jobs,
            minimum_jobs=jobs or slurm.min_jobs,
            maximum_jobs=jobs or slurm.max_jobs,
            interval=INTERVAL_S,
            wait_count=IDLE_LOOKS,
            target_duration=TARGET_S,
            worker_key=job_of if per_job > 1 else None,
        )
        jobs_of.say = say
        jobs_of.log_folder = slurm.log_folder
        wait_for_workers(client, settings.run.wait_s, say, jobs_of.describe)
        yield client


def cluster_options(settings: Settings, preload: Sequence[str] = ()) -> dict:
    """What dask_jobqueue.SLURMCluster is called with."""
    run = settings.run
    slurm = settings.slurm
    processes = slurm.gpus_per_job or slurm.workers_per_job
    # What a worker of dask-cuda has no options for, it is told by its environment, as is any other.
    lifetime = {
        "DASK_DISTRIBUTED__WORKER__LIFETIME__DURATION": f"{slurm.walltime_s - slurm.leave_s} s",
        "DASK_DISTRIBUTED__WORKER__LIFETIME__STAGGER": f"{slurm.leave_s / 2} s",
    }
    variables = environment(preload) | lifetime
    gpu_options = {}
    gpu_directives = []
    gpu_arguments = []
    if slurm.gpus_per_job:
        variables |= GPU_VARIABLES
        gpu_options = {"worker_command": "dask_cuda.cli"}
        gpu_directives = [f"--gres=gpu:{slurm.gpus_per_job}"]
        gpu_arguments = gpu_worker_arguments(settings)
    exports = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    return {
        "queue": slurm.queue or None,
        "account": slurm.account or None,
        "cores": processes * run.threads_per_worker,
        "processes": processes,
        "memory": f"{int(processes * (run.memory_gib or DEFAULT_MEMORY_GIB) * GIB)}B",
        "walltime": slurm.walltime,
        "interface": slurm.interface or None,
        "scheduler_options": {"dashboard_address": run.dashboard} | _where(slurm.interface, slurm.scheduler_host),
        "security": tls.security(run.tls),
        "log_directory": os.path.abspath(slurm.log_folder),
        "local_directory": slurm.scratch or None,
        "job_extra_directives": [*gpu_directives, *slurm.directives],
        "job_script_prologue": [*slurm.prologue, *exports],
        "python": slurm.python or sys.executable,
        "worker_extra_args": ["--no-dashboard", *gpu_arguments],
        "job_name": "emqa",
        "silence_logs": "CRITICAL",
        **gpu_options,
    }


def _where(interface: str, host: str) -> dict[str, str]:
    """The scheduler's listening place; ValueError where nobody has said one: it would be the whole network."""
    known = psutil.net_if_addrs()
    if host:
        return {"host": host}
    if interface not in known:
        what = f"slurm.interface is {interface!r}" if interface else "nodes have to reach the scheduler in this process"
        raise ValueError(f"{what}: set slurm.interface to one of {', '.join(known)}, or slurm.scheduler_host")
    return {"interface": interface}


def _ask(script: str) -> None:
    """RuntimeError with SLURM's words where it would refuse the job; nothing is submitted."""
    ran = subprocess.run(["sbatch", "--test-only"], input=script, capture_output=True, text=True, timeout=120)
    if ran.returncode != 0:
        said = " ".join(ran.stderr.split()) or f"sbatch --test-only ended with {ran.returncode}"
        raise RuntimeError(f"SLURM refuses such a job: {said} (see [slurm], run.memory_gib, run.threads_per_worker)")


def job_of(worker) -> str:
    """The name of the job that a worker (a WorkerState), one of several in it, belongs to."""
    return worker.name.rpartition("-")[0]


class Jobs(Adaptive):
    """Dask's adaptive scaling, with SLURM's word on which jobs there are, and no job given back that does anything.

    dask-jobqueue counts on a job for ever once it is submitted, if it never started a worker or had several.
    """

    say: Say = print
    log_folder: str = "."
    cluster: Any  # a SpecCluster; distributed types it as a Cluster, which has no worker_spec

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._came: set[str] = set()  # jobs that have started a worker
        self._n_lost = 0  # jobs in a row that ended before one
        self._last_lost = ""
        self._rest_until = 0.0

    async def recommendations(self, target: int) -> dict:
        await self._forget_ended()
        if time.monotonic() < self._rest_until:
            return {"status": "same"}
        return await super().recommendations(target)

    async def workers_to_close(self, target: int) -> list[str]:
        names = await super().workers_to_close(target)
        busy = {self._job(ws.name) for ws in self.cluster.scheduler.workers.values() if ws.processing}
        return [name for name in names if self._job(name) not in busy]

    async def _forget_ended(self) -> None:
        came = {self._job(name) for name in self.observed}
        self._came |= came
        if came:
            self._n_lost = 0
        jobs = [(name, job.job_id) for name, job in self.cluster.workers.items() if name not in came]
        states = await asyncio.to_thread(queue) if jobs else {}
        if states is None:  # SLURM's controller does not answer now: nothing is known
            return
        for name, job_id in jobs:
            if job_id not in states:
                self.cluster.workers.pop(name, None)
                self.cluster.worker_spec.pop(name, None)
                if name not in self._came:
                    self._lose(job_id)
                self._came.discard(name)

    def _lose(self, job_id: str | None) -> None:
        self._n_lost += 1
        self._rest_until = time.monotonic() + min(INTERVAL_S * 2**self._n_lost, REST_S)
        is_refused = job_id is None  # as by a limit on the jobs of one user
        lost = f"SLURM job {job_id} ended before a worker came{_output(self.log_folder, job_id)}"
        self._last_lost = "sbatch refused a job that it would have taken before" if is_refused else lost
        self.say(self._last_lost)

    def _job(self, worker: str) -> str:
        return worker if worker in self.cluster.worker_spec else worker.rpartition("-")[0]

    def describe(self) -> str:
        """What SLURM says about our jobs, in a line; RuntimeError once three in a row have started no worker."""
        if self._n_lost >= 3:
            raise RuntimeError(f"{self._n_lost} in a row: {self._last_lost}")
        jobs = [job.job_id for job in list(self.cluster.workers.values()) if job.job_id]
        states = queue()
        if states is None:
            return "squeue does not answer"
        return ", ".join(f"job {job} {states.get(job, 'has ended')}" for job in jobs) or "no job is submitted yet"


def _output(folder: str, job_id: str) -> str:
    """The last line that a job has written."""
    for path in sorted(Path(folder).glob(f"*-{job_id}.err")):
        if lines := path.read_text(errors="replace").strip().splitlines():
            return f"; {path} ends with: {lines[-1].strip()}"
    return f"; its output is in {folder}"


def queue() -> dict[str, str] | None:
    """State, and reason to wait, of this user's jobs that have not ended, by job number; None if SLURM is silent."""
    command = ["squeue", "--noheader", "--user", str(os.getuid()), "--format=%A %T (%r)"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return None
    if ran.returncode != 0:
        return None
    return dict(line.split(maxsplit=1) for line in ran.stdout.splitlines() if line.strip())
