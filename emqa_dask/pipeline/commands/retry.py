"""emqa retry: repeats the failed work of a workspace."""

from collections.abc import Callable

from emqa_dask import tables
from emqa_dask.pipeline.commands.triage import run
from emqa_dask.pipeline.workspace import file_catalog
from emqa_dask.pipeline.workspace.failures import drop_parts
from emqa_dask.pipeline.workspace.part_folders import name_failures_folder
from emqa_dask.pipeline.workspace.stages import STAGES, list_downstream_tables, list_run_folders
from emqa_dask.settings import Settings
from emqa_dask.store import lock, marker, parts
from emqa_dask.store.layout import Workspace

Say = Callable[[str], None]
# Stages in which a file or an image can fail. Thumbnails are made from stored pixels, so they are a stage of their own.
FAILING_STAGES = ("ingest", "store", "thumbnail", *(stage.name for stage in STAGES[1:] if stage.has_pixels))


def retry(root: str, settings: Settings, stage: str | None = None, say: Say = print) -> int:
    """Exit code of a run that repeats failed work, of `stage` or of all stages. Other finished work is kept.

    A file that could not be read is surveyed again. A partition with a failed image makes that table, and the tables
    made from it, again. Exit codes are those of `triage.run`.
    """
    workspace = Workspace(root)
    sources = marker.read_sources(root)
    if stage is not None and stage not in FAILING_STAGES:
        raise ValueError(f"--stage {stage}: known are {', '.join(FAILING_STAGES)}")
    with lock.hold_lock(root, say):
        n_files = _forget_unread_files(workspace) if stage in (None, "ingest") else 0
        n_partitions = _drop_failed_partitions(workspace, settings, stage)
    if not n_files and not n_partitions:
        say("nothing has failed" + (f" in {stage}" if stage else "") + ": there is nothing to try again")
    else:
        say(f"trying again: {n_files:,} files, {n_partitions:,} partitions")
    return run(sources, root, settings, say=say)


def _forget_unread_files(workspace: Workspace) -> int:
    """Number of files that could not be read. Removes them from the catalog, so that the next ingest surveys them."""
    unread: set[str] = set()
    only_failed = ("status", "failed")
    for rows in parts.iterate_table(workspace.catalog, tables.CATALOG, ["uri", "status"], row_filter=only_failed):
        unread |= set(rows["uri"])
    if unread:
        file_catalog.forget_files(workspace, unread)
    return len(unread)


def _drop_failed_partitions(workspace: Workspace, settings: Settings, stage: str | None) -> int:
    """Number of removed tables of partitions with images that failed in `stage` (None: any)."""
    table_folders = list_run_folders(settings)
    n_partitions = 0
    for table, folder in table_folders.items():
        for name in parts.list_parts(workspace.uri, name_failures_folder(folder)):
            failed = parts.read_part(workspace.uri, name_failures_folder(folder), name, tables.FAILURES, ["stage"])[
                "stage"
            ]
            if stage is None or stage in set(failed):
                drop_parts(workspace, table_folders, list_downstream_tables(table, table_folders), name)
                n_partitions += 1
    return n_partitions
