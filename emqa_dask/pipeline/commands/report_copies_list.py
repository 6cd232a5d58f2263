"""Copies of images that a report lists, from the flags of a run."""

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from emqa_dask import tables
from emqa_dask.report.page_content import Copies
from emqa_dask.store import parts
from emqa_dask.store.layout import Workspace

FLAGS = ("duplicate", "near_duplicate")
MAX_LISTED = 200  # copies that are listed
ORIGINAL_PATTERN = r"the same (?:pixels )?as (.*?)(?:: \d+ % agreement.*)?$"  # in the text of a flag


def list_copies(workspaces: Sequence[Workspace], reasons: Counter) -> Copies:
    """The first copies of `workspaces` by their original. `reasons`: numbers of rows with each reason."""
    listed = []
    n_open = MAX_LISTED
    for workspace in workspaces:
        listed.append(_read_copies(workspace, n_open))
        n_open -= len(listed[-1])
    copies = pd.concat(listed, ignore_index=True) if listed else pd.DataFrame()
    groups = [
        (str(original), list(zip(rows["uri"], rows["text"], strict=True)))
        for original, rows in (copies.groupby("original", sort=False) if len(copies) else ())
    ]
    return Copies(sum(reasons[flag] for flag in FLAGS), len(copies), groups)


def _read_copies(workspace: Workspace, n_max: int) -> pd.DataFrame:
    """uri, original and text of the first `n_max` copies."""
    batches = [tables.empty(tables.FLAGS)]
    for rows in parts.iterate_table(workspace.flags, tables.FLAGS, row_filter=("flag", FLAGS)):
        batches.append(rows)
        if sum(map(len, batches)) >= n_max:
            break
    flags = pd.concat(batches, ignore_index=True).head(n_max)
    row_filter = ("micrograph_id", flags["micrograph_id"].tolist())
    columns = ["micrograph_id", "uri"]
    batches = parts.iterate_table(workspace.triage, tables.TRIAGE, columns, row_filter=row_filter)
    uris = pd.concat([tables.empty(tables.TRIAGE)[columns], *batches], ignore_index=True)
    original = flags["text"].str.extract(ORIGINAL_PATTERN)[0].fillna("")
    return flags.assign(original=original).merge(uris, on="micrograph_id")[["uri", "original", "text"]]
