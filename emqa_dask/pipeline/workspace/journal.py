"""What a run writes down beside its results: an event for every task, as they come, and the failures at its end."""

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator, Sequence

import pandas as pd

from emqa_dask import tables
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pipeline.workspace.stages import SURVEY_FAILURES, downstream, failures_dir, folders
from emqa_dask.run.task import Result
from emqa_dask.settings import Settings
from emqa_dask.store import digests, files, layout, parts
from emqa_dask.store.digests import Digests

EVENTS = "events.parquet"  # a folder of parts, which readers of Parquet take for one table
FLUSH_S = 20.0
FLUSH_ROWS = 5000


def failed_ids(root: str, folder: str, name: str) -> pd.Series:
    """micrograph_ids that failed when the part `name` of `folder` was made."""
    uri = layout.part(root, failures_dir(folder), name)
    ids = parts.load_table(uri, tables.FAILURES, ["micrograph_id"])["micrograph_id"]
    return ids[:0] if len(ids) and _are_over(root, folder, name) else ids


def _are_over(root: str, folder: str, name: str) -> bool:
    """Are the failures of the part `name` of `folder` those of an attempt that was killed: did no image fail later?"""
    try:
        return not parts.n_failed(layout.part(root, folder, name))
    except (FileNotFoundError, parts.DamagedTable):
        return False


@contextlib.contextmanager
def recording(root: str, check: Callable[[], None] = lambda: None) -> Iterator[Callable[[Result], None]]:
    """record(result) adds its events to events.parquet, in parts of some seconds; `check` is called with each."""
    run = f"{time.time_ns() // 1_000_000:013d}-{uuid.uuid4().hex[:6]}"
    number = 0
    said = time.monotonic()
    rows = []

    def flush() -> None:
        nonlocal number, said, rows
        if rows:
            parts.write_part(root, EVENTS, f"{run}-{number:05d}", rows, tables.EVENTS)
        number = number + 1
        said = time.monotonic()
        rows = []

    def record(result: Result) -> None:
        rows.extend(_events(result))
        if len(rows) >= FLUSH_ROWS or time.monotonic() - said > FLUSH_S:
            check()
            flush()

    try:
        yield record
        flush()
    except BaseException:
        with contextlib.suppress(OSError):  # the disk is full, say: the first error says so
            flush()
        raise


def _events(result: Result) -> list[dict]:
    """A task's event; of a task with several stages, an event for each, one after the other."""
    stages = result.value.get("stages")
    if not stages:
        return [result.event]
    rows = []
    started = result.event["started"]
    for stage, seconds in stages.items():
        rows.append(result.event | {"stage": stage, "started": started, "seconds": seconds})
        started += seconds
    return rows


def stage_seconds(root: str) -> dict[str, float]:
    """Worker-seconds of every stage so far."""
    total: dict[str, float] = {}
    for name in parts.part_names(root, EVENTS):
        events = parts.read_part(root, EVENTS, name, tables.EVENTS, ["stage", "seconds"])
        for stage, seconds in events.groupby("stage", sort=False)["seconds"].sum().items():
            total[stage] = total.get(stage, 0.0) + seconds
    return {stage: round(seconds, 3) for stage, seconds in total.items()}


def fail_partition(root: str, settings: Settings, result: Result) -> None:
    """Write down that a partition as a whole failed: no image of it is blamed, and the next run tries it again."""
    where = folders(settings)
    name = result.task.name
    rows = result.task.args[2]
    table = next((t for t in where if not parts.has_part(root, where[t], name)), None)
    if table is not None:
        said = {"stage": table, "kind": result.kind, "error": result.error, "traceback": result.traceback}
        said |= {"attempts": result.event["attempt"], "worker": result.event["worker"], "peak_memory_bytes": 0}
        failures = rows[["uri", "micrograph_id"]].assign(**said)
        parts.write_part(root, failures_dir(where[table]), name, failures, tables.FAILURES)


def drop_parts(root: str, where: dict[str, str], made_from: Sequence[str], name: str) -> None:
    """Remove the parts `name` of the tables `made_from`, downstream ones first, then what they say of failures."""
    for table in reversed(made_from):
        files.remove(layout.part(root, where[table], name))
        files.remove(layout.part(root, failures_dir(where[table]), name))


def forget_unfinished(root: str, where: dict[str, str], table: str, there: set[str]) -> None:
    """Remove failures of `table` from partitions that lack it, and what was made without these images: all is tried
    again. `there` are the partitions that have the table."""
    for name in set(parts.part_names(root, failures_dir(where[table]))) - there:
        drop_parts(root, where, downstream(table, where), name)


def failures(root: str, settings: Settings) -> Iterator[pd.DataFrame]:
    """Every failure that stands, for these settings: of files that could not be read, then of stages."""
    names = parts.part_names(root, SURVEY_FAILURES)
    surveyed = [parts.read_part(root, SURVEY_FAILURES, name, tables.FAILURES) for name in names]
    known = pd.concat([tables.empty(tables.FAILURES), *surveyed]).drop_duplicates("uri", keep="last").set_index("uri")
    columns = ["uri", "status", "reason", "error", "is_present"]
    for unread in parts.iter_table(layout.catalog(root), tables.CATALOG, columns, only=("status", "failed")):
        unread = unread[unread["is_present"].ne(False)]
        rows = pd.DataFrame({"uri": unread["uri"], "stage": "ingest", "kind": "error", "traceback": "", "attempts": 1})
        rows["error"] = unread["error"].where(unread["error"].notna() & unread["error"].ne(""), unread["reason"])
        rows["worker"] = ""
        rows["peak_memory_bytes"] = 0
        seen = rows["uri"].isin(known.index)
        yield pd.concat([rows[~seen], known.loc[rows["uri"][seen]].reset_index()], ignore_index=True)
    existing = layout.table_folders(root)
    of_stages = [folder for folder in dict.fromkeys(folders(settings).values()) if failures_dir(folder) in existing]
    found = [(folder, name) for folder in of_stages for name in parts.part_names(root, failures_dir(folder))]
    if not found:
        return
    present = Digests()
    for rows in micrograph_ledger.current(root, ["micrograph_id"]):
        present.add(digests.of_hex(rows["micrograph_id"]))
    for folder, name in found:
        if _are_over(root, folder, name):
            files.remove(layout.part(root, failures_dir(folder), name))
            continue
        rows = parts.read_part(root, failures_dir(folder), name, tables.FAILURES)
        yield rows[present.has(digests.of_hex(rows["micrograph_id"]))]


def write_failures(root: str, settings: Settings) -> int:
    """Write failures.parquet anew; gives its number of rows."""
    n = 0
    with parts.table_writer(layout.failures(root), tables.FAILURES) as write:
        for rows in failures(root, settings):
            if len(rows):
                n += len(rows)
                write(rows)
    return n
