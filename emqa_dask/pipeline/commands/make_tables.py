"""Makes the tables of partitions: first by bundles of partitions, then by one task per unfinished partition."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from emqa_dask.partition import Partition
from emqa_dask.pipeline.commands.bundled_tables import BUNDLES, make_bundled
from emqa_dask.pipeline.tasks.custom_checks import HEADER_FIELDS
from emqa_dask.pipeline.tasks.entry import make_partition
from emqa_dask.pipeline.workspace import failures, micrograph_ledger
from emqa_dask.pipeline.workspace.part_folders import name_failures_folder
from emqa_dask.pipeline.workspace.stages import list_run_folders, list_step_tables, list_upstream_tables
from emqa_dask.run.executor import Executor
from emqa_dask.run.preflight import StageWorkload
from emqa_dask.run.task import Task
from emqa_dask.settings import Settings
from emqa_dask.store import layout, parts
from emqa_dask.store.layout import Workspace

# The columns of the ledger that a task gets: not the headers, which are 1 kB of each micrograph and pass the scheduler.
TASK_COLUMNS = (
    *("micrograph_id", "uri", "frame", "path", "pixel_sha256", "stack", "index", "height_px", "width_px", "dtype"),
    *("colour_fraction", "instrument", "magnification", "nm_per_pixel", "nm_per_pixel_y", "voltage_kv"),
)
# Further columns for custom checks, whose functions get the header.
CHECK_COLUMNS = tuple(name for name in (*HEADER_FIELDS, "header") if name not in TASK_COLUMNS)
STORED = {False: 1, True: 2}  # pixels of one byte, or of more, per byte that the store takes (see store.stacks)


def make_tables(workspace: Workspace, settings: Settings, steps: list[str], execute: Executor) -> None:
    """Makes the tables of `steps`, and the tables that they need, by one task per unfinished partition.

    Partitions whose tables from pixels exist get evidence, predictions and measurements first, by tasks for many
    partitions. Partitions that fail in these get a task of their own.
    """
    table_folders = list_run_folders(settings)
    final_tables = [table for step in steps for table in list_step_tables(step) if table in table_folders]
    needed = list_upstream_tables(final_tables, table_folders)
    bundles = [bundle for bundle in BUNDLES if set(bundle.tables) <= set(needed)]
    progress = _find_progress(
        workspace, table_folders, needed, [table for bundle in bundles for table in bundle.tables]
    )
    finished = progress.finished
    for bundle in bundles:
        complete = set.intersection(*(progress.bundled[table] for table in bundle.tables))
        finished = (finished & complete) | make_bundled(bundle, workspace, settings, finished - complete, execute)
    n_images, workload = _sum_unfinished_work(workspace, finished, progress.stored)
    if not n_images:
        return
    columns = (*TASK_COLUMNS, *CHECK_COLUMNS) if "custom_checks" in needed else TASK_COLUMNS
    tasks = (
        Task(partition.name, (workspace, partition, packed_rows, settings, needed), len(partition))
        for partition, packed_rows in micrograph_ledger.iter_packed_partitions(workspace, columns)
        if partition.name not in finished
    )
    stage = "triage" if "predict" in steps else steps[-1]
    for result in execute(make_partition, tasks, stage, n_images, workload):
        if result.outcome == "failed":
            failures.fail_partition(workspace, settings, result)


class _Progress(NamedTuple):
    """Names of the partitions that have each table."""

    stored: set[str]  # that have the first table, which is made with the shard
    finished: set[str]  # that have all tables but the bundled ones
    bundled: dict[str, set[str]]  # bundled table -> those that have it


def _find_progress(
    workspace: Workspace, table_folders: dict[str, str], needed: Iterable[str], bundled: list[str]
) -> _Progress:
    """Progress of the tables `needed`; removes the failures of partitions that lack the table.

    Memory holds few listings at a time: a million images have 60,000 names.
    """
    finished: set[str] | None = None
    stored: set[str] = set()
    with_bundled: dict[str, set[str]] = {}
    existing = set(workspace.list_table_folders())  # a bucket is asked once for them all
    for table in needed:
        folder = table_folders[table]
        names = set(parts.list_parts(workspace.uri, folder)) if folder in existing else set()
        if name_failures_folder(folder) in existing:
            failures.forget_unfinished(workspace, table_folders, table, names)
        if finished is None:
            stored = names
        if table in bundled:
            with_bundled[table] = names
        else:
            finished = names if finished is None else finished & names
    return _Progress(stored, finished or set(), with_bundled)


def _sum_unfinished_work(workspace: Workspace, finished: set[str], stored: set[str]) -> tuple[int, StageWorkload]:
    """(images, workload) of the partitions that are not `finished`."""
    n_images = 0
    workload = StageWorkload()
    for partition in micrograph_ledger.list_partitions(workspace):
        if partition.name not in finished:
            n_images += len(partition)
            workload = _add_workload(workload, partition, partition.name in stored)
    return n_images, workload


def _add_workload(workload: StageWorkload, partition: Partition, is_stored: bool) -> StageWorkload:
    """`workload` with one more partition."""
    height, width, dtype = layout.parse_shape(partition.stack)
    n_bytes = len(partition) * height * width * np.dtype(dtype).itemsize
    n_written = 0 if is_stored else n_bytes // STORED[np.dtype(dtype).itemsize > 1]
    return StageWorkload(
        partition_bytes=max(workload.partition_bytes, n_bytes),
        output_bytes=workload.output_bytes + n_written,
        image_px=max(workload.image_px, height * width),
    )
