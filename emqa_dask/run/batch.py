"""Workers in jobs of a batch system, as many as there is work for; the Dask scheduler is in this process."""

import contextlib
import math
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psutil
from distributed import Client

from emqa_dask.run import tls
from emqa_dask.run.batch_jobs import AdaptiveJobs, job_of_worker, record_refusals
from emqa_dask.run.batch_systems import SYSTEMS, BatchSystem, Job
from emqa_dask.run.remote import wait_for_workers
from emqa_dask.run.workers import (
    GPU_VARIABLES,
    make_dask_configuration,
    make_gpu_worker_arguments,
    make_worker_environment,
    select_memory_gib,
)
from emqa_dask.settings import Settings
from emqa_dask.settings.schedulers import Batch

GIB = 2**30
INTERVAL_S = 10.0  # between looks at what is to do, and at the queue
IDLE_LOOKS = 12  # in which a job has nothing to do before it is given back: between two stages it is kept
TARGET_S = 1.0  # the window of tasks is a few per worker, so what waits in it for longer than this wants more jobs
TEST_S = 120.0  # that the batch system may take to answer whether it would take a job
Say = Callable[[str], None]


@contextlib.contextmanager
def open_batch(settings: Settings, preload: Sequence[str] = (), say: Say = print) -> Iterator:
    """A distributed Client of workers in jobs of the batch system run.scheduler, once there is one worker.

    All jobs are cancelled at the end. `run.workers` is the number of workers; 0 lets it follow the work, between
    min_jobs and max_jobs of the section. Workers leave `leave_s` before their walltime, and a job that the batch system
    does not list any more is replaced. Raises ValueError or RuntimeError, with the remedy, where no job can be
    submitted, or where the first jobs end before a worker comes.
    """
    import dask

    name = settings.run.scheduler
    system = SYSTEMS[name]
    section: Batch = getattr(settings, name)
    cluster_class = import_cluster_class(name)
    if missing := [command for command in system.commands if shutil.which(command) is None]:
        raise RuntimeError(f"no {', '.join(missing)} on this machine: start the run on a login node of the cluster")
    options = cluster_options(settings, preload)
    per_job = options["processes"]
    n_jobs = math.ceil(settings.run.workers / per_job)
    config = make_dask_configuration(preload) | {
        "distributed.deploy.lost-worker-timeout": "1h"
    }  # the queue says what is lost
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(config))
        job_class = record_refusals(cluster_class.job_cls)
        cluster = stack.enter_context(cluster_class(job_cls=job_class, **options))
        _test_script(system, name, cluster.job_script())
        client = stack.enter_context(Client(cluster, security=options["security"], set_as_default=False))
        jobs = cluster.adapt(
            Adaptive=AdaptiveJobs,
            minimum_jobs=n_jobs or section.min_jobs,
            maximum_jobs=n_jobs or section.max_jobs,
            interval=INTERVAL_S,
            wait_count=IDLE_LOOKS,
            target_duration=TARGET_S,
            worker_key=job_of_worker if per_job > 1 else None,
        )
        jobs.system = system
        jobs.say = say
        jobs.log_folder = section.log_folder
        wait_for_workers(client, settings.run.wait_s, say, jobs.describe)
        yield client


def import_cluster_class(name: str) -> Any:
    """The class of dask-jobqueue for the batch system `name`; RuntimeError where the package is not installed."""
    try:
        import dask_jobqueue
    except ImportError as error:
        raise RuntimeError(f"scheduler {name!r} needs dask-jobqueue: pip install 'emqa_dask[jobqueue]'") from error
    return getattr(dask_jobqueue, SYSTEMS[name].cluster_class)


def cluster_options(settings: Settings, preload: Sequence[str] = ()) -> dict[str, Any]:
    """Arguments of the cluster class of dask-jobqueue for the batch system run.scheduler."""
    run = settings.run
    section: Batch = getattr(settings, run.scheduler)
    processes = section.gpus_per_job or section.workers_per_job
    n_cores = processes * run.worker_threads
    memory_bytes = int(processes * select_memory_gib(run, section.gpus_per_job) * GIB)
    exports = [f"export {name}={shlex.quote(value)}" for name, value in _variables(section, preload).items()]
    gpu_options = {"worker_command": "dask_cuda.cli"} if section.gpus_per_job else {}
    gpu_arguments = make_gpu_worker_arguments(settings) if section.gpus_per_job else []
    host = _scheduler_host(section)
    return {
        "cores": n_cores,
        "processes": processes,
        "memory": f"{memory_bytes}B",
        "interface": section.interface or None,
        "scheduler_options": {"dashboard_address": run.dashboard} | host,
        "security": tls.load_security(run.tls),
        "log_directory": os.path.abspath(section.log_folder),
        "local_directory": section.scratch or None,
        "job_script_prologue": [*section.prologue, *exports],
        "python": section.python or sys.executable,
        "worker_extra_args": ["--no-dashboard", *gpu_arguments],
        "job_name": "emqa",
        "silence_logs": "CRITICAL",
        **gpu_options,
        **SYSTEMS[run.scheduler].request(Job(section, n_cores, memory_bytes)),
    }


def _variables(section: Batch, preload: Sequence[str]) -> dict[str, str]:
    """Environment of the workers. Workers of dask-cuda have no option for a lifetime, so it is set here."""
    lifetime = {
        "DASK_DISTRIBUTED__WORKER__LIFETIME__DURATION": f"{section.walltime_s - section.leave_s} s",
        "DASK_DISTRIBUTED__WORKER__LIFETIME__STAGGER": f"{section.leave_s / 2} s",
    }
    return make_worker_environment(preload) | lifetime | (GPU_VARIABLES if section.gpus_per_job else {})


def _scheduler_host(section: Batch) -> dict[str, str]:
    """Listening address of the scheduler; ValueError without one, since it would listen on every network."""
    interfaces = psutil.net_if_addrs()
    name = section.SECTION
    if section.scheduler_host:
        return {"host": section.scheduler_host}
    if section.interface not in interfaces:
        missing_interface = f"{name}.interface is {section.interface!r}"
        problem = missing_interface if section.interface else "nodes have to reach the scheduler in this process"
        raise ValueError(f"{problem}: set {name}.interface to one of {', '.join(interfaces)}, or {name}.scheduler_host")
    return {"interface": section.interface}


def _test_script(system: BatchSystem, name: str, script: str) -> None:
    """RuntimeError with the message of the batch system where it would refuse the job; nothing is submitted."""
    if not system.test_command:
        return
    ran = subprocess.run([*system.test_command], input=script, capture_output=True, text=True, timeout=TEST_S)
    if ran.returncode != 0:
        command = " ".join(system.test_command)
        reason = " ".join(ran.stderr.split()) or f"{command} ended with {ran.returncode}"
        settings = f"[{name}], run.memory_gib, run.threads_per_worker, run.gpu_threads"
        raise RuntimeError(f"{system.title} refuses such a job: {reason} (see {settings})")
