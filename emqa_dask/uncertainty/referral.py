"""Which answers to hand to a person: risk against coverage, and the threshold for a target risk or a budget."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class RiskCoverage(NamedTuple):
    coverage: NDArray  # (n,) share of rows kept, ascending, 1 / n to 1
    risk: NDArray  # (n,) mean error of the rows kept
    area: float  # mean risk over all coverages; lower is better
    uncertainty: NDArray  # (n,) largest uncertainty that is kept


def risk_coverage(uncertainty: ArrayLike, error: ArrayLike) -> RiskCoverage:
    """Mean error of the k most certain rows for every k, and its mean over k: the area under the curve.

    `uncertainty` (n,) grows with doubt; `error` (n,) is 1 for a wrong answer and 0 for a right one, or any loss from
    0 up. Rows of equal uncertainty count with the mean of their errors, so that their order changes nothing. Geifman
    & El-Yaniv, NIPS 2017; paper D's referral. Raises ValueError for no rows, unequal lengths, NaN, a negative error.
    """
    uncertainty = np.asarray(uncertainty, float)
    error = np.asarray(error, float)
    if uncertainty.ndim != 1 or uncertainty.shape != error.shape or len(error) == 0:
        raise ValueError(f"uncertainty {uncertainty.shape} and error {error.shape}: give (n,) each, n above 0")
    for name, values in (("uncertainty", uncertainty), ("error", error)):
        bad = np.flatnonzero(np.isnan(values))
        if len(bad):
            raise ValueError(f"{name} of row {bad[0]} is NaN: leave such rows out, or refer them by themselves")
    if error.min() < 0:
        raise ValueError(f"error {error.min():g} of row {error.argmin()} is negative")
    order = np.argsort(uncertainty, kind="stable")
    levels, of, sizes = np.unique(uncertainty[order], return_inverse=True, return_counts=True)
    mean = np.bincount(of, error[order]) / sizes
    count = np.arange(1, len(error) + 1)
    risk = np.cumsum(mean[of]) / count
    return RiskCoverage(count / len(error), risk, float(risk.mean()), levels[of])


def find_risk_threshold(uncertainty: ArrayLike, error: ArrayLike, risk: float) -> tuple[float, float]:
    """The largest uncertainty to keep so that the kept rows' mean error is `risk` at most, and the coverage it gives.

    From held-out rows (arguments as in `risk_coverage`). Rows of equal uncertainty are kept or referred together.
    (-inf, 0.0) when no threshold reaches the target: then all rows need a person.
    """
    curve = risk_coverage(uncertainty, error)
    fits = np.flatnonzero(_mark_level_ends(curve.uncertainty) & (curve.risk <= risk + 1e-12))
    return (float(curve.uncertainty[fits[-1]]), float(curve.coverage[fits[-1]])) if len(fits) else (-np.inf, 0.0)


def find_budget_threshold(uncertainty: ArrayLike, share: float) -> tuple[float, float]:
    """The largest uncertainty to keep so that a `share` in [0, 1] of the rows at most is referred; and the coverage.

    Rows of equal uncertainty are kept together, so fewer may be referred than the budget allows. Needs no labels.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"review budget {share:g} is not a share between 0 and 1")
    curve = risk_coverage(uncertainty, np.zeros(len(np.asarray(uncertainty))))
    if share == 1:
        return -np.inf, 0.0
    at = np.flatnonzero(_mark_level_ends(curve.uncertainty) & (curve.coverage >= 1 - share - 1e-12))[0]
    return float(curve.uncertainty[at]), float(curve.coverage[at])


def auroc(score: ArrayLike, is_positive: ArrayLike) -> float:
    """Chance that a positive's score lies above a negative's, ties counting half: the area under the ROC curve.

    `score` (n,), `is_positive` (n,) bool. NaN where one of the two kinds is missing. Raises ValueError for a NaN score.
    """
    score = np.asarray(score, float)
    positive = np.asarray(is_positive, bool)
    if score.shape != positive.shape or score.ndim != 1:
        raise ValueError(f"scores {score.shape} and labels {positive.shape}: give (n,) each")
    if np.isnan(score).any():
        raise ValueError(f"score of row {np.flatnonzero(np.isnan(score))[0]} is NaN")
    n = int(positive.sum())
    m = int((~positive).sum())
    if n == 0 or m == 0:
        return float("nan")
    _, of, sizes = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(sizes) - (sizes - 1) / 2)[of]
    return float((rank[positive].sum() - n * (n + 1) / 2) / (n * m))


def _mark_level_ends(ascending: NDArray) -> NDArray:
    """Where a run of equal values ends (n,), bool."""
    return np.append(ascending[1:] > ascending[:-1], True)
