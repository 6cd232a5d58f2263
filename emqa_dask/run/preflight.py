"""Check of workers before the first task: versions, memory, GPUs, and access to the workspace."""

import contextlib
import importlib.metadata
import os
import platform
import shutil
import socket
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from emqa_dask.run.supervise import describe_error
from emqa_dask.settings import Settings
from emqa_dask.uris import locate, redact

GIB = 2**30
SAME_VERSION = ("emqa_dask", "dask", "distributed")  # they talk to each other; others may differ in a patch release
SAME_MINOR_VERSION = ("numpy", "zarr", "pyarrow")
# What a task takes (measured with 16-bit images of 1024 to 16384 px a side): an interpreter with every library, and for
# an image, of which there is one at a time, about ten float32 copies; larger ones are dealt with in strips.
LIBRARIES_BYTES = GIB * 9 // 10  # a worker with all libraries, torch among them: 0.87 GiB
PER_PIXEL_BYTES = 50
MAX_WHOLE_IMAGE_PX = 1 << 25  # as detect.tiles has it
STRIP_PX = 1 << 23
PER_PIXEL_OF_STRIPS_BYTES = 10
# A Mask R-CNN takes 1.0 to 1.4 GB for 1024 x 1024 px (ResNet-18 and 50), of a large image one tile at a time.
PER_PIXEL_OF_NETWORKS_BYTES = 1400
TILE_PX = 2304**2  # as detect.mask_rcnn cuts by default, with its halo
CLASSIFIER_BYTES = GIB  # 16 wide ResNets on batches of 64 windows, torch included: 0.87 GB
USABLE_MEMORY_SHARE = 0.95  # of its memory limit, beyond which a worker is ended by its nanny


class StageWorkload(NamedTuple):
    """Sizes of the work of a stage; 0 is unknown."""

    partition_bytes: int = 0  # pixels of the largest partition
    output_bytes: int = 0  # what all partitions together add to the workspace
    image_px: int = 0  # pixels of the largest image


UNKNOWN_WORKLOAD = StageWorkload()


def check_workers(
    client, settings: Settings, workload: StageWorkload, *, root: str, say: Callable[[str], None] = print
) -> None:
    """RuntimeError with every finding and its remedy where the workers of `client` cannot do the run.

    `root` is the workspace. A `client` of None is a run in this process.
    """
    findings = find_full_disk(root, workload.output_bytes)
    if client is not None:
        workers = client.scheduler_info(n_workers=-1)["workers"]
        on_cpu = bool(settings.detect.networks) and settings.run.device == "cpu"
        options = {"has_networks": on_cpu, "has_classifier": bool(settings.classify.model)}
        need_bytes = estimate_memory_bytes(
            workload.partition_bytes, workload.image_px, is_bucket=_is_bucket(root), **options
        )
        findings += find_missing_gpus(workers, settings) + find_idle_gpus(workers, settings)
        findings += find_small_memory(workers, need_bytes)
        if text := describe_idle_workers(workers, settings):
            say(text)
        with write_probe(root, findings) as probe:
            one_per_host = list({worker["host"]: address for address, worker in workers.items()}.values())
            versions = drop_disconnected_workers(client.run(read_versions, on_error="return"))
            access = client.run(check_access, root, probe, workers=one_per_host, on_error="return") if probe else {}
            access = drop_disconnected_workers(access)
        findings += compare_versions(versions, read_scheduler_versions(client)) + describe_access_failures(access, root)
        if len(one_per_host) > 1:
            say(f"looked at {len(workers)} workers on {len(one_per_host)} hosts")
    if findings:
        finding_text = "; ".join(f"({n}) {text}" for n, text in enumerate(findings, 1)) if findings[1:] else findings[0]
        raise RuntimeError(f"nothing was started: {finding_text}")


def estimate_memory_bytes(
    partition_bytes: int,
    image_px: int,
    is_bucket: bool = False,
    has_networks: bool = False,
    has_classifier: bool = False,
) -> int:
    """Memory of one task: libraries, working copies of one image, and in a bucket the shard to be sent."""
    is_whole = image_px <= MAX_WHOLE_IMAGE_PX
    work = image_px * PER_PIXEL_BYTES if is_whole else STRIP_PX * PER_PIXEL_BYTES + image_px * PER_PIXEL_OF_STRIPS_BYTES
    work += min(image_px, TILE_PX) * PER_PIXEL_OF_NETWORKS_BYTES if has_networks else 0
    work += CLASSIFIER_BYTES if has_classifier else 0
    return LIBRARIES_BYTES + work + (partition_bytes if is_bucket else 0)


def find_missing_gpus(workers: dict, settings: Settings) -> list[str]:
    if settings.run.device != "cuda" or _count_gpu_workers(workers):
        return []
    remedy = "start them by `dask cuda worker --resources GPU=1`, or use --scheduler cuda, or set run.device = 'cpu'"
    return [f"run.device is 'cuda', but none of {len(workers)} workers offers a GPU: {remedy}"]


def find_idle_gpus(workers: dict, settings: Settings) -> list[str]:
    """The finding that every worker offers a GPU, which no task of these settings uses."""
    n_gpus = _count_gpu_workers(workers)
    if settings.run.device != "cpu" or not n_gpus or n_gpus < len(workers):
        return []
    return [
        f"run.device is 'cpu', but all {n_gpus} workers offer a GPU, which would idle: set run.device = 'cuda', or "
        "start workers without --resources GPU=1"
    ]


def describe_idle_workers(workers: dict, settings: Settings) -> str:
    """A note on what idles where some workers offer a GPU and others do not; empty where all are alike."""
    n_gpus = _count_gpu_workers(workers)
    if n_gpus in (0, len(workers)):
        return ""
    if settings.run.device == "cpu":
        return f"{n_gpus} of {len(workers)} workers offer a GPU, which run.device = 'cpu' does not use"
    return f"{len(workers) - n_gpus} of {len(workers)} workers offer no GPU and take no images with run.device = 'cuda'"


def _count_gpu_workers(workers: dict) -> int:
    return sum(worker["resources"].get("GPU", 0) >= 1 for worker in workers.values())


def find_small_memory(workers: dict, task_bytes: int) -> list[str]:
    small_workers = []
    for worker in workers.values():
        limit_bytes = worker["memory_limit"] or float("inf")
        needed_bytes = LIBRARIES_BYTES + worker["nthreads"] * (task_bytes - LIBRARIES_BYTES)
        if limit_bytes * USABLE_MEMORY_SHARE < needed_bytes:
            small_workers.append((limit_bytes, needed_bytes))
    if not small_workers:
        return []
    limit_bytes, needed_bytes = min(small_workers)
    return [
        f"{len(small_workers)} of {len(workers)} workers have too little memory: {limit_bytes / GIB:.1f} GiB, and "
        f"the largest image takes {needed_bytes / GIB:.1f}: set run.memory_gib higher with fewer run.workers, or "
        "run.threads_per_worker (with a GPU run.gpu_threads) lower"
    ]


def read_versions() -> dict[str, str]:
    versions = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in SAME_VERSION + SAME_MINOR_VERSION:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(name)
            versions[name] = version if name in SAME_VERSION else ".".join(version.split(".")[:2])
    return versions


def drop_disconnected_workers(answer_by_worker: dict) -> dict:
    """`answers` without workers that have left: other workers take their tasks."""
    return {
        address: answer for address, answer in answer_by_worker.items() if type(answer).__name__ != "CommClosedError"
    }


def read_scheduler_versions(client) -> dict:
    try:
        return {"the scheduler": client.run_on_scheduler(read_versions)}
    except Exception as error:  # as one without this package
        return {"the scheduler": error}


def compare_versions(*groups: dict[str, dict | Exception]) -> list[str]:
    own_versions = read_versions()
    places_by_version = defaultdict(list)
    failures = []
    for address, versions in [item for group in groups for item in group.items()]:
        if isinstance(versions, BaseException):
            failures.append(
                f"{address} cannot run what tasks need ({describe_error(versions)}): install this emqa_dask there"
            )
            continue
        for name in sorted(own_versions.keys() | versions.keys()):
            if versions.get(name) != own_versions.get(name):
                places_by_version[name, versions.get(name, "missing")].append(address)
    return failures[:3] + [
        f"{name} is {version} on {format_addresses(addresses)} and "
        f"{own_versions.get(name, 'missing')} here: install the same"
        for (name, version), addresses in places_by_version.items()
    ]


@contextlib.contextmanager
def write_probe(root: str, findings: list[str]):
    """Name of a file in `root` for the workers to read; None, with a finding, where this process cannot write."""
    name = f".probe-{uuid.uuid4().hex[:12]}"
    fs = None
    try:
        fs, path = locate(root)
        fs.makedirs(path, exist_ok=True)
        fs.pipe_file(f"{path}/{name}", b"?")
    except Exception as error:
        findings.append(
            f"{redact(root)} cannot be written here ({redact(describe_error(error))}): choose another workspace"
        )
        yield None
        return
    try:
        yield name
    finally:
        for probe_path in fs.glob(f"{path.translate(_LITERAL)}/{name}*"):
            fs.rm_file(probe_path)


_LITERAL = {ord(c): f"[{c}]" for c in "*?["}


def check_access(root: str, name: str) -> str:
    """On a worker: the reason why it cannot read and write `root`; empty when it can."""
    fs, path = locate(root)
    if not fs.exists(f"{path}/{name}"):
        return "does not see what is in it"
    own_probe = f"{path}/{name}-{socket.gethostname()}-{os.getpid()}"
    fs.pipe_file(own_probe, b"!")
    return "" if fs.cat_file(own_probe) == b"!" else "does not read what it has written to it"


def describe_access_failures(access: dict[str, str | Exception], root: str) -> list[str]:
    places_by_reason = defaultdict(list)
    for address, text in access.items():
        if isinstance(text, BaseException):
            text = f"cannot write to it ({redact(describe_error(text))})"
        if text:
            places_by_reason[text].append(address)
    is_relative = not _is_bucket(root) and not os.path.isabs(root)
    remedy = "give an absolute path" if is_relative else "choose one on a disk or in a bucket that all of them share"
    return [
        f"workspace {redact(root)}: {format_addresses(addresses)} {text}: {remedy}"
        for text, addresses in places_by_reason.items()
    ]


def find_full_disk(root: str, output_bytes: int) -> list[str]:
    """Finding where a local disk has less free space than the run needs; nothing is known of buckets."""
    if _is_bucket(root) or not output_bytes:
        return []
    folder = os.path.abspath(locate(root)[1])
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    free = shutil.disk_usage(folder).free
    if free >= output_bytes:
        return []
    return [
        f"{folder} has {format_size(free)} free, and the run writes about {format_size(output_bytes)}: free some space"
    ]


def format_size(n_bytes: int) -> str:
    return f"{n_bytes / GIB:,.1f} GiB" if n_bytes >= GIB else f"{n_bytes / 2**20:,.0f} MiB"


def _is_bucket(root: str) -> bool:
    return "file" not in list_protocols(locate(root)[0].protocol)


def list_protocols(protocol: str | Iterable[str]) -> tuple[str, ...]:
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def format_addresses(addresses: list[str]) -> str:
    return ", ".join(sorted(addresses)[:3]) + (f" and {len(addresses) - 3} more" if addresses[3:] else "")
