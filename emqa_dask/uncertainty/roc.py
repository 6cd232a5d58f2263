"""ROC curves: rates of false and true positives over all thresholds of a score."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emqa_dask.uncertainty import referral


class RocCurve(NamedTuple):
    """A ROC curve of k + 1 points, from (0, 0) to (1, 1); k different scores."""

    false_positive_rate: NDArray[np.float64]  # ascending
    true_positive_rate: NDArray[np.float64]  # ascending
    threshold: NDArray[np.float64]  # descending; rows with this score or more are positive; inf first
    area: float


def compute_roc_curve(score: ArrayLike, is_positive: ArrayLike) -> RocCurve:
    """ROC curve of a score (n,) that is higher for positive rows; rows of equal scores change sides together.

    Its area is `referral.auroc`. Raises ValueError where one of the two kinds is missing, and for NaN scores.
    """
    area = referral.auroc(score, is_positive)
    if np.isnan(area):
        raise ValueError("a ROC curve needs positive and negative rows; one of the two kinds is missing")
    levels, positions = np.unique(-np.asarray(score, float), return_inverse=True)
    is_positive = np.asarray(is_positive, bool)
    rates = []
    for selection in (~is_positive, is_positive):
        counts = np.bincount(positions[selection], minlength=len(levels))
        rates.append(np.concatenate([[0.0], np.cumsum(counts) / selection.sum()]))
    return RocCurve(rates[0], rates[1], np.concatenate([[np.inf], -levels]), area)


def compute_group_interval(
    score: ArrayLike, is_positive: ArrayLike, groups: ArrayLike, *, n_resamples: int = 200, seed: int = 0
) -> tuple[float, float]:
    """5 % and 95 % quantiles of the area under the ROC curve when whole groups (n,) are drawn anew.

    Groups of positive and of negative rows are drawn by themselves. With one group of a kind the interval says nothing
    about other groups of that kind.
    """
    score = np.asarray(score, float)
    is_positive = np.asarray(is_positive, bool)
    rng = np.random.default_rng(seed)
    rows_by_group = [
        [np.flatnonzero((groups == name) & kind) for name in np.unique(np.asarray(groups)[kind])]
        for groups, kind in ((np.asarray(groups), ~is_positive), (np.asarray(groups), is_positive))
    ]
    areas = []
    for _ in range(n_resamples):
        rows = np.concatenate([parts[k] for parts in rows_by_group for k in rng.integers(len(parts), size=len(parts))])
        areas.append(referral.auroc(score[rows], is_positive[rows]))
    low, high = np.quantile(areas, (0.05, 0.95))
    return float(low), float(high)
