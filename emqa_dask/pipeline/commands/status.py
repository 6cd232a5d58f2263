"""What a workspace holds, once or as it grows; and the failed work of it, tried again."""

import time
from collections import Counter
from collections.abc import Callable

from emqa_dask import tables
from emqa_dask.pipeline.commands.triage import run, tell
from emqa_dask.pipeline.workspace import failures, file_catalog, micrograph_ledger, preconditions
from emqa_dask.pipeline.workspace.part_folders import failures_folder
from emqa_dask.pipeline.workspace.stages import STAGES, downstream, folders
from emqa_dask.run.progress import clock
from emqa_dask.settings import Settings
from emqa_dask.store import files, layout, lock, marker, parts, stored_settings

Say = Callable[[str], None]
# In which a file or an image can fail; a thumbnail is made from what is stored.
FAILING_STAGES = ("ingest", "store", "thumbnail", *(stage.name for stage in STAGES[1:] if stage.has_pixels))


def status(root: str, say: Say = print) -> int:
    """Say what a workspace holds and what is missing; 0, or 2 when files or tasks failed."""
    source = marker.read_source(root)
    settings = stored_settings.read_settings(root)
    if files.exists(layout.triage_uri(root)):
        preconditions.require_tables(root, source)
    say(f"workspace {files.redact(root)} of archive {files.redact(source)}")
    if holder := lock.describe_holder(root):
        say(f"  at work: {holder}")
    states = Counter()
    n_failed = 0
    first = []
    for rows in parts.iterate_table(layout.catalog_uri(root), tables.CATALOG, ["status"]):
        states.update(rows["status"])
    say(f"  files {states.total():,}: " + ", ".join(f"{states[s]:,} {s}" for s in tables.STATUSES))
    n_micrographs, done = progress(root, settings)
    n_partitions = done.pop("partitions")
    say(f"  micrographs {n_micrographs:,} in {n_partitions:,} partitions")
    for table, n in done.items():
        say(f"  {table:<12} {n:,} of {n_partitions:,} partitions" + ("" if n == n_partitions else "  (unfinished)"))
    for rows in parts.iterate_table(layout.failures_uri(root), tables.FAILURES, ["uri", "stage", "kind", "error"]):
        n_failed = n_failed + len(rows)
        first = [*first, *rows.head(10 - len(first)).itertuples()]
    for row in first:
        say(f"  failed: {row.uri!r} ({row.stage}, {row.kind}): {row.error}")
    if n_failed > len(first):
        say(f"  and {n_failed - len(first):,} more in {layout.failures_uri(root)}")
    if n_failed:
        say(f"  try them again: {marker.format_command('retry', root, '--failed')}")
    if files.exists(layout.provenance_uri(root)):
        tell(root, say)
    return 2 if n_failed else 0


def progress(root: str, settings: Settings) -> tuple[int, dict[str, int]]:
    """(micrographs in the ledger, partitions that have each table); "partitions" is how many there are."""
    there = {table: set(parts.list_parts(root, folder)) for table, folder in folders(settings).items()}
    n_micrographs = 0
    done = {"partitions": 0} | dict.fromkeys(there, 0)
    for partition in micrograph_ledger.every_partition(root):
        n_micrographs += len(partition)
        done["partitions"] += 1
        for table, names in there.items():
            done[table] += partition.name in names
    return n_micrographs, done


def watch(root: str, every_s: float = 10.0, say: Say = print) -> int:
    """Say every `every_s` seconds how far the run on `root` is, until none is at work; then its status."""
    marker.read_source(root)
    before = None
    while holder := lock.describe_holder(root):
        settings = stored_settings.read_settings(root)
        n_micrographs, done = progress(root, settings)
        n_all = done["partitions"]
        now = time.monotonic()
        n_done = done["predictions"]
        left = ""
        if before and n_done > before[1]:
            rate = (n_done - before[1]) / (now - before[0])
            left = f", {clock((n_all - n_done) / rate)} left"
        before = before or (now, n_done)
        of = f"{n_done:,} of {n_all:,} partitions ({n_micrographs:,} micrographs)" if n_all else "surveying the archive"
        say(f"{time.strftime('%H:%M:%S')}  {of}{left}; {holder}")
        time.sleep(every_s)
    return status(root, say)


def retry(root: str, settings: Settings, stage: str | None = None, say: Say = print) -> int:
    """Try again what failed, in `stage` or anywhere, with all steps; as run(). Finished work of others is kept.

    A file that could not be read is surveyed again; a partition with an image that failed makes that table and those
    made from it again.
    """
    source = marker.read_source(root)
    if stage is not None and stage not in FAILING_STAGES:
        raise ValueError(f"--stage {stage}: known are {', '.join(FAILING_STAGES)}")
    with lock.hold_lock(root, say):
        unread = set()
        if stage in (None, "ingest"):
            columns = ["uri", "status"]
            only = ("status", "failed")
            for rows in parts.iterate_table(layout.catalog_uri(root), tables.CATALOG, columns, row_filter=only):
                unread |= set(rows["uri"])
        if unread:
            file_catalog.forget(root, unread)
        where = folders(settings)
        n_partitions = 0
        for table in where:
            names = parts.list_parts(root, failures_folder(where[table]))
            for name in names:
                failed = parts.read_part(root, failures_folder(where[table]), name, tables.FAILURES, ["stage"])["stage"]
                if stage is None or stage in set(failed):
                    failures.drop_parts(root, where, downstream(table, where), name)
                    n_partitions += 1
    if not unread and not n_partitions:
        say("nothing has failed" + (f" in {stage}" if stage else "") + ": there is nothing to try again")
    else:
        say(f"trying again: {len(unread):,} files, {n_partitions:,} partitions")
    return run(source, root, settings, say=say)
