"""emqa bench: times of a triage of a sample with several numbers of workers, and what they predict."""

import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from emqa_dask import tables
from emqa_dask.number_ranges import check_integer, check_number
from emqa_dask.pipeline.commands import triage
from emqa_dask.pipeline.commands.bench_summary import describe_summary, summarise_runs
from emqa_dask.pipeline.commands.report_facts import list_versions
from emqa_dask.pipeline.workspace.archive_sources import ArchiveFiles, list_sources, name_sources
from emqa_dask.pipeline.workspace.journal import GpuTime, load_events
from emqa_dask.report.bench_page import render_bench_page
from emqa_dask.run.task import IN_PROCESS
from emqa_dask.settings import Settings, dump, replace
from emqa_dask.store import files, parts
from emqa_dask.store.layout import Workspace
from emqa_dask.synthetic.archive import synthesise

Say = Callable[[str], None]
STRONG = "strong"  # scaling: the same files for each number of workers
WEAK = "weak"  # as many files for each worker
SYNTHETIC_SHAPE = (1024, 1024)  # px, of each drawn micrograph
FORMAT = "emqa bench 1"  # of the file


@dataclass(frozen=True)
class BenchOptions:
    """Options of emqa bench, by their names on the command line."""

    workers: tuple[int, ...] = (1, 2)
    rounds: int = 3
    n_files: int = 64  # of the sample
    seed: int = 0
    for_images: int = 1_000_000  # archive whose time is predicted
    deadline_hours: float = 24.0  # within which a cluster shall process it
    price_per_worker_hour: float | None = None  # None: no price is stated

    def check(self) -> None:
        """Raises ValueError for a number out of its range, and for fewer than two numbers of workers."""
        for number in self.workers:
            check_integer("--workers", number, 1)
        if len(set(self.workers)) < 2:
            raise ValueError(f"--workers {' '.join(map(str, self.workers))}: give two numbers or more, e.g. 1 2 4")
        for name in ("rounds", "n_files", "for_images"):
            check_integer(f"--{name.replace('_', '-')}", getattr(self, name), 1)
        check_number("--deadline-hours", self.deadline_hours, 0)
        if self.price_per_worker_hour is not None:
            check_number("--price-per-worker-hour", self.price_per_worker_hour, 0)
        if self.n_files < max(self.workers):
            raise ValueError(f"--files {self.n_files}: {max(self.workers)} workers need as many files or more")


def bench(source: str, out: str, settings: Settings, options: BenchOptions, say: Say = print) -> dict:
    """The document of the measurement, which is written to `out` (JSON) and as a page beside it.

    source: an archive; "" draws one. Every number of workers triages the sample in each round, and in proportion to its
    workers a part of it. Workspaces lie in a folder beside `out`, which the workers of a cluster see, and are removed.
    Raises ValueError for options and archives that say nothing about scaling, and FileExistsError for an `out` that is
    not from emqa bench.
    """
    options.check()
    target = Path(out).absolute()
    check_out(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.stem}-", dir=target.parent) as scratch:
        folder = Path(scratch)
        paths = _draw_archive(folder, options) if not source else sample_files(source, settings, options)
        if settings.run.scheduler == IN_PROCESS:
            say("in-process: all runs are in this process, so the number of workers has no effect")
        say(f"{len(paths):,} files; workers {', '.join(map(str, options.workers))}; {options.rounds} rounds")
        runs = []
        for plan in list_runs(options, len(paths)):
            runs.append(plan | measure_run(folder, paths[: plan["n_files"]], settings, plan["workers"]))
            say(_describe_run(runs[-1]))
    document = {
        "format": FORMAT,
        "source": files.redact(source) or "synthetic",
        "scheduler": files.redact(settings.run.scheduler),
        "machine": describe_machine(),
        "versions": list_versions(),
        "settings": files.redact(dump(settings)),
        "runs": runs,
        "summary": summarise_runs(runs, options.for_images, options.deadline_hours, options.price_per_worker_hour),
    }
    files.write_text(str(target), json.dumps(document, indent=2, allow_nan=False) + "\n")
    files.write_text(str(locate_page(target)), render_bench_page(document))
    for line in describe_summary(document["summary"]):
        say(line)
    say(f"wrote {target} and {locate_page(target)}")
    return document


def locate_page(target: Path) -> Path:
    """The page of a measurement in the file `target`."""
    return target.with_suffix(".html")


def check_out(target: Path) -> None:
    """Raises FileExistsError for a file that emqa bench did not write."""
    if target.exists() and not is_measurement(target):
        raise FileExistsError(f"{target} exists and is no measurement of emqa bench: give another --out")


def is_measurement(path: Path) -> bool:
    """Whether the file is one of emqa bench."""
    try:
        return json.loads(path.read_text("utf-8")).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False


def sample_files(source: str, settings: Settings, options: BenchOptions) -> list[str]:
    """Paths of files of the archive, drawn at random; ValueError for too few, and for files that are not local."""
    archive_files = ArchiveFiles(name_sources(list_sources(source)), settings.archive)
    archive_files.check_sources()
    paths = [entry.path for entry in archive_files]
    if not files.is_local(paths[0]):
        raise ValueError(f"{files.redact(source)}: give a sample on a disk that all workers see")
    if len(paths) < max(options.workers):
        raise ValueError(f"{files.redact(source)} has {len(paths)} files: {max(options.workers)} workers need as many")
    order = np.random.default_rng(options.seed).permutation(len(paths))[: options.n_files]
    return [paths[k] for k in order]


def _draw_archive(folder: Path, options: BenchOptions) -> list[str]:
    """Paths of drawn micrographs without faults."""
    archive = folder / "archive"
    synthesise(archive, "demo", options.n_files, options.seed, SYNTHETIC_SHAPE, faults=())
    paths = sorted(str(path) for path in archive.rglob("*") if path.is_file())
    order = np.random.default_rng(options.seed).permutation(len(paths))
    return [paths[k] for k in order]


def list_runs(options: BenchOptions, n_files: int) -> Iterator[dict[str, Any]]:
    """The runs in their order: every round has each of them once, so that a slow minute falls on all alike."""
    max_workers = max(options.workers)
    for number in range(options.rounds):
        for workers in sorted(set(options.workers)):
            yield {"round": number, "scaling": STRONG, "workers": workers, "n_files": n_files}
            if workers < max_workers:  # with the most workers both are the same run
                n_part = max(1, n_files * workers // max_workers)
                yield {"round": number, "scaling": WEAK, "workers": workers, "n_files": n_part}


def measure_run(folder: Path, paths: Sequence[str], settings: Settings, workers: int) -> dict[str, Any]:
    """Figures of a triage of the files `paths` in a new workspace, from its start to the report.

    Seconds, those from the start of the first task on images to the end of the last one, images, megapixels, seconds of
    all workers by stage, the largest memory of a worker, and the utilisation of the GPUs while their tasks ran (None
    where it was not measured).
    """
    file_list = folder / "files.txt"
    file_list.write_text("".join(f"{path}\n" for path in paths), "utf-8")
    root = folder / "workspace"
    shutil.rmtree(root, ignore_errors=True)
    started = time.perf_counter()
    own_settings = replace(settings, {"run": {"workers": workers}})
    exit_code = triage.run(str(file_list), str(root), own_settings, say=lambda text: None)
    seconds = time.perf_counter() - started
    workspace = Workspace(str(root))
    micrographs = parts.load_table(workspace.micrographs, tables.MICROGRAPHS, ["height_px", "width_px"])
    if micrographs.empty:
        raise ValueError("the sample has no micrograph: nothing can be measured")
    events = load_events(workspace)
    shutil.rmtree(root)
    image_events = events[events["stage"].ne("survey")]
    ends = image_events["started"] + image_events["seconds"]
    return {
        "seconds": seconds,
        "task_seconds": float(ends.max() - image_events["started"].min()),
        "n_images": len(micrographs),
        "megapixels": float((micrographs["height_px"] * micrographs["width_px"]).sum() / 1e6),
        "stage_seconds": {name: float(total) for name, total in events.groupby("stage")["seconds"].sum().items()},
        "peak_memory_mib": float(events["peak_memory_bytes"].max() / 2**20),
        "gpu_percent": GpuTime().add(events["seconds"], events["gpu_percent"]).compute_percent(),
        "has_failures": exit_code != 0,
    }


def _describe_run(run: dict[str, Any]) -> str:
    rate = run["n_images"] / run["seconds"]
    text = f"round {run['round'] + 1}, {run['workers']} workers, {run['n_images']:,} images: {run['seconds']:.1f} s"
    return f"{text}, {rate:.2f} images/s" + (", with failures" if run["has_failures"] else "")


def describe_machine() -> dict[str, Any]:
    """What the driver runs on; workers of a cluster may run elsewhere."""
    memory_gib = round(psutil.virtual_memory().total / 2**30, 1)
    return {"cores": os.cpu_count(), "memory_gib": memory_gib, "processor": platform.machine()}
