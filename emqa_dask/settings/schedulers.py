"""Settings of the run: which workers do it, what one image may cost, and a section for each scheduler."""

import re
from dataclasses import dataclass

from emqa_dask.settings.rules import require

NAMES = ("local", "in-process", "cuda", "slurm", "kubernetes")
ADDRESSES = ("tcp://", "tls://", "file:")
WALLTIME = re.compile(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)")


@dataclass(frozen=True)
class Run:
    scheduler: str = "local"  # local, in-process, cuda, slurm, kubernetes, tcp://host:port, or file:scheduler.json
    workers: int = 0  # worker processes: 0 = one per core (local) or GPU (cuda), or between the section's min and max
    threads_per_worker: int = 1
    tasks_per_worker: int = 3  # futures in flight per worker
    batch_size: int = 8  # images that go to a GPU together; halved where its memory is too small
    memory_gib: float = 0.0  # that a worker may use; 0 = its share of the machine (local, cuda), or 4 GiB elsewhere
    timeout_s: float = 120.0  # that one image of up to 4 megapixels may take in a stage, larger ones more; 0 = for ever
    wait_s: float = 600.0  # that the first worker may take to come; 0 = for ever, as for a long queue
    dashboard: str = "127.0.0.1:0"  # where the dashboard listens: loopback, on a free port
    tls: str = ""  # a folder with ca.pem, cert.pem and key.pem, which nodes see: all of Dask speaks TLS only

    def check(self):
        known = self.scheduler in NAMES or self.scheduler.startswith(ADDRESSES)
        rule = f"is {', '.join(NAMES)}, tcp://host:port, or file: and a scheduler file"
        require(known, "run.scheduler", self.scheduler, rule)
        require(self.workers >= 0, "run.workers", self.workers, "cannot be negative")
        require(self.threads_per_worker >= 1, "run.threads_per_worker", self.threads_per_worker, "is at least 1")
        require(self.tasks_per_worker >= 1, "run.tasks_per_worker", self.tasks_per_worker, "has to be at least 1")
        require(self.batch_size >= 1, "run.batch_size", self.batch_size, "has to be at least 1")
        require(self.memory_gib >= 0, "run.memory_gib", self.memory_gib, "cannot be negative")
        require(self.timeout_s >= 0, "run.timeout_s", self.timeout_s, "cannot be negative")
        require(self.wait_s >= 0, "run.wait_s", self.wait_s, "cannot be negative")
        has_port = re.fullmatch(r".*:\d{1,5}", self.dashboard) is not None
        require(has_port, "run.dashboard", self.dashboard, "is host:port, as in 127.0.0.1:0")


@dataclass(frozen=True)
class Local:
    """Workers on this machine."""

    host: str = "127.0.0.1"  # where scheduler and workers listen: who can reach them can run code, if tls is off
    tls: bool = True  # with certificates of this run alone: else whoever reaches a port can run code in the workers

    def check(self):
        require(bool(self.host), "local.host", self.host, "is an address of this machine, as in 127.0.0.1")


@dataclass(frozen=True)
class Cuda:
    """One worker per GPU of this machine, on the loopback interface."""

    devices: tuple[str, ...] = ()  # numbers (in nvidia-smi's order) or UUIDs; none = CUDA_VISIBLE_DEVICES, or else all
    rmm_pool_fraction: float = 0.8  # of its GPU's memory that a worker takes at once, for cupy and torch together
    rmm_async: bool = False  # by the driver's own pool instead, which grows and gives back what is beyond the fraction

    def check(self):
        fraction = self.rmm_pool_fraction
        require(0 < fraction <= 1, "cuda.rmm_pool_fraction", fraction, "has to be above 0 and at most 1")
        require(len(set(self.devices)) == len(self.devices), "cuda.devices", self.devices, "names a GPU twice")


@dataclass(frozen=True)
class Slurm:
    """Workers in SLURM jobs, of which there are more while there is much to do; the scheduler is in this process.

    A job has run.threads_per_worker cores and run.memory_gib for each of its workers.
    """

    queue: str = ""  # the partition that jobs go to; empty = SLURM's default
    account: str = ""
    walltime: str = "04:00:00"  # of a job: [days-]hours:minutes:seconds
    leave_s: float = 300.0  # before its walltime, give or take half, a worker leaves; its task is run again elsewhere
    workers_per_job: int = 1
    gpus_per_job: int = 0  # asks for --gres=gpu:N and starts a worker per GPU with dask-cuda, instead of the above
    min_jobs: int = 1
    max_jobs: int = 10
    interface: str = ""  # the network between nodes, as in ib0 or eth0
    scheduler_host: str = ""  # where the scheduler listens if not on `interface`: an address that nodes can reach
    log_folder: str = "slurm-logs"  # of the jobs' output; nodes have to see it
    scratch: str = ""  # a folder on each node for Dask's own small files; empty = the node's temporary folder
    directives: tuple[str, ...] = ()  # further ones for sbatch, as in ["--qos=long", "--exclude=n13"]
    prologue: tuple[str, ...] = ()  # lines of the job script before the workers, as in ["module load cuda"]
    python: str = ""  # that starts workers on the nodes; empty = this one

    def check(self):
        require(bool(WALLTIME.fullmatch(self.walltime)), "slurm.walltime", self.walltime, "is [days-]HH:MM:SS")
        rule = "is below slurm.walltime and not negative"
        require(0 <= self.leave_s < self.walltime_s, "slurm.leave_s", self.leave_s, rule)
        require(self.workers_per_job >= 1, "slurm.workers_per_job", self.workers_per_job, "has to be at least 1")
        require(self.gpus_per_job >= 0, "slurm.gpus_per_job", self.gpus_per_job, "cannot be negative")
        rule = "is in 1...max_jobs: without a job no worker could be looked at before the first task"
        require(1 <= self.min_jobs <= self.max_jobs, "slurm.min_jobs", self.min_jobs, rule)

    @property
    def walltime_s(self) -> int:
        days, hours, minutes, seconds = (int(n or 0) for n in WALLTIME.fullmatch(self.walltime).groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


@dataclass(frozen=True)
class Kubernetes:
    """Workers in pods that the Dask operator starts, or those of a DaskCluster that is there already.

    A pod is one worker with run.threads_per_worker cores and run.memory_gib (one for each GPU, with several of those).
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

    def check(self):
        rule = "is in 1...max_workers"
        require(1 <= self.min_workers <= self.max_workers, "kubernetes.min_workers", self.min_workers, rule)
        require(self.gpus_per_worker >= 0, "kubernetes.gpus_per_worker", self.gpus_per_worker, "cannot be negative")
        require(all("=" in pair for pair in self.env), "kubernetes.env", self.env, "is a list of NAME=value")
        are_volumes = all(re.fullmatch(r"[^:]+:/.+", volume) for volume in self.volumes)
        require(are_volumes, "kubernetes.volumes", self.volumes, "is a list of claim:/path")
        gib = self.scheduler_memory_gib
        require(gib > 0, "kubernetes.scheduler_memory_gib", gib, "has to be above 0")
