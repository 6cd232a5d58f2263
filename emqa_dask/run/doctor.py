"""Check of this machine for emqa doctor: versions, cores, memory, disk, GPU, with the remedy for each finding."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from emqa_dask.run.cluster import open_cluster
from emqa_dask.run.preflight import UNKNOWN_WORKLOAD, check_workers
from emqa_dask.run.workers import count_cores
from emqa_dask.settings import Settings

GIB = 2**30
GPU_PACKAGES = {  # name -> what happens without it
    "cupy-cuda13x": "nothing but networks can run on the GPU",
    "cucim-cu13": "LoG smooths and halves images by CuPy alone, which is slower where cuCIM's kernels are faster",
    "dask-cuda": "no worker per GPU can be started",
    "rmm-cu13": "cupy and torch cannot share one pool of GPU memory",
}
MIG_SLICE = re.compile(r"^\s+(MIG \S+)\s+Device\s+\d+:\s+\(UUID: (MIG-[^)]+)\)", re.MULTILINE)


def list_requirements() -> list[tuple[str, str | None, bool]]:
    """(name, installed version or None, whether it is new enough) of every declared dependency."""
    rows = []
    for text in importlib.metadata.requires("emqa_dask") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            version = None
        is_new_enough = version is not None and requirement.specifier.contains(version, prereleases=True)
        rows.append((requirement.name, version, is_new_enough))
    return rows


def list_gpu_names() -> list[str]:
    """Names of the NVIDIA GPUs that the driver lists; empty without a driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    answer = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"], capture_output=True, text=True
    )
    return answer.stdout.strip().splitlines() if answer.returncode == 0 else []


def list_mig_slices() -> list[tuple[str, str]]:
    """(profile, UUID) of every slice of the GPUs in MIG mode; empty without a driver or slices."""
    if shutil.which("nvidia-smi") is None:
        return []
    answer = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    return MIG_SLICE.findall(answer.stdout) if answer.returncode == 0 else []


def describe_gpus() -> list[tuple[bool | None, str, str]]:
    """(is it well, finding, remedy) of the GPUs, their slices and the packages that use them."""
    gpu_names = list_gpu_names()
    if not gpu_names:
        return [(None, "GPU: none", "fine; everything runs on the CPU")]
    findings: list[tuple[bool | None, str, str]] = [(True, f"GPU: {', '.join(gpu_names)}", "")]
    if slices := list_mig_slices():
        named_slices = ", ".join(f"{profile} {uuid}" for profile, uuid in slices)
        findings.append(
            (None, f"{len(slices)} MIG slices: {named_slices}", "each gets a worker; cuda.devices names those to use")
        )
    for name, consequence in GPU_PACKAGES.items():
        try:
            findings.append((True, f"{name} {importlib.metadata.version(name)}", ""))
        except importlib.metadata.PackageNotFoundError:
            remedy = f"{consequence}; pip install 'emqa_dask[gpu]'"
            findings.append((None, f"{name} missing", remedy))
    return findings


def check_machine(say: Callable[[str], None], settings: Settings | None = None) -> int:
    """Report one line per finding; returns 0 when every requirement holds, else 1.

    With `settings` whose scheduler is elsewhere a worker of it is had, and looked at from the current folder.
    """
    n_bad = 0

    def line(is_ok: bool | None, finding: str, remedy: str = "") -> None:
        nonlocal n_bad
        n_bad += is_ok is False
        mark = {True: "ok  ", False: "BAD ", None: "note"}[is_ok]
        say(f"{mark}  {finding}" + (f": {remedy}" if remedy and is_ok is not True else ""))

    pythons = SpecifierSet(importlib.metadata.metadata("emqa_dask")["Requires-Python"])
    is_tested = pythons.contains(platform.python_version(), prereleases=True)
    line(is_tested, f"Python {platform.python_version()} on {platform.platform()}", f"it has to be {pythons}")
    for name, version, is_new_enough in list_requirements():
        line(is_new_enough, f"{name} {version or 'missing'}", f"pip install --upgrade {name}")
    cores = count_cores()
    memory = psutil.virtual_memory()
    line(True, f"{cores} cores, {memory.total / GIB:.1f} GiB memory, {memory.available / GIB:.1f} GiB of it free")
    line(memory.available / cores > 1.5 * GIB or None, "memory per worker", "under 1.5 GiB a core: use fewer --workers")
    for label, folder in (("here", "."), ("temporary files", tempfile.gettempdir())):
        free = shutil.disk_usage(folder).free
        line(free > GIB, f"{free / GIB:.1f} GiB disk free ({label})", "free some space")
    for is_ok, finding, remedy in describe_gpus():
        line(is_ok, finding, remedy)
    if settings is not None and settings.run.scheduler not in ("local", "in-process"):
        try:
            with open_cluster(settings, say=say) as client:
                check_workers(client, settings, UNKNOWN_WORKLOAD, root=os.getcwd(), say=say)
                n_workers = len(client.nthreads())
        except (ValueError, OSError, RuntimeError) as error:
            line(False, f"scheduler {settings.run.scheduler}", " ".join(str(error).split()))
        else:
            line(True, f"scheduler {settings.run.scheduler}: {n_workers} workers that can do this")
    say("This machine can run emqa_dask." if not n_bad else f"{n_bad} findings to mend.")
    return int(n_bad > 0)
