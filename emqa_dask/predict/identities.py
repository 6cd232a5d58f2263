"""Identities between the columns of a labelled table of detection features; a table that breaks one is refused."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

# Columns that one split of the published table has in each other's place: they hold area_ratio, precision and recall.
ROTATED_COLUMNS = ("precision", "recall", "area_ratio")


def find_violations(table: pd.DataFrame) -> dict[str, NDArray[np.bool_]]:
    """Rows that break an identity: text of the identity -> (n,) bool.

    Columns: precision, recall, true_f1, n_detections, area_ratio, mean_size. precision * n_detections is a whole
    number; area_ratio = n_detections * mean_size; true_f1 = 2PR / (P + R), 0 or NaN where nothing matched; precision,
    recall and true_f1 are in [0, 1]. Values rounded to 9 decimals pass; precision may be NaN without detections.
    """
    p, r, f1 = (table[name].to_numpy(dtype=np.float64) for name in ("precision", "recall", "true_f1"))
    n, ratio, size = (table[name].to_numpy(dtype=np.float64) for name in ("n_detections", "area_ratio", "mean_size"))
    p = np.where(np.isnan(p) & (n == 0), 0, p)  # no detections: undefined, nothing matched
    size = np.where(np.isnan(size) & (n == 0), 0, size)
    expected = np.divide(2 * p * r, p + r, out=np.zeros(len(p)), where=p + r > 0)
    f1 = np.where(np.isnan(f1) & (p + r == 0), 0, f1)
    hits = p * n
    return {
        "precision * n_detections is no whole number": ~(np.abs(hits - np.round(hits)) <= 1e-6 * n + 1e-6),
        "area_ratio is not n_detections * mean_size": ~(np.abs(ratio - n * size) <= 1e-6 * n + 1e-5 * ratio),
        "true_f1 does not follow from precision and recall": ~(np.abs(f1 - expected) <= 1e-5),
        "precision, recall and true_f1 are not all in 0...1": ~((p >= 0) & (p <= 1) & (r >= 0) & (r <= 1)),
    }


def restore_rotated_columns(table: pd.DataFrame, rows: NDArray[np.bool_]) -> pd.DataFrame:
    """`table` with the three values of ROTATED_COLUMNS put back in their columns in `rows`."""
    restored = table.copy()
    restored.loc[rows, list(ROTATED_COLUMNS)] = table.loc[rows, ["recall", "area_ratio", "precision"]].to_numpy()
    return restored


def find_rotated_rows(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Rows (n,) that break an identity and keep all of them once ROTATED_COLUMNS are put back."""
    rows = np.logical_or.reduce(list(find_violations(table).values()))
    still_broken = np.logical_or.reduce(list(find_violations(restore_rotated_columns(table, rows)).values()))
    return rows & ~still_broken


def check_identities(table: pd.DataFrame, name: Callable[[object], str] = str) -> None:
    """Raises ValueError, naming every row, where a labelled table breaks an identity of find_violations().

    name: gives the name of a row from its label in the table's index. The message says where the three columns are
    rotated: the published table of Li et al. (Digital Discovery 4 (2025) 987) has 29 such rows.
    """
    flags = find_violations(table)
    kinds = np.column_stack(list(flags.values()))
    if not kinds.any():
        return
    findings = []
    for kind in np.unique(kinds[kinds.any(axis=1)], axis=0):
        rows = (kinds == kind).all(axis=1)
        value_texts = ", ".join(text for text, is_broken in zip(flags, kind) if is_broken)
        findings.append(f"{value_texts} in {rows.sum()} rows: {', '.join(map(name, table.index[rows]))}")
    is_rotated = find_rotated_rows(table)
    if is_rotated.any():
        findings.append(
            f"{is_rotated.sum()} of these rows keep all once their columns are turned back (precision holds "
            f"area_ratio, recall holds precision, area_ratio holds recall): mend them in the file"
        )
    raise ValueError("the table breaks " + "; ".join(findings))
