"""Referral of uncertain classifications to a person: risk-coverage curve, thresholds for a target risk or a budget."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class RiskCoverage(NamedTuple):
    """A risk-coverage curve of n rows, by ascending coverage."""

    coverage: NDArray  # (n,) share of rows kept, ascending, 1 / n to 1
    risk: NDArray  # (n,) mean error of the rows kept
    area: float  # mean risk over all coverages; lower is better
    uncertainty: NDArray  # (n,) largest uncertainty that is kept


def risk_coverage(uncertainty: ArrayLike, error: ArrayLike) -> RiskCoverage:
    """Risk-coverage curve: mean error of the k most certain rows for every k, and the area under it.

    Parameters
    ----------
    uncertainty : array_like, shape (n,)
        Grows with the uncertainty, such as `predictive_entropy`. Rows of equal uncertainty count with the mean of
        their errors, so that their order changes nothing.
    error : array_like, shape (n,)
        1 for a wrong answer and 0 for a right one, or any loss from 0 up.

    Returns
    -------
    RiskCoverage
        Arrays `coverage` (1 / n to 1), `risk` and `uncertainty` (the largest one that is kept), each of shape (n,),
        and `area`, the mean risk over all coverages.

    Raises
    ------
    ValueError
        For no rows, unequal lengths, NaN and a negative error.

    References
    ----------
    Geifman & El-Yaniv, NIPS (2017). Zhang et al. refer images to a person by the entropy of an ensemble.
    """
    uncertainty = np.asarray(uncertainty, float)
    error = np.asarray(error, float)
    if uncertainty.ndim != 1 or uncertainty.shape != error.shape or len(error) == 0:
        raise ValueError(f"uncertainty {uncertainty.shape} and error {error.shape}: give (n,) each, n above 0")
    for name, values in (("uncertainty", uncertainty), ("error", error)):
        nan_rows = np.flatnonzero(np.isnan(values))
        if len(nan_rows):
            raise ValueError(f"{name} of row {nan_rows[0]} is NaN: leave such rows out, or refer them by themselves")
    if error.min() < 0:
        raise ValueError(f"error {error.min():g} of row {error.argmin()} is negative")
    order = np.argsort(uncertainty, kind="stable")
    levels, positions, sizes = np.unique(uncertainty[order], return_inverse=True, return_counts=True)
    mean = np.bincount(positions, error[order]) / sizes
    count = np.arange(1, len(error) + 1)
    risk = np.cumsum(mean[positions]) / count
    return RiskCoverage(count / len(error), risk, float(risk.mean()), levels[positions])


def find_risk_threshold(uncertainty: ArrayLike, error: ArrayLike, risk: float) -> tuple[float, float]:
    """The largest uncertainty to keep so that the kept rows' mean error is `risk` at most, and the coverage it gives.

    From held-out rows (arguments as in `risk_coverage`). Rows of equal uncertainty are kept or referred together.
    (-inf, 0.0) when no threshold reaches the target: then all rows need a person.
    """
    curve = risk_coverage(uncertainty, error)
    reached = np.flatnonzero(_mark_level_ends(curve.uncertainty) & (curve.risk <= risk + 1e-12))
    if not len(reached):
        return -np.inf, 0.0
    return float(curve.uncertainty[reached[-1]]), float(curve.coverage[reached[-1]])


def find_budget_threshold(uncertainty: ArrayLike, review_fraction: float) -> tuple[float, float]:
    """The largest uncertainty to keep so that at most `review_fraction` of the rows are referred, and the coverage.

    Rows of equal uncertainty are kept together, so fewer may be referred than the budget allows. Needs no labels.
    """
    if not 0 <= review_fraction <= 1:
        raise ValueError(f"review budget {review_fraction:g} is not a share between 0 and 1")
    curve = risk_coverage(uncertainty, np.zeros(len(np.asarray(uncertainty))))
    if review_fraction == 1:
        return -np.inf, 0.0
    first_row = np.flatnonzero(_mark_level_ends(curve.uncertainty) & (curve.coverage >= 1 - review_fraction - 1e-12))[0]
    return float(curve.uncertainty[first_row]), float(curve.coverage[first_row])


def auroc(score: ArrayLike, is_positive: ArrayLike) -> float:
    """Area under the ROC curve: probability that a positive's score is above a negative's, ties counting half.

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
    _, positions, sizes = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(sizes) - (sizes - 1) / 2)[positions]
    return float((rank[positive].sum() - n * (n + 1) / 2) / (n * m))


def _mark_level_ends(ascending: NDArray) -> NDArray:
    """Last of each run of equal values (n,), bool."""
    return np.append(ascending[1:] > ascending[:-1], True)
