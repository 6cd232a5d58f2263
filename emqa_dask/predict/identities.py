"""Identities that every labelled table of detections' features must keep; a table that breaks one is refused."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

ROTATED_COLUMNS = (
    "precision",
    "recall",
    "area_ratio",
)  # in the published error they hold area_ratio, precision and recall


def find_violations(table: pd.DataFrame) -> dict[str, NDArray[np.bool_]]:
    """Which of n rows break which identity: text -> (n,) flags.

    Columns: precision, recall, true_f1, n_detections, area_ratio, mean_size. precision * n_detections is a whole
    number; area_ratio = n_detections * mean_size; true_f1 = 2PR / (P + R), 0 or NaN where nothing matched; precision,
    recall and true_f1 are in [0, 1]. Values rounded to 9 decimals pass; precision is not asked for without detections.
    """
    p, r, f1, n, ratio, size = (
        table[name].to_numpy(dtype=np.float64)
        for name in ("precision", "recall", "true_f1", "n_detections", "area_ratio", "mean_size")
    )
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
    """`table` with the three values of ROTATED turned back in `rows`."""
    turned = table.copy()
    turned.loc[rows, list(ROTATED_COLUMNS)] = table.loc[rows, ["recall", "area_ratio", "precision"]].to_numpy()
    return turned


def find_rotated_rows(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Rows (n,) that break an identity and keep all once `precision`, `recall` and `area_ratio` are turned back."""
    rows = np.logical_or.reduce(list(find_violations(table).values()))
    after = np.logical_or.reduce(list(find_violations(restore_rotated_columns(table, rows)).values()))
    return rows & ~after


def check_identities(table: pd.DataFrame, name: Callable[[object], str] = str) -> None:
    """Raises ValueError, naming every row, where a labelled table breaks an identity of `broken`.

    name: what to call the row at a label of the table's index. Where turning precision, recall and area_ratio back
    mends rows, the message says so: the published table of Li et al. (Digital Discovery 4 (2025) 987) has 29 such.
    """
    flags = find_violations(table)
    kinds = np.column_stack(list(flags.values()))
    if not kinds.any():
        return
    findings = []
    for kind in np.unique(kinds[kinds.any(axis=1)], axis=0):
        rows = (kinds == kind).all(axis=1)
        texts = ", ".join(text for text, is_broken in zip(flags, kind) if is_broken)
        findings.append(f"{texts} in {rows.sum()} rows: {', '.join(map(name, table.index[rows]))}")
    turned = find_rotated_rows(table)
    if turned.any():
        findings.append(
            f"{turned.sum()} of these rows keep all once their columns are turned back (precision holds area_ratio, "
            f"recall holds precision, area_ratio holds recall): mend them in the file"
        )
    raise ValueError("the table breaks " + "; ".join(findings))
