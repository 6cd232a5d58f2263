"""Counts over all rows of the triage table, and the choice of the rows that the page shows; added batch by batch."""

from collections import Counter

import numpy as np
import pandas as pd

from emqa_dask.tables import VERDICTS

MAX_LISTED_FILES = 200  # listed one by one of each kind
MAX_CANDIDATE_ROWS = 32_768  # rows that may be shown, before the choice among them is narrowed
FILE_LISTS = ("Failed: could not be read or judged", "Read in part", "Skipped: not micrographs")


class Overview:
    """Counts over all rows of tables.TRIAGE, the first of what failed, and which rows the page shows; add() batches.

    Batches come in the order of (uri, frame). One byte per row stays in memory beside what does not grow.
    """

    def __init__(self, max_rows: int):
        self.max_rows = max_rows
        self.n_rows = self.n_micrographs = 0
        self.verdicts = Counter()
        self.statuses = Counter()
        self.reasons = Counter()
        self.first_reasons = {verdict: Counter() for verdict in VERDICTS}
        self.n_listed = Counter()
        self.listed = {title: [] for title in FILE_LISTS}
        self._verdict_codes = [np.zeros(0, np.int8)]
        self._candidates = [
            select_keys(pd.DataFrame(columns=["verdict", "reasons", "micrograph_id", "uri"], dtype=object))
        ]
        self._last_uri = None

    def add(self, rows: pd.DataFrame) -> None:
        if not len(rows):
            return
        rows = rows.set_axis(np.arange(self.n_rows, self.n_rows + len(rows)))
        self.verdicts.update(rows["verdict"])
        self.statuses.update(rows["status"])
        self.reasons.update(reason_code for reason_codes in rows["reasons"] for reason_code in reason_codes)
        self._verdict_codes.append(pd.Categorical(rows["verdict"], VERDICTS).codes.astype(np.int8))
        is_first = ~rows["uri"].duplicated() & rows["uri"].ne(self._last_uri)
        is_partial = rows["reasons"].map(lambda reason_codes: "frames_lost" in reason_codes).astype(bool)
        masks_by_list = (rows["status"].eq("failed"), is_partial & is_first, rows["status"].eq("skipped"))
        for title, is_listed in zip(FILE_LISTS, masks_by_list, strict=True):
            self.n_listed[title] += int(is_listed.sum())
            first_rows = rows.loc[is_listed, ["uri", "format", "explanation"]].head(
                MAX_LISTED_FILES - len(self.listed[title])
            )
            self.listed[title] += first_rows.astype(object).where(first_rows.notna(), None).to_dict("records")
        self._candidates.append(select_keys(rows))
        for verdict, first_reasons in self._candidates[-1].groupby("verdict", sort=False)["reason"]:
            self.first_reasons[verdict].update(reason_code for reason_code in first_reasons if reason_code)
        if sum(map(len, self._candidates)) > MAX_CANDIDATE_ROWS:
            self._candidates = [drop_never_chosen(pd.concat(self._candidates), self.max_rows)]
        self.n_rows += len(rows)
        self.n_micrographs += int(rows["height_px"].notna().sum())
        self._last_uri = rows["uri"].iloc[-1]

    @property
    def verdict_codes(self) -> np.ndarray:
        """(n_rows,) int8, positions in VERDICTS."""
        self._verdict_codes = [np.concatenate(self._verdict_codes)]
        return self._verdict_codes[0]

    def choose_shown_rows(self) -> np.ndarray:
        """Positions of the rows that the page shows, ascending: choose()."""
        return np.sort(choose_rows(pd.concat(self._candidates), self.max_rows).index.to_numpy(int))


def select_keys(rows: pd.DataFrame) -> pd.DataFrame:
    """What the choice of rows depends on."""
    reason = [reason_codes[0] if len(reason_codes) else "" for reason_codes in rows["reasons"]]
    return rows[["verdict", "micrograph_id", "uri"]].assign(reason=pd.Series(reason, index=rows.index, dtype=object))


def choose_rows(rows: pd.DataFrame, max_rows: int) -> pd.DataFrame:
    """At most `max_rows` of `rows` (see keys()) with every verdict and, where there is room, every first reason.

    Verdicts share the places evenly; what a rare one leaves over goes to the others. Within a verdict the first reasons
    take turns, each in the order of micrograph_id, which is a hash: an even sample of the archive. Whatever the order
    of `rows`, the same are chosen.
    """
    if len(rows) <= max_rows:
        return rows
    order = rows.sort_values(["micrograph_id", "uri"], kind="stable")
    for groups in (["verdict", "reason"], "verdict"):
        order = order.assign(turn=order.groupby(groups, sort=False).cumcount()).sort_values("turn", kind="stable")
    return order.head(max_rows).drop(columns="turn")


def drop_never_chosen(rows: pd.DataFrame, max_rows: int) -> pd.DataFrame:
    """`rows` without those that choose() takes in no case, whatever other rows there are."""
    order = rows.sort_values(["micrograph_id", "uri"], kind="stable")
    return order.groupby(["verdict", "reason"], sort=False).head(max_rows)
