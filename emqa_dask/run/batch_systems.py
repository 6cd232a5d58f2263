"""Batch systems as data: SYSTEMS has the dask-jobqueue class of each, its commands, and how a job asks for resources.

SLURM was run (tests/slurm). Of the others the job scripts are checked, but no job was run.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

MIB = 2**20


@dataclass(frozen=True)
class Job:
    """Resources of one job of a batch system."""

    section: Any  # the section of the settings: a Batch, or a subclass with keys of its own
    n_cores: int
    memory_bytes: int

    @property
    def memory_mib(self) -> int:
        return math.ceil(self.memory_bytes / MIB)

    @property
    def walltime(self) -> str:
        """HH:MM:SS without days: all systems but SLURM take it."""
        minutes, seconds = divmod(self.section.walltime_s, 60)
        return f"{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}"


def request_slurm(job: Job) -> dict[str, object]:
    """Arguments of SLURMCluster for the resources of a job."""
    section = job.section
    gpus = [f"--gres=gpu:{section.gpus_per_job}"] if section.gpus_per_job else []
    return {
        "queue": section.queue or None,
        "account": section.account or None,
        "walltime": section.walltime,
        "job_extra_directives": [*gpus, *section.directives],
    }


def request_pbs(job: Job) -> dict[str, object]:
    """Arguments of PBSCluster for the resources of a job."""
    section = job.section
    gpus = f":ngpus={section.gpus_per_job}" if section.gpus_per_job else ""
    return {
        "queue": section.queue or None,
        "account": section.account or None,
        "walltime": job.walltime,
        "resource_spec": f"select=1:ncpus={job.n_cores}:mem={job.memory_mib}mb{gpus}",  # mb of PBS are MiB
        "job_extra_directives": [*section.directives],
    }


def request_lsf(job: Job) -> dict[str, object]:
    """Arguments of LSFCluster for the resources of a job."""
    section = job.section
    gpus = [f'-gpu "num={section.gpus_per_job}"'] if section.gpus_per_job else []
    minutes = math.ceil(section.walltime_s / 60)
    return {
        "queue": section.queue or None,
        "project": section.account or None,
        "walltime": f"{minutes // 60:02d}:{minutes % 60:02d}",  # LSF has no seconds
        "use_stdin": True,  # bsub reads the directives of a script only there
        "job_extra_directives": [*gpus, *section.directives],
    }


def request_sge(job: Job) -> dict[str, object]:
    """Arguments of SGECluster for the resources of a job."""
    section = job.section
    cores = [f"-pe {section.parallel_environment} {job.n_cores}"] if job.n_cores > 1 else []
    gpus = [f"-l {section.gpu_resource}={section.gpus_per_job}"] if section.gpus_per_job else []
    return {
        "queue": section.queue or None,
        "project": section.account or None,
        "walltime": job.walltime,
        "resource_spec": f"{section.memory_resource}={math.ceil(job.memory_mib / job.n_cores)}M",
        "job_extra_directives": [*cores, *gpus, *section.directives],
    }


def request_htcondor(job: Job) -> dict[str, object]:
    """Arguments of HTCondorCluster for the resources of a job."""
    section = job.section
    attributes: dict[str, object] = {
        # HTCondor has no walltime of its own. JobStatus 2 is a job that runs.
        "periodic_remove": f"(JobStatus == 2) && ((time() - EnteredCurrentStatus) > {section.walltime_s})"
    }
    if section.gpus_per_job:
        attributes["request_gpus"] = section.gpus_per_job
    if section.account:
        attributes["accounting_group"] = section.account
    directives = (line.split("=", 1) for line in section.directives)
    return {
        "disk": f"{math.ceil(section.disk_gib * 1024)}MiB",
        "job_extra_directives": attributes | {name.strip(): value.strip() for name, value in directives},
    }


@dataclass(frozen=True)
class BatchSystem:
    """Commands and job script of a batch system.

    `cluster_class` is the name of its class in dask_jobqueue, which writes the job script. `request(job)` gives those
    of its arguments that ask for resources. In `list_command` {uid} and {user} stand for this user.
    """

    title: str
    cluster_class: str
    commands: tuple[str, ...]  # that have to be on this machine; the first one submits a job
    request: Callable[[Job], dict[str, object]]
    list_command: str  # prints this user's jobs, a line each
    listed_job: str  # regular expression of such a line, with the groups `job` and `state`
    error_files: tuple[str, ...]  # patterns of the file with a job's error output; {job} is its number
    ended_states: frozenset[str] = frozenset()  # of listed jobs that have ended
    state_names: Mapping[str, str] = field(default_factory=dict)  # of states that are listed as numbers
    message_without_jobs: str = ""  # printed as an error where this user has no jobs; empty = nothing is printed
    test_command: tuple[str, ...] = ()  # refuses a job script on its stdin that could not run; nothing is submitted

    def parse_jobs(self, text: str) -> dict[str, str]:
        """State of every job by its number that has not ended, from the output of `list_command`."""
        matches = (re.match(self.listed_job, line.strip()) for line in text.splitlines())
        states = {match["job"]: match["state"] for match in matches if match}
        return {job: self.state_names.get(s, s) for job, s in states.items() if s not in self.ended_states}


SYSTEMS: dict[str, BatchSystem] = {  # by the name of the settings section
    "slurm": BatchSystem(
        title="SLURM",
        cluster_class="SLURMCluster",
        commands=("sbatch", "squeue", "scancel"),
        request=request_slurm,
        list_command="squeue --noheader --user {uid} --format='%A %T (%r)'",
        listed_job=r"(?P<job>\S+)\s+(?P<state>.+)",
        error_files=("*-{job}.err",),
        test_command=("sbatch", "--test-only"),
    ),
    "pbs": BatchSystem(
        title="PBS",
        cluster_class="PBSCluster",
        commands=("qsub", "qstat", "qdel"),
        request=request_pbs,
        list_command="qstat -u {user}",
        # number.server user queue name session nodes tasks memory time state elapsed
        listed_job=r"(?P<job>\d+)\S*(?:\s+\S+){8}\s+(?P<state>\S)\s",
        error_files=("{job}.*ER", "*.e{job}"),
        ended_states=frozenset("CFX"),  # completed, finished, finished subjob
    ),
    "lsf": BatchSystem(
        title="LSF",
        cluster_class="LSFCluster",
        commands=("bsub", "bjobs", "bkill"),
        request=request_lsf,
        list_command="bjobs -noheader -o 'jobid stat'",
        listed_job=r"(?P<job>\d+)\s+(?P<state>\S+)",
        error_files=("*-{job}.err",),
        ended_states=frozenset(("DONE", "EXIT")),
        message_without_jobs="No unfinished job found",
    ),
    "sge": BatchSystem(
        title="Grid Engine",
        cluster_class="SGECluster",
        commands=("qsub", "qstat", "qdel"),
        request=request_sge,
        list_command="qstat -u {user}",
        # number priority name user state ...
        listed_job=r"(?P<job>\d+)(?:\s+\S+){3}\s+(?P<state>\S+)",
        error_files=("*.o{job}",),  # dask-jobqueue joins the error output to the output
    ),
    "htcondor": BatchSystem(
        title="HTCondor",
        cluster_class="HTCondorCluster",
        commands=("condor_submit", "condor_q", "condor_rm"),
        request=request_htcondor,
        list_command=r"condor_q -format %d. ClusterId -format '%d ' ProcId -format '%d\n' JobStatus",
        listed_job=r"(?P<job>\d+\.\d+) (?P<state>\d+)",
        error_files=("worker-{job}.err",),
        ended_states=frozenset("34"),  # removed, completed
        state_names={"1": "idle", "2": "running", "5": "held", "6": "transferring output", "7": "suspended"},
    ),
}
