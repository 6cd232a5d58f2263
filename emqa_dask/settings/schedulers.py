"""Settings of the run: which workers do it, what one image may cost, and a section for each scheduler."""

from dataclasses import dataclass

from emqa_dask.settings.rules import require

NAMES = ("local", "in-process", "cuda", "slurm", "kubernetes")
ADDRESSES = ("tcp://", "tls://", "file:")


@dataclass(frozen=True)
class Run:
    scheduler: str = "local"  # local, in-process, cuda, slurm, kubernetes, tcp://host:port, or file:scheduler.json
    workers: int = 0  # worker processes: 0 = one per core (local) or GPU (cuda), or what the section says
    threads_per_worker: int = 1
    tasks_per_worker: int = 3  # futures in flight per worker
    memory_gib: float = 0.0  # that a worker may use; 0 = its share of the machine
    timeout_s: float = 600.0  # that one image may take in one stage before it counts as stuck; 0 = for ever
    dashboard: str = "127.0.0.1:0"  # where the dashboard listens: loopback, on a free port
    tls: str = ""  # a folder with ca.pem, cert.pem and key.pem: client, scheduler and workers speak TLS only

    def check(self):
        known = self.scheduler in NAMES or self.scheduler.startswith(ADDRESSES)
        rule = f"is {', '.join(NAMES)}, tcp://host:port, or file: and a scheduler file"
        require(known, "run.scheduler", self.scheduler, rule)
        require(self.workers >= 0, "run.workers", self.workers, "cannot be negative")
        require(self.threads_per_worker >= 1, "run.threads_per_worker", self.threads_per_worker, "is at least 1")
        require(self.tasks_per_worker >= 1, "run.tasks_per_worker", self.tasks_per_worker, "has to be at least 1")
        require(self.memory_gib >= 0, "run.memory_gib", self.memory_gib, "cannot be negative")
        require(self.timeout_s >= 0, "run.timeout_s", self.timeout_s, "cannot be negative")


@dataclass(frozen=True)
class Local:
    """Workers on this machine."""

    def check(self):
        pass


@dataclass(frozen=True)
class Cuda:
    """One worker per GPU of this machine."""

    def check(self):
        pass


@dataclass(frozen=True)
class Slurm:
    """Workers as SLURM jobs."""

    def check(self):
        pass


@dataclass(frozen=True)
class Kubernetes:
    """Workers as pods of the Dask operator."""

    def check(self):
        pass
