"""emqa status: reports the content of a workspace, once or repeatedly while it grows."""

import time
from collections import Counter
from collections.abc import Callable

from emqa_dask import tables
from emqa_dask.pipeline.commands.triage import tell
from emqa_dask.pipeline.workspace import micrograph_ledger, preconditions
from emqa_dask.pipeline.workspace.reviewed import describe_review
from emqa_dask.pipeline.workspace.stages import list_run_folders
from emqa_dask.run.progress import format_duration
from emqa_dask.settings import Settings
from emqa_dask.store import files, lock, marker, parts, stored_settings
from emqa_dask.store.layout import Workspace

Say = Callable[[str], None]


def status(root: str, say: Say = print) -> int:
    """Exit code: 0, or 2 when files or tasks failed. Reports the content of a workspace and its missing tables."""
    workspace = Workspace(root)
    sources = marker.read_sources(root)
    settings = stored_settings.read_settings(root)
    if files.exists(workspace.triage):
        preconditions.require_tables(workspace, sources)
    say(f"workspace {files.redact(root)} of archive {files.redact(marker.describe_sources(sources))}")
    if holder := lock.describe_holder(root):
        say(f"  at work: {holder}")
    states = Counter()
    n_failed = 0
    first = []
    for rows in parts.iterate_table(workspace.catalog, tables.CATALOG, ["status"]):
        states.update(rows["status"])
    say(f"  files {states.total():,}: " + ", ".join(f"{states[s]:,} {s}" for s in tables.STATUSES))
    n_micrographs, part_counts = progress(workspace, settings)
    n_partitions = part_counts.pop("partitions")
    say(f"  micrographs {n_micrographs:,} in {n_partitions:,} partitions")
    for table, n in part_counts.items():
        say(f"  {table:<12} {n:,} of {n_partitions:,} partitions" + ("" if n == n_partitions else "  (unfinished)"))
    for line in describe_review(workspace):
        say(f"  {line}")
    for rows in parts.iterate_table(workspace.failures, tables.FAILURES, ["uri", "stage", "kind", "error"]):
        n_failed = n_failed + len(rows)
        first = [*first, *rows.head(10 - len(first)).itertuples()]
    for row in first:
        say(f"  failed: {row.uri!r} ({row.stage}, {row.kind}): {row.error}")
    if n_failed > len(first):
        say(f"  and {n_failed - len(first):,} more in {workspace.failures}")
    if n_failed:
        say(f"  try them again: {marker.format_command('retry', root, '--failed')}")
    if files.exists(workspace.provenance):
        tell(workspace, say)
    return 2 if n_failed else 0


def progress(workspace: Workspace, settings: Settings) -> tuple[int, dict[str, int]]:
    """Number of micrographs in the ledger, and number of partitions with each table ("partitions": all partitions)."""
    made_partitions = {
        table: set(parts.list_parts(workspace.uri, folder)) for table, folder in list_run_folders(settings).items()
    }
    n_micrographs = 0
    part_counts = {"partitions": 0} | dict.fromkeys(made_partitions, 0)
    for partition in micrograph_ledger.list_partitions(workspace):
        n_micrographs += len(partition)
        part_counts["partitions"] += 1
        for table, names in made_partitions.items():
            part_counts[table] += partition.name in names
    return n_micrographs, part_counts


def watch(root: str, every_s: float = 10.0, say: Say = print) -> int:
    """Exit code of `status` after the run on `root` has ended. Reports its progress every `every_s` seconds."""
    workspace = Workspace(root)
    marker.read_source(root)
    first_look = None
    while holder := lock.describe_holder(root):
        settings = stored_settings.read_settings(root)
        n_micrographs, part_counts = progress(workspace, settings)
        n_all = part_counts["partitions"]
        now_s = time.monotonic()
        n_done = part_counts["predictions"]
        remaining_text = ""
        if first_look and n_done > first_look[1]:
            rate = (n_done - first_look[1]) / (now_s - first_look[0])
            remaining_text = f", {format_duration((n_all - n_done) / rate)} left"
        first_look = first_look or (now_s, n_done)
        progress_text = (
            f"{n_done:,} of {n_all:,} partitions ({n_micrographs:,} micrographs)" if n_all else "surveying the archive"
        )
        say(f"{time.strftime('%H:%M:%S')}  {progress_text}{remaining_text}; {holder}")
        time.sleep(every_s)
    return status(root, say)
