"""Check of the settings before workers are started: their GPUs are used, and tasks get the GPU that they need."""

import math

from emqa_dask.settings import Settings
from emqa_dask.settings.schedulers import BATCH_SYSTEMS, Run


def check_devices(settings: Settings) -> None:
    """ValueError where workers would leave their GPUs idle, or would lack the GPU that tasks need.

    preflight.check_workers() checks the workers that others have started.
    """
    name = settings.run.scheduler
    key, n_gpus = _requested_gpus(settings)
    if n_gpus and settings.run.device == "cpu":
        raise ValueError(f"run.device is 'cpu', so GPU workers would idle ({key}): set run.device = 'cuda'")
    if key and not n_gpus and settings.run.device == "cuda":
        remedy = "set run.scheduler = 'cuda'" if name == "local" else f"set {key}"
        raise ValueError(f"run.device is 'cuda', but workers of scheduler {name!r} have no GPU: {remedy}")


def share_gpu(run: Run) -> dict[str, float] | None:
    """Dask resources of a task: one of `run.gpu_threads` shares of its worker's GPU; None without a GPU.

    Rounded down, so that the shares of all threads never sum up to more than the one GPU that a worker offers.
    """
    return {"GPU": math.floor(1e6 / run.gpu_threads) / 1e6} if run.device == "cuda" else None


def _requested_gpus(settings: Settings) -> tuple[str, int]:
    """The setting that requests GPUs, and their number; "" where others start the workers."""
    name = settings.run.scheduler
    if name == "cuda":
        return "run.scheduler is 'cuda'", 1
    if name == "local":
        return "run.scheduler is 'local'", 0
    if name in BATCH_SYSTEMS:
        return f"{name}.gpus_per_job", getattr(settings, name).gpus_per_job
    if name == "kubernetes" and not settings.kubernetes.cluster:
        return "kubernetes.gpus_per_worker", settings.kubernetes.gpus_per_worker
    return "", 0
