"""Verdicts by session, instrument, magnification and date."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emqa_dask.tables import VERDICTS

GROUPED = ("session", "instrument", "magnification")
N_VERDICTS = len(VERDICTS)
MAX_GROUPS = 40  # groups that the page lists of each kind, the largest
MAX_PERIODS = 40  # dates that it lists; more become months, then years
MINUTES_PER_DAY = 1440
Counts = NDArray[np.int64]


class GroupLine(NamedTuple):
    """A group and its numbers of rows by verdict."""

    name: str
    counts: tuple[int, ...]  # in the order of VERDICTS
    start: str = ""  # first day of a period, ISO 8601
    end: str = ""  # last day of a period

    @property
    def n(self) -> int:
        """Number of rows."""
        return sum(self.counts)


class GroupCounts:
    """Numbers of rows by verdict, of each group and of each day; add() columns of data pages."""

    def __init__(self) -> None:
        self.counts: dict[str, Counts] = {name: np.zeros((1, N_VERDICTS), np.int64) for name in GROUPED}
        self.days: dict[int, Counts] = {}  # days since 1970-01-01 UTC

    def add(self, columns: Mapping[str, NDArray]) -> None:
        """`columns` of a data page: verdict, minute, and the number of the name in each of GROUPED."""
        verdicts = columns["verdict"].astype(np.int64)
        for name in GROUPED:
            cells = columns[name].astype(np.int64) * N_VERDICTS + verdicts
            counts = self.counts[name]
            totals = np.bincount(cells, minlength=counts.size)
            totals = np.pad(totals, (0, -len(totals) % N_VERDICTS)).reshape(-1, N_VERDICTS)
            totals[: len(counts)] += counts
            self.counts[name] = totals
        days = np.where(columns["minute"] > -(2**31), columns["minute"].astype(np.int64) // MINUTES_PER_DAY, np.nan)
        for day in np.unique(days[~np.isnan(days)]):
            counts = np.bincount(verdicts[days == day], minlength=N_VERDICTS)
            self.days[int(day)] = self.days.get(int(day), np.zeros(N_VERDICTS, np.int64)) + counts

    def list_groups(self, name: str, texts: Sequence[str]) -> list[GroupLine]:
        """Groups of one of GROUPED, the largest first; `texts` are their names by number, "" for the unknown, last."""
        lines = [GroupLine(text, tuple(row.tolist())) for text, row in zip(texts, self.counts[name]) if row.any()]
        return sorted(lines, key=lambda line: (not line.name, -line.n, line.name))

    def list_periods(self) -> list[GroupLine]:
        """Days in their order; months or years where there are more than MAX_PERIODS."""
        days = np.array(sorted(self.days), "datetime64[D]")
        counts = np.array([self.days[day] for day in sorted(self.days)], np.int64).reshape(-1, N_VERDICTS)
        unit = next((u for u in ("D", "M", "Y") if len(np.unique(days.astype(f"datetime64[{u}]"))) <= MAX_PERIODS), "Y")
        periods, numbers = np.unique(days.astype(f"datetime64[{unit}]"), return_inverse=True)
        totals = np.zeros((len(periods), N_VERDICTS), np.int64)
        np.add.at(totals, numbers, counts)
        starts = periods.astype("datetime64[D]")
        ends = (periods + 1).astype("datetime64[D]") - 1
        return [
            GroupLine(str(period), tuple(row.tolist()), str(start), str(end))
            for period, row, start, end in zip(periods, totals, starts, ends)
        ]
