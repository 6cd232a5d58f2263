"""Failures of a workspace: of files that could not be read, and of stages on single micrographs."""

from collections.abc import Iterator, Sequence

import pandas as pd

from emqa_dask import tables
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pipeline.workspace.part_folders import SURVEY_FAILURES, name_failures_folder
from emqa_dask.pipeline.workspace.stages import list_downstream_tables, list_run_folders
from emqa_dask.run.supervise import CallFailed
from emqa_dask.run.task import Result
from emqa_dask.settings import Settings
from emqa_dask.store import digests, files, parts
from emqa_dask.store.digests import DigestSet
from emqa_dask.store.layout import Workspace


def make_failure_row(uri: str, micrograph_id: str | None, stage: str, died: CallFailed, worker: str) -> dict:
    """The row of tables.FAILURES of a file, or of one micrograph of it."""
    return {
        "uri": uri,
        "micrograph_id": micrograph_id,
        "stage": stage,
        "worker": worker,
        "kind": died.failure_kind,
        "error": died.error,
        "traceback": died.traceback,
        "attempts": died.attempts,
        "peak_memory_bytes": died.peak_memory_bytes,
    }


def read_failed_ids(workspace: Workspace, folder: str, name: str) -> pd.Series:
    """micrograph_ids that failed when the part `name` of `folder` was made."""
    uri = workspace.part(name_failures_folder(folder), name)
    ids = parts.load_table(uri, tables.FAILURES, ["micrograph_id"])["micrograph_id"]
    return ids[:0] if len(ids) and _are_outdated(workspace, folder, name) else ids


def _are_outdated(workspace: Workspace, folder: str, name: str) -> bool:
    """Whether the part `name` of `folder` has no failed image, so that its failures are those of a killed attempt."""
    try:
        return not parts.read_n_failed(workspace.part(folder, name))
    except (FileNotFoundError, parts.DamagedTable):
        return False


def fail_partition(workspace: Workspace, settings: Settings, result: Result) -> None:
    """Records the failure of a whole partition, without a failed image; the next run repeats it."""
    table_folders = list_run_folders(settings)
    name = result.task.name
    rows = micrograph_ledger.unpack_rows(result.task.args[2])
    table = next((t for t in table_folders if not parts.has_part(workspace.uri, table_folders[t], name)), None)
    if table is not None:
        columns = {"stage": table, "kind": result.failure_kind, "error": result.error, "traceback": result.traceback}
        columns |= {"attempts": result.event["attempt"], "worker": result.event["worker"], "peak_memory_bytes": 0}
        failures = rows[["uri", "micrograph_id"]].assign(**columns)
        parts.write_part(workspace.uri, name_failures_folder(table_folders[table]), name, failures, tables.FAILURES)


def drop_parts(workspace: Workspace, table_folders: dict[str, str], dropped_tables: Sequence[str], name: str) -> None:
    """Removes the parts `name` of the tables `dropped_tables`, downstream ones first, then their failures."""
    for table in reversed(dropped_tables):
        files.remove_file(workspace.part(table_folders[table], name))
        files.remove_file(workspace.part(name_failures_folder(table_folders[table]), name))


def forget_unfinished(
    workspace: Workspace, table_folders: dict[str, str], table: str, finished_partitions: set[str]
) -> None:
    """Removes the failures of `table` in partitions that lack it, and the tables made without these images.

    The run makes them again. `finished_partitions` are the partitions that have the table.
    """
    for name in set(parts.list_parts(workspace.uri, name_failures_folder(table_folders[table]))) - finished_partitions:
        drop_parts(workspace, table_folders, list_downstream_tables(table, table_folders), name)


def iter_failures(workspace: Workspace, settings: Settings) -> Iterator[pd.DataFrame]:
    """All failures for these settings: of files that could not be read, then of stages."""
    yield from _iter_failures_of_files(workspace)
    yield from _iter_failures_of_stages(workspace, settings)


def _iter_failures_of_files(workspace: Workspace) -> Iterator[pd.DataFrame]:
    """Files of the catalog that could not be read; with more details where the reader crashed or hung."""
    names = parts.list_parts(workspace.uri, SURVEY_FAILURES)
    surveys = [parts.read_part(workspace.uri, SURVEY_FAILURES, name, tables.FAILURES) for name in names]
    crashes = pd.concat([tables.empty(tables.FAILURES), *surveys]).drop_duplicates("uri", keep="last").set_index("uri")
    columns = ["uri", "status", "reason", "error", "is_present"]
    for unread in parts.iterate_table(workspace.catalog, tables.CATALOG, columns, row_filter=("status", "failed")):
        unread = unread[unread["is_present"].ne(False)]
        rows = pd.DataFrame({"uri": unread["uri"], "stage": "ingest", "kind": "error", "traceback": "", "attempts": 1})
        rows["error"] = unread["error"].where(unread["error"].notna() & unread["error"].ne(""), unread["reason"])
        rows["worker"] = ""
        rows["peak_memory_bytes"] = 0
        is_crash = rows["uri"].isin(crashes.index)
        yield pd.concat([rows[~is_crash], crashes.loc[rows["uri"][is_crash]].reset_index()], ignore_index=True)


def _iter_failures_of_stages(workspace: Workspace, settings: Settings) -> Iterator[pd.DataFrame]:
    """Micrographs of the archive on which a stage failed; failures that are outdated are removed."""
    existing = set(workspace.list_table_folders())
    table_folders = dict.fromkeys(list_run_folders(settings).values())
    with_failures = [folder for folder in table_folders if name_failures_folder(folder) in existing]
    listed = [
        (folder, name)
        for folder in with_failures
        for name in parts.list_parts(workspace.uri, name_failures_folder(folder))
    ]
    if not listed:
        return
    present = DigestSet()
    for rows in micrograph_ledger.iter_current(workspace, ["micrograph_id"]):
        present.add(digests.parse_hex_ids(rows["micrograph_id"]))
    for folder, name in listed:
        if _are_outdated(workspace, folder, name):
            files.remove_file(workspace.part(name_failures_folder(folder), name))
            continue
        rows = parts.read_part(workspace.uri, name_failures_folder(folder), name, tables.FAILURES)
        yield rows[present.has(digests.parse_hex_ids(rows["micrograph_id"]))]


def write_failures(workspace: Workspace, settings: Settings) -> int:
    """Number of rows of failures.parquet, which is written anew."""
    n = 0
    with parts.open_table_writer(workspace.failures, tables.FAILURES) as write:
        for rows in iter_failures(workspace, settings):
            if len(rows):
                n += len(rows)
                write(rows)
    return n
