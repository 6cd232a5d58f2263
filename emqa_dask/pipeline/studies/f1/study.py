"""The study of predicted F1 on a table of labelled images: Tables 2 and 3, figures 3 to 9, interval coverage."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from threadpoolctl import ThreadpoolController

from emqa_dask.pipeline.studies import output
from emqa_dask.pipeline.studies.f1 import show
from emqa_dask.pipeline.studies.f1.compute import F1Options, F1Results, compute_results
from emqa_dask.pipeline.studies.f1.splits import SplitPlan
from emqa_dask.pipeline.studies.f1.workspace_table import make_study_rows
from emqa_dask.predict.published_table import check_splits, read_published
from emqa_dask.settings import Settings

Say = Callable[[str], None]


def study_workspace(
    root: str,
    labels: Sequence[str],
    out: str,
    settings: Settings,
    options: F1Options,
    plan: SplitPlan,
    detectors: Sequence[str] = (),
    iou_threshold: float | None = None,
    say: Say = print,
) -> F1Results:
    """The study of a workspace's labelled images; see workspace_table.make_study_rows() and study_table()."""
    options.check()
    output.check_out(out, show.TITLE)
    rows = make_study_rows(root, labels, settings, plan, detectors, iou_threshold)
    for note in rows.notes:
        say(note)
    return study_table(rows.table, out, options, {"source": root, **rows.facts, "left_out": rows.notes}, say)


def study_file(path: str, out: str, options: F1Options, say: Say = print) -> F1Results:
    """The study of a CSV file in one of the published layouts; see study_table()."""
    options.check()
    output.check_out(out, show.TITLE)
    return study_table(read_published(path), out, options, {"source": path}, say)


@ThreadpoolController().wrap(limits=1, user_api="blas")  # of small matrices, which threads make slower
def study_table(
    table: pd.DataFrame, out: str, options: F1Options, facts: Mapping[str, Any], say: Say = print
) -> F1Results:
    """Runs the study on a table of published_table.read_published(), writes its folder `out` and says the main figures.

    facts: what the summary says of the table's origin, with `source` and, of a workspace, `labels`. Raises ValueError,
    before any work, for splits of too few images and an F1 that is the same in all, and FileExistsError where something
    else is at `out`. An interrupted study goes on from its results.
    """
    options.check()
    output.check_out(out, show.TITLE)
    try:
        check_splits(table)
    except ValueError as error:
        raise ValueError(f"{', '.join(facts.get('labels', [facts['source']]))}: {error}") from None
    table = table.reset_index(drop=True)
    content = hashlib.sha256(pd.util.hash_pandas_object(table).to_numpy().tobytes()).hexdigest()
    store = output.open_result_store(out, show.TITLE, content, options.seed)
    results = compute_results(table, options, store, say)
    show.write_f1_study(out, table, results, {**facts, "settings": vars(options)})
    store.remove()
    for line in show.describe_results(results):
        say(line)
    say(f"tables and figures: {out}/index.html")
    return results
