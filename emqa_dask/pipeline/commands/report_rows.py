"""Input rows of the verdicts on all files and micrographs of a workspace, in the order of URI and frame."""

import itertools
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow as pa

from emqa_dask import tables
from emqa_dask.pipeline.commands.report_copies import MicrographIndex
from emqa_dask.pipeline.tasks.report_rows import (
    COLUMNS,
    FLAGGED_ROWS,
    LEDGER_COLUMNS,
    collect_rows,
    write_rows,
)
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pipeline.workspace.stages import list_run_folders
from emqa_dask.run.executor import Executor
from emqa_dask.run.task import Task
from emqa_dask.settings import Settings
from emqa_dask.store import files, parts
from emqa_dask.store.arrow_streams import read_streams
from emqa_dask.store.layout import Workspace
from emqa_dask.store.spill import RangeSort
from emqa_dask.triage.rows import FILE_COLUMNS, list_files

NUMBERED_ROWS = FLAGGED_ROWS.append(pa.field("number", pa.int32()))  # of a micrograph in the index
SAMPLES_PER_RANGE = 16  # keys that are sampled for the rows that are sorted together


def gather_rows(
    workspace: Workspace,
    settings: Settings,
    failures: pd.DataFrame,
    ranges: RangeSort,
    index: MicrographIndex,
    execute: Executor | None,
) -> None:
    """Adds all rows (NUMBERED_ROWS) of files and micrographs to `ranges`, and all micrographs to `index`.

    `execute` collects the rows of micrographs on workers; without it, this process does. Raises ValueError as
    collect_rows() does.
    """
    tasks = _make_tasks(workspace, settings, failures)
    collected = itertools.starmap(collect_rows, tasks) if execute is None else _collect(workspace, tasks, execute)
    for rows in collected:
        row_numbers = pa.array(np.arange(index.n_micrographs, index.n_micrographs + len(rows), dtype="int32"))
        index.add(rows)
        ranges.add(rows.select(FLAGGED_ROWS.names).append_column("number", row_numbers))
    columns = ["uri", "content_sha256", *FILE_COLUMNS, "is_present"]
    for catalog in parts.iterate_table(workspace.catalog, tables.CATALOG, columns):
        catalog["status"] = catalog["status"].where(catalog["is_present"].ne(False), "removed")
        ranges.add(tables.conform(list_files(catalog), NUMBERED_ROWS))


def _collect(workspace: Workspace, tasks: Iterator[tuple], execute: Executor) -> Iterator[pa.Table]:
    """Rows of the `tasks` for collect_rows(), which workers write into files of the folder `report_rows`."""
    named_tasks = (
        Task(f"{k:06d}", (files.join(workspace.report_rows, f"{k:06d}.arrows"), *args), int(args[2].sum()))
        for k, args in enumerate(tasks)
    )
    for result in execute(write_rows, named_tasks, "collect", parts.count_rows(workspace.micrographs)):
        uri, *args = result.task.args
        if result.outcome == "failed":  # it is done again here, so that its error is raised
            yield collect_rows(*args)
        else:
            yield from read_streams(uri)
            files.remove_file(uri)


def _make_tasks(workspace: Workspace, settings: Settings, failures: pd.DataFrame) -> Iterator[tuple]:
    """Arguments of collect_rows() for batches of some thousand micrographs."""
    folder_names = {table: folder for table, folder in list_run_folders(settings).items() if table in COLUMNS}
    part_names = {table: set(parts.list_parts(workspace.uri, folder)) for table, folder in folder_names.items()}
    for rows, is_current in micrograph_ledger.iter_ledger(workspace, LEDGER_COLUMNS):
        if not is_current.any():
            continue
        names = rows["partition"][is_current].unique()
        own_names = {table: [name for name in names if name in part_names[table]] for table in folder_names}
        own_failures = failures[failures["micrograph_id"].isin(rows["micrograph_id"])] if len(failures) else failures
        packed_rows = micrograph_ledger.pack_rows(rows)
        yield workspace, packed_rows, is_current, own_names, settings, own_failures


def choose_limits(workspace: Workspace, n_rows: int) -> list[tuple[str, int]]:
    """Sorted keys (uri, frame) that divide the rows of files and micrographs into ranges of about `n_rows`."""
    step = max(1, n_rows // SAMPLES_PER_RANGE)
    keys: list[tuple[str, int]] = []
    n_before = 0
    for rows in parts.iterate_table(workspace.catalog, tables.CATALOG, ["uri", "n_frames"]):
        n_own = 1 + rows["n_frames"].fillna(0).to_numpy(np.int64)  # of the file, and of its micrographs
        stops = n_before + np.cumsum(n_own)
        sampled_rows = np.arange(-(-n_before // step) * step, stops[-1], step)
        files_of_keys = np.searchsorted(stops, sampled_rows, side="right")
        frames = sampled_rows - (stops - n_own)[files_of_keys] - 1  # the first row is that of the file
        keys += zip(rows["uri"].iloc[files_of_keys], frames.tolist(), strict=True)
        n_before = int(stops[-1])
    n_keys = max(1, n_rows // step)
    return sorted(keys)[n_keys::n_keys]
