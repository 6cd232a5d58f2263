"""What the report says of a classifier's answers, gathered from one batch of micrographs after the other."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask.tables import SHIFTS

ENTROPY_EDGES = np.arange(0, 141) * 0.05  # nats, up to ln 1096
LOG_EDGES = np.arange(-3 * 48, 7 * 48 + 1) / 48  # decimal logarithms: a median is right to 2.5 %
MAX_COUNTED_COHORTS = 2000  # counted one by one, the first ones; what comes later is counted together
FURTHER_COHORTS = "(further cohorts)"


class CohortLine(NamedTuple):
    """A cohort's classified micrographs."""

    cohort: str
    n: int
    defocus_nm: float  # median of those with rings; NaN without
    thon_ring_fraction: float  # share of its micrographs
    imaging_distance: float  # median of the known ones; NaN without
    entropy: NDArray[np.int64]  # (140,) counts between ENTROPY_EDGES
    n_shifted: int  # of any kind of shift
    shift: str | None  # of the cohort as a whole, one of tables.SHIFTS; None where unknown


class ClassifierSection(NamedTuple):
    """What the page's section on classifiers shows; ClassifierCounts.make_section() makes it."""

    classifiers: tuple[str, ...]
    n_classified: int  # micrographs with a class
    n_refused: int  # that the classifier could not look at
    classes: tuple[tuple[str, int], ...]  # name and micrographs, most frequent first
    shifts: dict[str, int]  # kind -> micrographs, all of tables.SHIFTS
    entropy_limit_nats: float  # the classifier's own; NaN where there is none, or more than one
    cohorts: tuple[CohortLine, ...]  # largest first
    drifts: pd.DataFrame  # a row of tables.DRIFTS for each cohort: worst()
    n_drifted: int  # cohorts
    quantity: str | None  # of `times`
    times: pd.DataFrame | None  # start, end, n, median, low, high: see uncertainty.time_bins.summarise_over_time
    reference_median: float  # of `quantity`; NaN where unknown


class ClassifierCounts:
    """Counts over all classified micrographs; add() batches, then section().

    In memory are some 5 kB for each of at most MAX_COUNTED_COHORTS cohorts, whatever the number of micrographs.
    """

    def __init__(self):
        self.n_refused = 0
        self.classifiers = Counter()
        self.classes = Counter()
        self.shifts = Counter()
        self.limits: set[float] = set()
        self.n_uncertain = 0
        self.cohorts: dict[str, dict] = {}

    def add(self, triage: pd.DataFrame, classifications: pd.DataFrame) -> None:
        """Rows of tables.TRIAGE, and those of tables.CLASSIFICATIONS that belong to them.

        `classifications` may have `cohort` (text; null counts as "all") and `entropy_limit_nats`, see triage.rows.ROWS.
        """
        answers = classifications[classifications["micrograph_id"].isin(triage["micrograph_id"])]
        if not len(answers):
            return
        self.classifiers.update(answers["classifier"].dropna())
        self.n_refused += int(answers["refusal"].notna().sum())
        self.classes.update(answers["predicted_class"].dropna())
        self.shifts.update(answers["shift"].dropna())
        if "entropy_limit_nats" in answers and len(self.limits) < 2:
            self.limits |= set(answers["entropy_limit_nats"].dropna().unique().tolist())
        if "entropy_limit_nats" in answers:
            self.n_uncertain += int(answers["predictive_entropy_nats"].gt(answers["entropy_limit_nats"]).sum())
        defocus = triage.dropna(subset="micrograph_id").set_index("micrograph_id")["defocus_nm"]
        cohort = answers["cohort"] if "cohort" in answers else pd.Series(None, index=answers.index, dtype=object)
        answer_values = pd.DataFrame(
            {
                "cohort": cohort.astype(object).where(cohort.notna(), "all"),
                "defocus": defocus.reindex(answers["micrograph_id"]).to_numpy(float, na_value=np.nan),
                "distance": answers["imaging_distance"].to_numpy(float, na_value=np.nan),
                "entropy": answers["predictive_entropy_nats"].to_numpy(float, na_value=np.nan),
                "is_shifted": answers["shift"].isin(SHIFTS[1:]),
            }
        )
        for name, rows in answer_values.groupby("cohort", sort=True):
            self._count(str(name), rows)

    def _count(self, name: str, rows: pd.DataFrame) -> None:
        if name not in self.cohorts and len(self.cohorts) >= MAX_COUNTED_COHORTS:
            name = FURTHER_COHORTS
        if name not in self.cohorts:
            logs = {key: np.zeros(len(LOG_EDGES) - 1, np.int64) for key in ("defocus", "distance")}
            self.cohorts[name] = {"n": 0, "n_shifted": 0, "entropy": np.zeros(len(ENTROPY_EDGES) - 1, np.int64), **logs}
        counts = self.cohorts[name]
        counts["n"] += len(rows)
        counts["n_shifted"] += int(rows["is_shifted"].sum())
        for key in ("defocus", "distance"):
            values = rows[key].dropna().to_numpy()
            logs = np.log10(np.clip(values, 10 ** LOG_EDGES[0], 10 ** LOG_EDGES[-1]))
            counts[key] += np.histogram(logs, LOG_EDGES)[0]
        entropy = np.clip(rows["entropy"].dropna().to_numpy(), 0, ENTROPY_EDGES[-1])
        counts["entropy"] += np.histogram(entropy, ENTROPY_EDGES)[0]

    @property
    def entropy_limit_nats(self) -> float:
        """The limit of the predictive entropy; NaN where there is none, or more than one."""
        return next(iter(self.limits)) if len(self.limits) == 1 else np.nan

    def summarise(self) -> dict:
        """Classifiers, micrographs by class, kind of shift and uncertainty, for provenance.json; empty without any."""
        if not self.classes:
            return {}
        return {
            "names": sorted(self.classifiers),
            "classes": dict(self.classes.most_common()),
            "shifts": {kind: self.shifts[kind] for kind in SHIFTS[1:]},
            "uncertain": self.n_uncertain,
            "entropy_limit_nats": None if np.isnan(self.entropy_limit_nats) else self.entropy_limit_nats,
        }

    def make_section(
        self,
        drifts: pd.DataFrame | None = None,
        quantity: str | None = None,
        times: pd.DataFrame | None = None,
        shifts: Mapping[str, str | None] | None = None,
    ) -> ClassifierSection | None:
        """What the page shows of what was added; None where nothing was: then the page has no such section.

        `drifts` has rows of tables.DRIFTS; `times` (see uncertainty.time_bins.summarise_over_time) is of `quantity`,
        for which most_drifted() gives the one to show; `shifts` are the cohorts' own.
        """
        if not self.cohorts:
            return None
        cohort_lines = [
            CohortLine(
                name,
                counts["n"],
                _estimate_median(counts["defocus"]),
                counts["defocus"].sum() / counts["n"],
                _estimate_median(counts["distance"]),
                counts["entropy"],
                counts["n_shifted"],
                (shifts or {}).get(name),
            )
            for name, counts in self.cohorts.items()
        ]
        drift_rows = (
            select_largest_drifts(drifts) if drifts is not None and len(drifts) else pd.DataFrame(columns=DRIFT_COLUMNS)
        )
        reference_median = np.nan
        if quantity is not None and drifts is not None:
            reference_rows = drifts.loc[drifts["quantity"].eq(quantity) & drifts["reference"].eq("held_out")]
            reference_median = float(reference_rows["reference_median"].median()) if len(reference_rows) else np.nan
        return ClassifierSection(
            classifiers=tuple(sorted(self.classifiers)),
            n_classified=self.classes.total(),
            n_refused=self.n_refused,
            classes=tuple(sorted(self.classes.items(), key=lambda pair: (-pair[1], pair[0]))),
            shifts={kind: self.shifts[kind] for kind in SHIFTS},
            entropy_limit_nats=self.entropy_limit_nats,
            cohorts=tuple(sorted(cohort_lines, key=lambda line: (-line.n, line.cohort))),
            drifts=drift_rows,
            n_drifted=int(drift_rows["is_drifted"].sum()),
            quantity=quantity,
            times=times,
            reference_median=reference_median,
        )


DRIFT_COLUMNS = [
    "cohort",
    "quantity",
    "reference",
    "n",
    "median",
    "reference_median",
    "effect",
    "p_corrected",
    "is_drifted",
]


def select_largest_drifts(drifts: pd.DataFrame) -> pd.DataFrame:
    """Of each cohort the row with the largest effect, among those that drifted if any has; drifted cohorts first.

    Cohorts too small to be tested come last.
    """
    size = drifts["effect"].abs().fillna(-1)
    order = drifts.assign(size=size).sort_values(
        ["is_drifted", "size", "cohort"], ascending=[False, False, True], kind="stable"
    )
    return order.drop_duplicates("cohort")[DRIFT_COLUMNS].reset_index(drop=True)


def find_most_drifted(drifts: pd.DataFrame) -> str | None:
    """The quantity with the largest effect, of those that drifted if any have; None where none was tested."""
    rows = select_largest_drifts(drifts)
    return str(rows["quantity"].iloc[0]) if len(rows) and rows["effect"].notna().iloc[0] else None


def _estimate_median(counts: NDArray) -> float:
    """The middle (of its bin, on the logarithmic scale) of values counted between LOG_EDGES; NaN without any."""
    if not counts.sum():
        return np.nan
    k = int(np.searchsorted(np.cumsum(counts), (counts.sum() + 1) / 2))
    return float(10 ** ((LOG_EDGES[k] + LOG_EDGES[k + 1]) / 2))
