"""Table duplicate_groups of a report: micrographs that show the same frame, in groups."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask import tables
from emqa_dask.pipeline.commands.report_copies import ID_BYTES, Copies
from emqa_dask.store import parts
from emqa_dask.store.layout import Workspace

BATCH_ROWS = 8192  # rows that are written together


def write_duplicate_groups(workspace: Workspace, copies: Copies) -> None:
    """Write duplicate_groups.parquet: a row per micrograph that repeats another one, and one per original."""
    members, groups = list_group_members(copies.original, copies.fields.row, copies.fields.original)
    with parts.open_table_writer(workspace.duplicate_groups, tables.DUPLICATE_GROUPS) as write:
        for start in range(0, len(members), BATCH_ROWS):
            batch = slice(start, start + BATCH_ROWS)
            write(_make_rows(copies, members[batch], groups[batch]))


def list_group_members(original: NDArray, row: NDArray, row_original: NDArray) -> tuple[NDArray, NDArray]:
    """Positions (m,) of the micrographs in groups, sorted by group, and the numbers (m,) of their groups from 0.

    `original` (n,) is what each micrograph repeats, or itself; micrographs `row`, which are their own original there,
    repeat `row_original`. A group has all that repeat one another, also by way of a third one; its original is the one
    that repeats none.
    """
    root = original.copy()
    root[row] = row_original
    while not np.array_equal(root, root[root]):
        root = root[root]
    is_member = np.bincount(root, minlength=len(root))[root] > 1
    members = np.flatnonzero(is_member)
    _, groups = np.unique(root[members], return_inverse=True)
    order = np.argsort(groups, kind="stable")
    return members[order], groups[order]


def _make_rows(copies: Copies, members: NDArray, groups: NDArray) -> pd.DataFrame:
    """Rows of tables.DUPLICATE_GROUPS for the micrographs at the positions `members`."""
    fields = copies.fields
    order = np.argsort(fields.row, kind="stable")
    places = np.searchsorted(fields.row[order], members) if len(order) else np.zeros(len(members), int)
    k = order[np.minimum(places, len(order) - 1)] if len(order) else places
    is_field = fields.row[k] == members if len(order) else np.zeros(len(members), bool)
    originals = copies.original[members]
    agreement = copies.agreement[members]
    is_copy = originals != members
    kind = np.where(np.isnan(agreement), "identical", "near").astype(object)
    kind[~is_copy] = None
    columns = {"agreement": np.where(is_copy, np.where(np.isnan(agreement), 1.0, agreement), np.nan)}
    columns |= {"scale": np.where(is_copy, 1.0, np.nan)}
    columns |= {name: np.where(is_copy, 0.0, np.nan) for name in ("shift_y_px", "shift_x_px")}
    if is_field.any():
        own = k[is_field]
        originals[is_field] = fields.original[own]
        kind[is_field] = np.where(fields.is_whole[own], "rescaled", "shifted")
        for name, values in columns.items():
            values[is_field] = getattr(fields, name)[own]
    ids = {"micrograph_id": _read_ids(copies, members), "original_id": _read_ids(copies, originals)}
    return pd.DataFrame({"group": groups, **ids, "kind": kind, **columns})


def _read_ids(copies: Copies, positions: NDArray) -> list[str]:
    offsets = (ID_BYTES * positions.astype(np.int64)).tolist()
    text = copies.ids.get_many(offsets, [ID_BYTES] * len(offsets)).decode()
    return [text[k : k + ID_BYTES] for k in range(0, len(text), ID_BYTES)]
