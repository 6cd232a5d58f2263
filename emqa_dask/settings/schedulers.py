"""Settings of the run: which workers do it, what one image may cost, and a section for each scheduler."""

import re
from dataclasses import dataclass, field, fields
from typing import ClassVar

from emqa_dask.number_ranges import Range
from emqa_dask.settings.rules import require

ADDRESSES = ("tcp://", "tls://", "file:")
DAY_S = 86_400.0  # a time-out grows with an image, and Python's timers end at 9.2e9 s
LAST_PORT = 65_535
WALLTIME = re.compile(r"(?:([0-9]{1,6})-)?([0-9]{1,6}):([0-5][0-9]):([0-5][0-9])")


@dataclass(frozen=True)
class Run:
    # local, in-process, cuda, slurm, pbs, lsf, sge, htcondor, kubernetes, tcp://host:port, or file:scheduler.json
    scheduler: str = "local"
    device: str = "cpu"  # that searches images and runs networks: cpu, or cuda: the GPU of each worker
    workers: int = 0  # worker processes: 0 = one per core (local) or GPU (cuda), or between the section's min and max
    threads_per_worker: int = 1  # of a worker without a GPU
    gpu_threads: int = 4  # of a GPU worker: a task computes on the GPU while others read their images or finish
    tasks_per_worker: int = 3  # futures in flight per worker
    batch_size: int = 8  # images that go to a GPU together; halved where its memory is too small
    # that a worker may use; 0 = its share of the machine (local, cuda); elsewhere 4 GiB, with a GPU 8 (not measured)
    memory_gib: float = 0.0
    timeout_s: float = 120.0  # that one image of up to 4 megapixels may take in a stage, larger ones more; 0 = for ever
    wait_s: float = 600.0  # that the first worker may take to come; 0 = for ever, as for a long queue
    dashboard: str = "127.0.0.1:0"  # where the dashboard listens: loopback, on a free port
    tls: str = ""  # a folder with ca.pem, cert.pem and key.pem, which nodes see: all of Dask speaks TLS only
    RANGES: ClassVar = {
        "workers": Range(0, 4096),
        "threads_per_worker": Range(1, 1024),
        "gpu_threads": Range(1, 1024),
        "tasks_per_worker": Range(1, 1000),
        "batch_size": Range(1, 65_536),
        "memory_gib": Range(0.001, 65_536, or_zero=True),
        "timeout_s": Range(0.001, DAY_S, or_zero=True),
        "wait_s": Range(0, 30 * DAY_S),
    }

    @property
    def worker_threads(self) -> int:
        """Number of tasks that a worker runs at a time."""
        return self.gpu_threads if self.device == "cuda" else self.threads_per_worker

    def check(self) -> None:
        is_known = self.scheduler in SCHEDULER_NAMES or self.scheduler.startswith(ADDRESSES)
        rule = f"is {', '.join(SCHEDULER_NAMES)}, tcp://host:port, or file: and a scheduler file"
        require(is_known, "run.scheduler", self.scheduler, rule)
        if self.scheduler.startswith(("tcp://", "tls://")):
            require(_has_port(self.scheduler.rstrip("/"), 1), "run.scheduler", self.scheduler, rule)
        require(self.scheduler != "file:", "run.scheduler", self.scheduler, rule)
        require(self.device in ("cpu", "cuda"), "run.device", self.device, "is 'cpu' or 'cuda'")
        rule = f"is host:port, as in 127.0.0.1:0, with a port up to {LAST_PORT}"
        require(_has_port(self.dashboard, 0), "run.dashboard", self.dashboard, rule)


def _has_port(address: str, lowest: int) -> bool:
    match = re.fullmatch(r".*:([0-9]{1,5})", address)
    return match is not None and lowest <= int(match[1]) <= LAST_PORT


@dataclass(frozen=True)
class Local:
    """Workers on this machine."""

    host: str = "127.0.0.1"  # where scheduler and workers listen: who can reach them can run code, if tls is off
    tls: bool = True  # with certificates of this run alone: else whoever reaches a port can run code in the workers

    def check(self) -> None:
        require(bool(self.host), "local.host", self.host, "is an address of this machine, as in 127.0.0.1")


@dataclass(frozen=True)
class Cuda:
    """One worker per GPU of this machine, on the loopback interface."""

    devices: tuple[str, ...] = ()  # numbers (in nvidia-smi's order) or UUIDs; none = CUDA_VISIBLE_DEVICES, or else all
    rmm_pool_fraction: float = 0.8  # of its GPU's memory that a worker takes at once, for cupy and torch together
    rmm_async: bool = False  # by the driver's own pool instead, which grows and gives back what is beyond the fraction
    RANGES: ClassVar = {
        "rmm_pool_fraction": Range(0.001, 1),
    }

    def check(self) -> None:
        require(len(set(self.devices)) == len(self.devices), "cuda.devices", self.devices, "names a GPU twice")


@dataclass(frozen=True)
class Batch:
    """Workers in jobs of a batch system, more of them while there is more to do; the Dask scheduler is in this process.

    A job has run.threads_per_worker (with GPUs run.gpu_threads) cores and run.memory_gib for each of its workers.
    """

    SECTION: ClassVar = "batch"
    queue: str = ""  # that jobs go to (in SLURM: the partition); empty = the default of the batch system
    account: str = ""  # that pays for jobs (in LSF and SGE: the project)
    walltime: str = "04:00:00"  # of a job: [days-]hours:minutes:seconds
    leave_s: float = 300.0  # before its walltime, give or take half, a worker leaves; its task is run again elsewhere
    workers_per_job: int = 1
    gpus_per_job: int = 0  # asks for N GPUs and starts a worker per GPU with dask-cuda, instead of workers_per_job
    min_jobs: int = 1
    max_jobs: int = 10
    interface: str = ""  # the network between nodes, as in ib0 or eth0
    scheduler_host: str = ""  # where the scheduler listens if not on `interface`: an address that nodes can reach
    log_folder: str = "job-logs"  # of the jobs' output; nodes have to see it
    scratch: str = ""  # a folder on each node for Dask's own small files; empty = the node's temporary folder
    directives: tuple[str, ...] = ()  # further ones of the job script, as in ["--qos=long"] for SLURM
    prologue: tuple[str, ...] = ()  # lines of the job script before the workers, as in ["module load cuda"]
    python: str = ""  # that starts workers on the nodes; empty = this one
    RANGES: ClassVar = {
        "leave_s": Range(0, 365 * DAY_S),
        "workers_per_job": Range(1, 1024),
        "gpus_per_job": Range(0, 1024),
        "min_jobs": Range(1, 10_000),
        "max_jobs": Range(1, 10_000),
    }

    def check(self) -> None:
        is_known = WALLTIME.fullmatch(self.walltime) and 0 < self.walltime_s <= 365 * DAY_S
        rule = "is [days-]HH:MM:SS, above zero and at most 365 days"
        require(bool(is_known), f"{self.SECTION}.walltime", self.walltime, rule)
        rule = f"is below {self.SECTION}.walltime, {self.walltime}"
        require(self.leave_s < self.walltime_s, f"{self.SECTION}.leave_s", self.leave_s, rule)
        rule = f"is in 1...{self.SECTION}.max_jobs: without a job no worker could be checked before the first task"
        require(1 <= self.min_jobs <= self.max_jobs, f"{self.SECTION}.min_jobs", self.min_jobs, rule)

    @property
    def walltime_s(self) -> int:
        match = WALLTIME.fullmatch(self.walltime)
        if match is None:
            raise ValueError(f"{self.SECTION}.walltime is {self.walltime!r}: it has to be [days-]HH:MM:SS")
        days, *clock = (int(n or 0) for n in match.groups())
        hours, minutes, seconds = clock
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


@dataclass(frozen=True)
class Slurm(Batch):
    """Workers in jobs of SLURM."""

    SECTION: ClassVar = "slurm"
    log_folder: str = "slurm-logs"  # of the jobs' output; nodes have to see it


@dataclass(frozen=True)
class Pbs(Batch):
    """Workers in jobs of OpenPBS or PBS Professional; the job script is checked, but was not run there."""

    SECTION: ClassVar = "pbs"


@dataclass(frozen=True)
class Lsf(Batch):
    """Workers in jobs of IBM Spectrum LSF; the job script is checked, but was not run there."""

    SECTION: ClassVar = "lsf"


@dataclass(frozen=True)
class Sge(Batch):
    """Workers in jobs of Grid Engine; the job script is checked, but was not run there."""

    SECTION: ClassVar = "sge"
    parallel_environment: str = "smp"  # that gives a job several cores of one node, see `qconf -spl`
    memory_resource: str = "mem_free"  # asked for per core; not h_vmem: libraries reserve more addresses than memory
    gpu_resource: str = "gpu"  # asked for per job, see `qconf -sc`

    def check(self) -> None:
        super().check()
        for key in ("parallel_environment", "memory_resource", "gpu_resource"):
            require(bool(getattr(self, key)), f"sge.{key}", getattr(self, key), "is a name that Grid Engine knows")


@dataclass(frozen=True)
class Htcondor(Batch):
    """Workers in jobs of HTCondor, whose nodes share a disk; the job script is checked, but was not run there."""

    SECTION: ClassVar = "htcondor"
    disk_gib: float = 4.0  # of a job's own folder on its node
    RANGES: ClassVar = Batch.RANGES | {"disk_gib": Range(0.001, 65_536)}

    def check(self) -> None:
        super().check()
        require(not self.queue, "htcondor.queue", self.queue, "has to be empty, since HTCondor has no queues")
        are_pairs = all("=" in line for line in self.directives)
        require(are_pairs, "htcondor.directives", self.directives, 'is a list of "key = value"')


@dataclass(frozen=True)
class Kubernetes:
    """Workers in pods that the Dask operator starts, or those of a DaskCluster that is there already.

    A pod is one worker with a core for each of its threads and run.memory_gib (one for each GPU, with several of
    those).
    """

    cluster: str = ""  # the name of a DaskCluster that is there: it is used and left as it is; empty = make one
    namespace: str = ""  # empty = that of the current context
    image: str = ""  # with this package in it, as cluster/Dockerfile makes
    min_workers: int = 1
    max_workers: int = 10
    gpus_per_worker: int = 0  # asks for nvidia.com/gpu
    env: tuple[str, ...] = ()  # NAME=value for every pod; what is secret belongs into `secret`
    secret: str = ""  # a Secret whose entries are environment variables of workers, as a bucket's credentials
    volumes: tuple[str, ...] = ()  # claim:/path of PersistentVolumeClaims that workers mount
    worker_command: tuple[str, ...] = ()  # empty = dask worker, or dask cuda worker with gpus_per_worker
    scheduler_memory_gib: float = 4.0
    RANGES: ClassVar = {
        "min_workers": Range(1, 10_000),
        "max_workers": Range(1, 10_000),
        "gpus_per_worker": Range(0, 1024),
        "scheduler_memory_gib": Range(0.001, 65_536),
    }

    def check(self) -> None:
        rule = f"is at most kubernetes.max_workers, which is {self.max_workers}"
        require(1 <= self.min_workers <= self.max_workers, "kubernetes.min_workers", self.min_workers, rule)
        require(all("=" in pair for pair in self.env), "kubernetes.env", self.env, "is a list of NAME=value")
        are_volumes = all(re.fullmatch(r"[^:]+:/.+", volume) for volume in self.volumes)
        require(are_volumes, "kubernetes.volumes", self.volumes, "is a list of claim:/path")


@dataclass(frozen=True)
class SchedulerSections:
    """The section of every scheduler, under its name; a new batch system is one more subclass of Batch here."""

    local: Local = field(default_factory=Local)
    cuda: Cuda = field(default_factory=Cuda)
    slurm: Slurm = field(default_factory=Slurm)
    pbs: Pbs = field(default_factory=Pbs)
    lsf: Lsf = field(default_factory=Lsf)
    sge: Sge = field(default_factory=Sge)
    htcondor: Htcondor = field(default_factory=Htcondor)
    kubernetes: Kubernetes = field(default_factory=Kubernetes)


SCHEDULER_NAMES = ("in-process", *(section.name for section in fields(SchedulerSections)))
BATCH_SYSTEMS = tuple(name for name in SCHEDULER_NAMES[1:] if isinstance(getattr(SchedulerSections(), name), Batch))
