"""Verdicts on an archive of any size: first compact arrays over all rows, then batches in the order of the URI."""

import itertools
from collections.abc import Iterable, Iterator
from contextlib import ExitStack

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from emqa_dask import models
from emqa_dask.pipeline.commands.report_copies import KEY, Copies, MicrographIndex, find_copies
from emqa_dask.pipeline.commands.report_groups import write_duplicate_groups
from emqa_dask.pipeline.commands.report_rows import NUMBERED_ROWS, choose_limits, gather_rows
from emqa_dask.pipeline.tasks.report_decisions import Decisions, decide_rows, write_decisions
from emqa_dask.run.executor import Executor
from emqa_dask.run.task import Result, Task
from emqa_dask.settings import Settings
from emqa_dask.store import files
from emqa_dask.store.arrow_streams import read_streams, write_streams
from emqa_dask.store.layout import Workspace
from emqa_dask.store.spill import RangeSort, SpillFile
from emqa_dask.triage.rows import FILE_FRAME

BATCH_ROWS = 8192  # rows that are decided together: some 10 MB


def decide_batches(
    workspace: Workspace, settings: Settings, failures: pd.DataFrame, execute: Executor | None = None
) -> Iterator[Decisions]:
    """Decisions on all files and micrographs, in batches; triage is sorted by (uri, frame).

    Micrographs without a part of a table count as unfinished. Memory holds some 10 MB of rows and about 50 bytes per
    micrograph. Temporary files take about 3 kB per micrograph on the workspace's disk, or on that of the temporary
    folder if the workspace is a bucket. Raises ValueError where a micrograph or a file occurs twice.

    `execute` collects rows and decides on workers, which exchange files with this process in the workspace's folder
    `report_rows`; without it, all is done here.
    """
    folder = files.locate(workspace.uri)[1] if files.is_local(workspace.uri) else None
    with ExitStack() as stack:
        if execute is not None:
            files.remove_folder(workspace.report_rows)  # of a run that was killed
            stack.callback(files.remove_folder, workspace.report_rows)
        limits = choose_limits(workspace, BATCH_ROWS)
        ranges = stack.enter_context(RangeSort(NUMBERED_ROWS, KEY, limits, folder))
        spills = [stack.enter_context(SpillFile(folder)) for _ in range(6)]
        index = MicrographIndex(*spills[:4])
        gather_rows(workspace, settings, failures, ranges, index, execute)
        is_suspect = index.find_suspect_sizes()
        copies = find_copies(
            ranges.iterate_sorted([*KEY, "number", "micrograph_id"]), index, spills[4], spills[5], folder
        )
        write_duplicate_groups(workspace, copies)
        tasks = _make_tasks(ranges, is_suspect, copies, settings)
        if execute is None:
            yield from itertools.starmap(decide_rows, tasks)
        else:
            yield from _decide_on_workers(workspace, tasks, execute)


def _make_tasks(ranges: RangeSort, is_suspect: NDArray, copies: Copies, settings: Settings) -> Iterator[tuple]:
    """Arguments of decide_rows() for each batch."""
    entropy_limit_nats = find_entropy_limit(settings)
    column = NUMBERED_ROWS.get_field_index("is_nm_per_pixel_suspect")
    first = 0
    for rows in complete_files(ranges.iterate_sorted()):
        is_listed_suspect = pa.array(is_suspect).take(rows["number"].combine_chunks())  # null for files
        rows = rows.set_column(column, NUMBERED_ROWS.field(column), is_listed_suspect).drop_columns("number")
        stop = first + len(rows) - rows["frame"].to_numpy().tolist().count(FILE_FRAME)
        yield rows, copies.list_flags(first, stop, settings.flags), settings, entropy_limit_nats
        first = stop


def _decide_on_workers(workspace: Workspace, tasks: Iterable[tuple], execute: Executor) -> Iterator[Decisions]:
    """Decisions of the `tasks` for decide_rows(), in their order."""

    def name_file(kind: str, number: int) -> str:
        return files.join(workspace.report_rows, f"{kind}-{number:06d}.arrows")

    def write_tasks() -> Iterator[Task]:
        for number, (rows, *args) in enumerate(tasks):
            write_streams(name_file("rows", number), [rows])
            uris = name_file("rows", number), name_file("decisions", number)
            yield Task(str(number), (*uris, *args), len(rows))

    results: dict[int, Result] = {}  # that wait for an earlier one
    number = 0
    for latest_result in execute(write_decisions, write_tasks(), "decide"):
        results[int(latest_result.task.name)] = latest_result
        while number in results:
            source_uri, uri, *args = results.pop(number).task.args
            # What failed is done again here, so that its error is raised.
            decisions = read_streams(uri) if files.exists(uri) else decide_rows(*read_streams(source_uri), *args)
            yield Decisions(*decisions)
            files.remove_file(source_uri)
            files.remove_file(uri)
            number += 1


def find_entropy_limit(settings: Settings) -> float:
    """Predictive entropy, nats, above which a person reviews an image; NaN without a classifier or a known limit."""
    if not settings.classify.model:
        return float("nan")
    limits = settings.triage
    if limits.max_entropy_nats:
        return limits.max_entropy_nats
    # Imported here, since it takes a second that runs without a classifier need not wait for.
    from emqa_dask.uncertainty.classification import compute_entropy_limit

    directory = models.locate_model(settings.classify.model)
    return compute_entropy_limit(directory, review_share=limits.review_share, target_risk=limits.target_risk)


def complete_files(merged: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """`merged` with the row of each file before its micrographs, also where the batches divide a file."""
    last_file = None
    has_micrographs = False
    for table in merged:
        if last_file is not None:
            is_continued = table["uri"][0].as_py() == last_file["uri"][0].as_py()
            table = pa.concat_tables([last_file, table]) if is_continued or not has_micrographs else table
        position = int(np.flatnonzero(table["frame"].to_numpy() == FILE_FRAME)[-1])
        last_file = table.slice(position, 1)
        has_micrographs = position < len(table) - 1
        table = table if has_micrographs else table.slice(0, position)
        if len(table):
            yield table
    if last_file is not None and not has_micrographs:
        yield last_file
