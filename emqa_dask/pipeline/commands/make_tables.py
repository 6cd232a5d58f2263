"""One task for every partition that lacks a table."""

import numpy as np

from emqa_dask.partition import Partition
from emqa_dask.pipeline.commands.bundled_tables import predict_all, weigh_all
from emqa_dask.pipeline.tasks.entry import make_partition
from emqa_dask.pipeline.workspace import failures, micrograph_ledger
from emqa_dask.pipeline.workspace.part_folders import failures_folder
from emqa_dask.pipeline.workspace.stages import folders, tables_of_step, upstream
from emqa_dask.run.executor import Executor
from emqa_dask.run.preflight import Needs
from emqa_dask.run.task import Task
from emqa_dask.settings import Settings
from emqa_dask.store import layout, parts

# The columns of the ledger that a task gets: not the headers, which are 1 kB of each micrograph and pass the scheduler.
TASK_COLUMNS = (
    *("micrograph_id", "uri", "frame", "path", "pixel_sha256", "stack", "index", "height_px", "width_px", "dtype"),
    *("colour_fraction", "instrument", "magnification", "nm_per_pixel", "voltage_kv"),
)
STORED = {False: 1, True: 2}  # pixels of one byte, or of more, per byte that the store takes (see store.stacks)


def make_tables(root: str, settings: Settings, steps: list[str], execute_here: Executor) -> None:
    """One task for every partition that lacks a table of `steps`, or of what those are made from.

    Where all that takes pixels is there, evidence is made before, and then predictions, of many partitions in a task;
    what fails there is left to the partitions' own tasks.
    """
    where = folders(settings)
    needed = upstream([table for step in steps for table in tables_of_step(step) if table in where], where)
    judging = [table for table in ("evidence", "predictions") if "predictions" in needed]
    done: set[str] | None = None
    judged: dict[str, set[str]] = {}
    stored: set[str] = set()  # partitions of which the first table, made with the shard, is there
    existing = set(layout.list_table_folders(root))  # a bucket is asked once for them all
    for table in needed:  # few listings in memory at a time: a million images are 60,000 names
        there = set(parts.list_parts(root, where[table])) if where[table] in existing else set()
        if failures_folder(where[table]) in existing:
            failures.forget_unfinished(root, where, table, there)
        stored = there if done is None else stored
        if table in judging:
            judged[table] = there
        else:
            done = there if done is None else done & there
    for table in judging:
        make = weigh_all if table == "evidence" else predict_all
        done = (done & judged[table]) | make(root, settings, done - judged[table], execute_here)
    total = 0
    n_tasks = 0
    needs = Needs()
    for partition in micrograph_ledger.every_partition(root):
        if partition.name not in done:
            total += len(partition)
            n_tasks += 1
            needs = _add_needs(needs, partition, partition.name in stored)
    if not total:
        return
    todo = (
        Task(partition.name, (root, partition, rows, settings, needed), len(partition))
        for partition, rows in micrograph_ledger.partitions(root, TASK_COLUMNS)
        if partition.name not in done
    )
    stage = "triage" if "predict" in steps else steps[-1]
    for result in execute_here(make_partition, todo, stage, total, needs, n_tasks):
        if result.outcome == "failed":
            failures.fail_partition(root, settings, result)


def _add_needs(needs: Needs, partition: Partition, is_stored: bool) -> Needs:
    """`needs` with one more partition."""
    height, width, dtype = layout.parse_shape(partition.stack)
    n_bytes = len(partition) * height * width * np.dtype(dtype).itemsize
    n_written = 0 if is_stored else n_bytes // STORED[np.dtype(dtype).itemsize > 1]
    return Needs(
        partition_bytes=max(needs.partition_bytes, n_bytes),
        output_bytes=needs.output_bytes + n_written,
        image_px=max(needs.image_px, height * width),
    )
