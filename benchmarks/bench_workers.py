"""Do more workers do more? The LoG stage with 1 and 2 workers, and `emqa bench` with stubs that only wait, up to 32.

`log`: the stage runs as a run runs it, with its executor on local workers, on a stored workspace. "plain" is the same
work in a pool of processes without Dask: what the machine's cores give, which share caches, memory and clock.

`stubs`: whole runs of `emqa bench` whose tasks wait in place of all work on pixels (scale_stubs.py). Each image waits
`--compute-s` on its worker and `--disk-s` for a disk that serves one worker at a time. The law that is fitted to the
time from the first to the last task of each run is printed beside these times. Cores are not what limits stubs, so that
two cores can measure 32 workers.
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks import scale_stubs
from benchmarks.bench_end_to_end import write_archive
from benchmarks.bench_scale import write_archive as write_empty_files
from emqa_dask.pipeline import PRELOAD
from emqa_dask.pipeline.commands import make_tables, triage
from emqa_dask.pipeline.commands.bench import BenchOptions, bench
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pipeline.workspace.stages import list_run_folders
from emqa_dask.run.cluster import open_cluster, start_fork_server
from emqa_dask.run.execute import Task, execute
from emqa_dask.run.scaling import fit_law
from emqa_dask.run.workers import SPAWN_VARIABLES, START_METHOD, WORKER_VARIABLES, set_variables
from emqa_dask.settings import Settings, replace
from emqa_dask.store.layout import Workspace

PARTS = ("log", "stubs")
STUB_MEMORY_GIB = 2.0  # limit of each worker; stubs take 0.3 of it, so that 32 of them fit anywhere
TABLES = ("thumbnails", "detections")  # that the LoG stage makes


def keep_silent(text: str) -> None:
    """Says nothing."""


def store_micrographs(folder: Path, n: int, size: int, settings: Settings) -> str:
    """A workspace with `n` stored micrographs."""
    write_archive(folder / "archive", n, size, seed=1)
    triage.run(str(folder / "archive"), str(folder / "ws"), settings, steps=("ingest",), say=keep_silent)
    return str(folder / "ws")


def list_tasks(root: str, settings: Settings) -> list[Task]:
    """The stage detect on all of the workspace, none of it done."""
    shutil.rmtree(Path(root) / list_run_folders(settings)["detections"], ignore_errors=True)
    workspace = Workspace(root)
    return [
        Task(partition.name, (workspace, partition, packed_rows, settings, TABLES), len(partition))
        for partition, packed_rows in micrograph_ledger.iter_packed_partitions(workspace, make_tables.TASK_COLUMNS)
    ]


def measure_pool(n: int, root: str, settings: Settings) -> float:
    """Micrographs per second of the stage detect in `n` processes that share nothing but a queue."""
    tasks = list_tasks(root, settings)
    with set_variables(SPAWN_VARIABLES | WORKER_VARIABLES):
        context = multiprocessing.get_context(START_METHOD)
        with concurrent.futures.ProcessPoolExecutor(n, mp_context=context) as pool:
            list(pool.map(abs, range(4 * n)))  # starts the processes
            list(pool.map(make_tables.make_partition, *zip(*(task.args for task in tasks[:n]), strict=True)))
            tasks = list_tasks(root, settings)
            started = time.perf_counter()
            records = list(pool.map(make_tables.make_partition, *zip(*(task.args for task in tasks), strict=True)))
            seconds = time.perf_counter() - started
    assert {record["outcome"] for record in records} == {"done"}
    return sum(record["n_images"] for record in records) / seconds


def measure_stage(client, root: str, settings: Settings) -> float:
    """Micrographs per second of the stage detect on all of the workspace."""
    tasks = list_tasks(root, settings)
    started = time.perf_counter()
    results = list(execute(make_tables.make_partition, tasks, stage="detect", client=client))
    seconds = time.perf_counter() - started
    assert {result.outcome for result in results} == {"done"}
    return sum(task.n_images for task in tasks) / seconds


def measure_log(folder: Path, n: int, size: int, rounds: int) -> list[dict]:
    """Rates of the LoG stage with 1 and 2 workers, which alternate, and their efficiency."""
    settings = replace(
        Settings(), {"run": {"workers": 2}, "detect": {"detectors": ["log"]}, "store": {"shard_length": 4}}
    )
    root = store_micrographs(folder, n, size, settings)
    results: dict[tuple[str, int], list[float]] = {(stage, n): [] for stage in ("plain", "LoG") for n in (1, 2)}
    for _ in range(rounds):
        for n_workers in (1, 2):
            results["plain", n_workers].append(measure_pool(n_workers, root, settings))
            own_settings = replace(settings, {"run": {"workers": n_workers}})
            with open_cluster(own_settings, PRELOAD, keep_silent) as client:
                client.wait_for_workers(n_workers)
                results["LoG", n_workers].append(measure_stage(client, root, settings))
    rows = []
    for (stage, n_workers), rates in results.items():
        per_s = statistics.median(rates)
        one = statistics.median(results[stage, 1])
        efficiency = per_s / one / n_workers
        rows.append({"stage": stage, "workers": n_workers, "per_s": per_s, "rates": rates, "efficiency": efficiency})
        print(f"{stage:<5} {n_workers:>3} workers {per_s:>8.2f}/s  efficiency {efficiency:.2f}")
    return rows


def measure_stubs(folder: Path, out: Path, times: scale_stubs.StubTimes, options: BenchOptions) -> dict:
    """The document of `emqa bench` on stubs."""
    sections = {"detect": {"detectors": ["log"]}, "store": {"shard_length": 2, "verify_gib": 0}}
    settings = replace(Settings(), sections | {"run": {"memory_gib": STUB_MEMORY_GIB}})
    write_empty_files(folder / "files", options.n_files)
    with scale_stubs.use_stubs(times):
        document = bench(str(folder / "files"), str(out), settings, options)
    columns = [[run[name] for run in document["runs"]] for name in ("n_images", "workers", "task_seconds")]
    law = fit_law(*columns)
    print(f"true: compute {times.compute_s:.3f} s, disk {times.disk_s:.3f} s per image; fitted to the tasks: {law}")
    return document | {"task_law": law._asdict()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--n", type=int, default=400, help="micrographs of the LoG stage, default 400")
    parser.add_argument("--size", type=int, default=1024, help="px, default 1024")
    parser.add_argument("--rounds", type=int, default=3, help="all numbers of workers alternate so often, default 3")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32], help="of the stubs")
    parser.add_argument("--stubs", type=int, default=128, help="images of the stubs, default 128")
    parser.add_argument("--compute-s", type=float, default=3.0, help="of a stub, default 3")
    parser.add_argument("--disk-s", type=float, default=0.0, help="of a stub, default 0")
    parser.add_argument("--json", metavar="OUT", help="write the figures there, too")
    options = parser.parse_args(arguments)
    start_fork_server([*PRELOAD, "benchmarks.scale_stubs"])
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "platform": platform.platform()}
    figures: dict = {"machine": machine}
    with tempfile.TemporaryDirectory(prefix="emqa-workers-") as scratch:
        folder = Path(scratch)
        if "log" in options.parts:
            figures["rows"] = measure_log(folder, options.n, options.size, options.rounds)
        if "stubs" in options.parts:
            times = scale_stubs.StubTimes(options.disk_s, options.compute_s)
            bench_options = BenchOptions(tuple(options.workers), options.rounds, options.stubs)
            figures["stubs"] = times._asdict() | measure_stubs(folder, folder / "stubs.json", times, bench_options)
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
