"""The journal of a run: an event for every task, and the failures at its end."""

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from emqa_dask import tables
from emqa_dask.run.task import Result
from emqa_dask.store import parts
from emqa_dask.store.layout import Workspace

EVENTS = "events.parquet"  # a folder of parts, which readers of Parquet take for one table
FLUSH_S = 20.0
FLUSH_ROWS = 5000


@contextlib.contextmanager
def open_journal(workspace: Workspace, check: Callable[[], None] = lambda: None) -> Iterator[Callable[[Result], None]]:
    """Function record(result) that adds events to events.parquet, in parts of some seconds; `check` precedes a part."""
    run = f"{time.time_ns() // 1_000_000:013d}-{uuid.uuid4().hex[:6]}"
    number = 0
    flushed_s = time.monotonic()
    rows = []

    def flush() -> None:
        nonlocal number, flushed_s, rows
        if rows:
            parts.write_part(workspace.uri, EVENTS, f"{run}-{number:05d}", rows, tables.EVENTS)
        number = number + 1
        flushed_s = time.monotonic()
        rows = []

    def record(result: Result) -> None:
        rows.extend(_make_events(result))
        if len(rows) >= FLUSH_ROWS or time.monotonic() - flushed_s > FLUSH_S:
            check()
            flush()

    try:
        yield record
        flush()
    except BaseException:
        with contextlib.suppress(OSError):  # such as a full disk, which the first error reports
            flush()
        raise


def _make_events(result: Result) -> list[dict]:
    """Events of a task, one per stage, in order."""
    stages = result.value.get("stages")
    if not stages:
        return [result.event]
    rows = []
    started = result.event["started"]
    for stage, seconds in stages.items():
        rows.append(result.event | {"stage": stage, "started": started, "seconds": seconds})
        started += seconds
    return rows


def load_events(workspace: Workspace) -> pd.DataFrame:
    """Rows of tables.EVENTS of all runs; none without runs."""
    return parts.read_table(workspace.uri, EVENTS, tables.EVENTS)


class GpuTime(NamedTuple):
    """Time of tasks whose GPU's utilisation was measured."""

    measured_s: float = 0.0
    busy_s: float = 0.0  # utilisation times time

    def add(self, seconds: ArrayLike, percents: ArrayLike) -> "GpuTime":
        """With tasks of `seconds` and a utilisation of `percents`, which is NaN where it was not measured."""
        seconds, percents = np.asarray(seconds, float), np.asarray(percents, float)
        measured_s = np.where(np.isfinite(percents), seconds, 0.0)
        busy_s = float((measured_s * np.nan_to_num(percents)).sum()) / 100
        return GpuTime(self.measured_s + float(measured_s.sum()), self.busy_s + busy_s)

    def compute_percent(self) -> float | None:
        """Mean utilisation in %; None where nothing was measured."""
        return round(100 * self.busy_s / self.measured_s, 1) if self.measured_s else None


class RunTimes(NamedTuple):
    """Times of all runs of a workspace."""

    stage_seconds: dict[str, float]  # of all workers
    wall_s: float  # from the start of each run to its last task
    n_workers: int  # of the run with the most workers
    peak_memory_bytes: int  # of a worker, the largest
    gpu_time: GpuTime


def summarise_times(workspace: Workspace) -> RunTimes:
    """Worker-seconds of every stage so far, wall time, workers, memory and GPUs of the runs; zeros without events."""
    stage_seconds: dict[str, float] = {}
    ends: dict[str, float] = {}
    workers: dict[str, set[str]] = {}
    peak_memory_bytes = 0
    gpu_time = GpuTime()
    columns = ["stage", "started", "seconds", "worker", "peak_memory_bytes", "gpu_percent"]
    for name in parts.list_parts(workspace.uri, EVENTS):
        events = parts.read_part(workspace.uri, EVENTS, name, tables.EVENTS, columns)
        run = name.rpartition("-")[0]
        ends[run] = max(ends.get(run, 0.0), (events["started"] + events["seconds"]).max())
        workers.setdefault(run, set()).update(events["worker"].unique())
        peak_memory_bytes = max(peak_memory_bytes, int(events["peak_memory_bytes"].max()))
        gpu_time = gpu_time.add(events["seconds"], events["gpu_percent"])
        for stage, seconds in events.groupby("stage", sort=False)["seconds"].sum().items():
            stage_seconds[stage] = stage_seconds.get(stage, 0.0) + seconds
    wall_s = sum(max(end - int(run.partition("-")[0]) / 1000, 0.0) for run, end in ends.items())
    rounded = {stage: round(seconds, 3) for stage, seconds in stage_seconds.items()}
    n_workers = max(map(len, workers.values()), default=0)
    return RunTimes(rounded, round(wall_s, 3), n_workers, peak_memory_bytes, gpu_time)
