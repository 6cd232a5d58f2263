"""The journal of a run: an event for every task, and the failures at its end."""

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator

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


def sum_stage_seconds(workspace: Workspace) -> dict[str, float]:
    """Worker-seconds of every stage so far."""
    total: dict[str, float] = {}
    for name in parts.list_parts(workspace.uri, EVENTS):
        events = parts.read_part(workspace.uri, EVENTS, name, tables.EVENTS, ["stage", "seconds"])
        for stage, seconds in events.groupby("stage", sort=False)["seconds"].sum().items():
            total[stage] = total.get(stage, 0.0) + seconds
    return {stage: round(seconds, 3) for stage, seconds in total.items()}
