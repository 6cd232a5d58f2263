"""Do more workers do more? Images/s of the LoG stage with 1 and 2 workers, and of tasks that only wait with 1 to 32.

Stages run as a run runs them: the same executor on the local scheduler, window and all. The LoG stage reads a stored
workspace and writes its parts; the waiting tasks stand for a slow disk or network. Efficiency is the rate over the
rate of one worker times the number of workers. "plain" is the LoG stage in a pool of processes without Dask: what the
machine's cores give, which share caches, memory and clock.
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
from emqa_dask.pipeline import PRELOAD
from emqa_dask.pipeline.commands import make_tables, triage
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pipeline.workspace.stages import list_run_folders
from emqa_dask.run.cluster import open_cluster
from emqa_dask.run.execute import Task, execute
from emqa_dask.run.workers import SPAWN_VARIABLES, START_METHOD, WORKER_VARIABLES, set_variables
from emqa_dask.settings import Settings, replace
from emqa_dask.store.layout import Workspace


def quiet(text: str) -> None:
    pass


def prepare(folder: Path, n: int, size: int, settings: Settings) -> str:
    """A workspace with `n` stored micrographs."""
    write_archive(folder / "archive", n, size, seed=1)
    triage.run(str(folder / "archive"), str(folder / "ws"), settings, steps=("ingest",), say=quiet)
    return str(folder / "ws")


def tasks_of(root: str, settings: Settings) -> list[Task]:
    """The stage detect on all of the workspace, none of it done."""
    shutil.rmtree(Path(root) / list_run_folders(settings)["detections"], ignore_errors=True)
    wanted = ("thumbnails", "detections")
    return [
        Task(p.name, (root, p, rows, settings, wanted), len(p))
        for p, rows in micrograph_ledger.iter_partitions(Workspace(root))
    ]


def plain(n: int, root: str, settings: Settings) -> float:
    """Micrographs per second of the stage detect in `n` processes that share nothing but a queue."""
    tasks = tasks_of(root, settings)
    with set_variables(SPAWN_VARIABLES | WORKER_VARIABLES):
        context = multiprocessing.get_context(START_METHOD)
        with concurrent.futures.ProcessPoolExecutor(n, mp_context=context) as pool:
            list(pool.map(abs, range(4 * n)))  # they are there
            list(pool.map(make_tables.make_partition, *zip(*(task.args for task in tasks[:n]))))
            tasks = tasks_of(root, settings)
            started = time.perf_counter()
            records = list(pool.map(make_tables.make_partition, *zip(*(task.args for task in tasks))))
            seconds = time.perf_counter() - started
    assert {record["outcome"] for record in records} == {"done"}
    return sum(record["n_images"] for record in records) / seconds


def detect(client, root: str, settings: Settings) -> float:
    """Micrographs per second of the stage detect on all of the workspace."""
    tasks = tasks_of(root, settings)
    started = time.perf_counter()
    results = list(execute(make_tables.make_partition, tasks, stage="detect", client=client))
    seconds = time.perf_counter() - started
    assert {result.outcome for result in results} == {"done"}
    return sum(map(len, (task.args[1] for task in tasks))) / seconds


def wait(client, n_workers: int, seconds: float, per_worker: int) -> float:
    """Tasks per second where each only waits."""
    tasks = [Task(str(k), (seconds,), 1) for k in range(n_workers * per_worker)]
    started = time.perf_counter()
    results = list(execute(scale_stubs.wait, tasks, stage="wait", client=client))
    assert {result.outcome for result in results} == {"done"}
    return len(tasks) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=400, help="micrographs of the LoG stage, default 400")
    parser.add_argument("--size", type=int, default=1024, help="px, default 1024")
    parser.add_argument("--rounds", type=int, default=3, help="1 and 2 workers alternate so often, default 3")
    parser.add_argument("--seconds", type=float, default=2.0, help="that a waiting task takes, default 2")
    parser.add_argument("--json", metavar="OUT", help="write the figures there, too")
    options = parser.parse_args()
    rows = []
    settings = replace(
        Settings(), {"run": {"workers": 2}, "detect": {"detectors": ["log"]}, "store": {"shard_length": 4}}
    )
    with tempfile.TemporaryDirectory(prefix="emqa-workers-") as folder:
        root = prepare(Path(folder), options.n, options.size, settings)
        results: dict[tuple[str, int], list[float]] = {(stage, n): [] for stage in ("plain", "LoG") for n in (1, 2)}
        for _ in range(options.rounds):
            for n in (1, 2):
                results["plain", n].append(plain(n, root, settings))
                with open_cluster(replace(settings, {"run": {"workers": n}}), PRELOAD, quiet) as client:
                    client.wait_for_workers(n)
                    results["LoG", n].append(detect(client, root, settings))
        for (stage, n), rates in results.items():
            rows.append({"stage": stage, "workers": n, "per_s": statistics.median(rates), "rates": rates})
    for n in (1, 2, 4, 8, 16, 32):
        with open_cluster(replace(settings, {"run": {"workers": n}}), ["benchmarks.scale_stubs"], quiet) as client:
            client.wait_for_workers(n)
            rows.append({"stage": "wait", "workers": n, "per_s": wait(client, n, options.seconds, 10)})
    for row in rows:
        one = next(other["per_s"] for other in rows if other["stage"] == row["stage"])
        row["efficiency"] = row["per_s"] / one / row["workers"]
        print(
            f"{row['stage']:<5} {row['workers']:>3} workers {row['per_s']:>8.2f}/s  efficiency {row['efficiency']:.2f}"
        )
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "platform": platform.platform()}
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
