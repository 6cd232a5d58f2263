"""Copies of images that a report lists: from the table of duplicate groups, or from the flags of a run."""

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from emqa_dask import tables
from emqa_dask.report.page_content import Copies
from emqa_dask.store import parts
from emqa_dask.store.layout import Workspace

FLAGS = ("duplicate", "near_duplicate")
KINDS = ("identical", "near", "rescaled", "shifted")  # of copies in tables.DUPLICATE_GROUPS
MAX_LISTED = 200  # copies that are listed
ORIGINAL_PATTERN = r"the same (?:pixels )?as (.*?)(?:: \d+ % agreement.*)?$"  # in the text of a flag


def list_copies(workspaces: Sequence[Workspace], reasons: Counter) -> Copies:
    """The first copies of `workspaces` by their original. `reasons`: numbers of rows with each reason."""
    listed = [pd.DataFrame(columns=["uri", "original", "text"])]
    n_copies = sum(reasons[flag] for flag in FLAGS)
    n_in_groups = 0
    for workspace in workspaces:
        groups = _read_groups(workspace)
        n_in_groups += len(groups)
        copies = _describe_groups(workspace, groups.head(MAX_LISTED)) if len(groups) else _read_copies(workspace)
        listed.append(copies)
    copies = pd.concat(listed, ignore_index=True).head(MAX_LISTED)
    by_original = [
        (str(original), list(zip(rows["uri"], rows["text"], strict=True)))
        for original, rows in copies.groupby("original", sort=False)
    ]
    return Copies(max(n_copies, n_in_groups), len(copies), by_original)


def _read_groups(workspace: Workspace) -> pd.DataFrame:
    """Rows of tables.DUPLICATE_GROUPS of copies, without their originals; none where there is no such table."""
    batches = parts.iterate_table(workspace.duplicate_groups, tables.DUPLICATE_GROUPS, row_filter=("kind", KINDS))
    return pd.concat([tables.empty(tables.DUPLICATE_GROUPS), *batches], ignore_index=True)


def _describe_groups(workspace: Workspace, groups: pd.DataFrame) -> pd.DataFrame:
    """uri, original and text of each row of `groups`."""
    uris = _read_uris(workspace, [*groups["micrograph_id"], *groups["original_id"]])
    texts = [
        f"{row.kind}, agreement {100 * row.agreement:.0f} %"
        + (f", scale {row.scale:.3g}" if abs(row.scale - 1) > 0.005 else "")
        + (f", shifted by {row.shift_y_px:.0f}, {row.shift_x_px:.0f} px (y, x)" if row.kind == "shifted" else "")
        for row in groups.itertuples()
    ]
    columns = {"uri": groups["micrograph_id"].map(uris), "original": groups["original_id"].map(uris), "text": texts}
    return pd.DataFrame(columns).dropna(subset="uri").fillna("")


def _read_copies(workspace: Workspace) -> pd.DataFrame:
    """uri, original and text of the first copies that are flagged."""
    batches = [tables.empty(tables.FLAGS)]
    for rows in parts.iterate_table(workspace.flags, tables.FLAGS, row_filter=("flag", FLAGS)):
        batches.append(rows)
        if sum(map(len, batches)) >= MAX_LISTED:
            break
    flags = pd.concat(batches, ignore_index=True).head(MAX_LISTED)
    original = flags["text"].str.extract(ORIGINAL_PATTERN)[0].fillna("")
    uri = flags["micrograph_id"].map(_read_uris(workspace, flags["micrograph_id"].tolist()))
    return flags.assign(original=original, uri=uri).dropna(subset="uri")[["uri", "original", "text"]]


def _read_uris(workspace: Workspace, micrograph_ids: list[str]) -> dict[str, str]:
    """URI of each of the micrographs, by its id."""
    columns = ["micrograph_id", "uri"]
    row_filter = ("micrograph_id", micrograph_ids)
    batches = parts.iterate_table(workspace.triage, tables.TRIAGE, columns, row_filter=row_filter)
    return {name: uri for rows in batches for name, uri in zip(rows["micrograph_id"], rows["uri"], strict=True)}
