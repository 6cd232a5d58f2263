"""Adaptive number of jobs of a batch system, and replacement of jobs that have ended."""

import asyncio
import getpass
import os
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distributed.deploy import Adaptive

from emqa_dask.run.batch_systems import BatchSystem

REST_S = 600.0  # the longest rest after jobs that ended before a worker came
FIRST_REST_S = 20.0  # after the first of them; twice as long after every further one
MAX_JOBS_LOST = 3  # in a row that start no worker, before the run is given up
LIST_S = 60.0  # that the batch system may take to list jobs
Say = Callable[[str], None]


def job_of_worker(worker) -> str:
    """Name of the job to which a worker (a WorkerState), one of several in the job, belongs."""
    return worker.name.rpartition("-")[0]


def record_refusals(job_class: Any) -> Any:
    """Subclass of a job class of dask-jobqueue whose jobs keep the reason for a failed submission as `refusal`."""

    class RecordedJob(job_class):
        refusal = ""

        async def _submit_job(self, script_filename: str) -> str:
            try:
                return await super()._submit_job(script_filename)
            except RuntimeError as error:
                _, _, stderr = str(error).partition("stderr:\n")
                self.refusal = " ".join(stderr.split())
                raise

    return RecordedJob


class AdaptiveJobs(Adaptive):
    """Dask's adaptive scaling of jobs that the batch system lists; no job is given back while it has tasks.

    dask-jobqueue counts on a job for ever once it is submitted, if it never started a worker or had several.
    """

    system: BatchSystem
    say: Say = print
    log_folder: str = "."
    cluster: Any  # a SpecCluster; distributed types it as a Cluster, which has no worker_spec

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._started: set[str] = set()  # jobs that have started a worker
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
        busy = {self._job_name(ws.name) for ws in self.cluster.scheduler.workers.values() if ws.processing}
        return [name for name in names if self._job_name(name) not in busy]

    async def _forget_ended(self) -> None:
        started = {self._job_name(name) for name in self.observed}
        self._started |= started
        if started:
            self._n_lost = 0
        jobs = [(name, job) for name, job in self.cluster.workers.items() if name not in started]
        states = await asyncio.to_thread(list_jobs, self.system) if jobs else {}
        if states is None:  # the batch system does not answer now: nothing is known
            return
        for name, job in jobs:
            if job.job_id not in states:
                self.cluster.workers.pop(name, None)
                self.cluster.worker_spec.pop(name, None)
                if name not in self._started:
                    self._lose(job)
                self._started.discard(name)

    def _lose(self, job: Any) -> None:
        """Record that `job` ended without a worker, and delay the next one."""
        self._n_lost += 1
        self._rest_until = time.monotonic() + min(FIRST_REST_S * 2 ** (self._n_lost - 1), REST_S)
        if job.job_id is None:  # as by a limit on the jobs of one user
            expected = " that it would have taken before" if self.system.test_command else ""
            reason = f": {job.refusal}" if job.refusal else ""
            self._last_lost = f"{self.system.commands[0]} refused a job{expected}{reason}"
        else:
            output = read_last_line(self.system, self.log_folder, job.job_id)
            self._last_lost = f"{self.system.title} job {job.job_id} ended before a worker came{output}"
        self.say(self._last_lost)

    def _job_name(self, worker: str) -> str:
        return worker if worker in self.cluster.worker_spec else worker.rpartition("-")[0]

    def describe(self) -> str:
        """State of our jobs in one line; RuntimeError once several in a row have started no worker."""
        if self._n_lost >= MAX_JOBS_LOST:
            raise RuntimeError(f"{self._n_lost} in a row: {self._last_lost}")
        jobs = [job.job_id for job in list(self.cluster.workers.values()) if job.job_id]
        states = list_jobs(self.system)
        if states is None:
            return f"{self.system.commands[1]} does not answer"
        return ", ".join(f"job {job} {states.get(job, 'has ended')}" for job in jobs) or "no job is submitted yet"


def read_last_line(system: BatchSystem, folder: str, job_id: str) -> str:
    """The last line of a job's error output, as the end of a sentence."""
    for pattern in system.error_files:
        for path in sorted(Path(folder).glob(pattern.format(job=job_id))):
            if lines := path.read_text(errors="replace").strip().splitlines():
                return f"; {path} ends with: {lines[-1].strip()}"
    return f"; its output is in {folder}"


def list_jobs(system: BatchSystem) -> dict[str, str] | None:
    """State of this user's jobs that have not ended, by job number; None where the batch system does not answer."""
    command = [_fill_in_user(part) for part in shlex.split(system.list_command)]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=LIST_S)
    except subprocess.TimeoutExpired:
        return None
    if system.message_without_jobs and system.message_without_jobs in ran.stderr:
        return {}
    return system.parse_jobs(ran.stdout) if ran.returncode == 0 else None


def _fill_in_user(part: str) -> str:
    """`part` of a command, with this user in place of {uid} and {user}."""
    if part == "{uid}":
        return str(os.getuid())
    return getpass.getuser() if part == "{user}" else part
