"""Verdicts on an archive of any size: first compact arrays over all rows, then batches in the order of the URI."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack

import numpy as np
import pandas as pd
import pyarrow as pa

from emqa_dask import models
from emqa_dask.pipeline.commands.report_copies import MicrographIndex, find_copies
from emqa_dask.pipeline.commands.report_rows import SPILLED_ROWS, gather_rows
from emqa_dask.settings import Settings
from emqa_dask.store import files
from emqa_dask.store.layout import Workspace
from emqa_dask.store.spill import ExternalSort, SpillFile
from emqa_dask.triage import decide
from emqa_dask.triage.custom_checks import list_rules
from emqa_dask.triage.rows import FILE_FRAME, list_classifications

BATCH_ROWS = 8192  # rows that are decided together: some 10 MB


def decide_batches(
    workspace: Workspace, settings: Settings, failures: pd.DataFrame
) -> Iterator[tuple[pd.DataFrame, ...]]:
    """Batches of (rows of tables.TRIAGE, their rows of tables.FLAGS, their rows of tables.CLASSIFICATIONS).

    Triage is sorted by (uri, frame), and flags follow its rows. Classifications also have the columns cohort and
    entropy_limit_nats.

    Micrographs without a part of a table count as unfinished. Memory holds some 10 MB of rows and about 50 bytes per
    micrograph. Temporary files take about 1.5 kB per micrograph on the workspace's disk, or on that of the temporary
    folder if the workspace is a bucket. Raises ValueError where a micrograph or a file occurs twice.
    """
    folder = files.locate(workspace.uri)[1] if files.is_local(workspace.uri) else None
    entropy_limit_nats = find_entropy_limit(settings)
    rules = list_rules(settings.flags)
    with ExitStack() as stack:
        runs = stack.enter_context(ExternalSort(SPILLED_ROWS, ("uri", "frame"), folder))
        spills = [stack.enter_context(SpillFile(folder)) for _ in range(4)]
        index = MicrographIndex(*spills[:3])
        gather_rows(workspace, settings, failures, runs, index)
        is_suspect = index.find_suspect_sizes()
        copies = find_copies(runs.iterate_sorted(BATCH_ROWS), index, spills[3], folder)
        n_decided = 0
        for table in _complete_files(runs.iterate_sorted(BATCH_ROWS)):
            rows = table.drop_columns("flags").to_pandas()
            is_micrograph = rows["frame"].ne(FILE_FRAME).to_numpy()
            is_listed_suspect = np.zeros(len(rows), bool)
            is_listed_suspect[is_micrograph] = is_suspect[rows.loc[is_micrograph, "number"].to_numpy(int)]
            rows = rows.assign(is_nm_per_pixel_suspect=is_listed_suspect, entropy_limit_nats=entropy_limit_nats)
            flags = copies.list_flags(table.filter(is_micrograph), n_decided, settings.flags)
            n_decided += int(is_micrograph.sum())
            yield decide(rows, flags, settings.triage, rules), flags, list_classifications(rows)


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


def _complete_files(merged: Iterable[pa.Table]) -> Iterator[pa.Table]:
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
