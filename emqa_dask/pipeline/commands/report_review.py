"""What a report says about the review by people: decisions, agreement, contradictions."""

from collections.abc import Iterable

import pandas as pd

from emqa_dask import tables
from emqa_dask.report.page_content import Review
from emqa_dask.review.decisions import CONTRADICTORY, compute_agreement, resolve, select_current
from emqa_dask.store import decisions
from emqa_dask.store.layout import Workspace

COUNTS = {"accept": "n_accepted", "reject": "n_rejected", "unsure": "n_unsure"}


def read_review(workspaces: Iterable[Workspace]) -> Review | None:
    """The review of all images of the workspaces together; None without decisions."""
    rows = [decisions.read_decisions(workspace.uri)[0] for workspace in workspaces]
    rows = [own for own in rows if len(own)]
    current = select_current(pd.concat(rows) if rows else tables.empty(tables.DECISIONS))
    if current.empty:
        return None
    kinds = pd.crosstab(current["reviewer"], current["decision"]).reindex(columns=list(COUNTS), fill_value=0)
    counts = kinds.rename(columns=COUNTS).assign(n_images=kinds.sum(axis=1)).reset_index()
    resolved = resolve(current)
    contradictory = resolved.loc[resolved["decision"] == CONTRADICTORY, "uri"].tolist()
    return Review(counts.to_dict("records"), compute_agreement(current).to_dict("records"), contradictory)
