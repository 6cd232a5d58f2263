"""Labels needed for a target accuracy: the learning curve's answer, with an interval from resampling."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emqa_dask.uncertainty.learning_curve import compute_labels_needed, fit_learning_curve

MAX_EXTRAPOLATION = 10.0  # times the most labels of the curve; beyond, a target counts as not reached
QUANTILES = (0.05, 0.95)


class LabelsNeeded(NamedTuple):
    """Labels needed for a target accuracy; infinite values mean that it is not reached."""

    target: float
    n_labels: float
    low: float
    high: float
    n_labels_min: int  # of the curve; a target that is reached with fewer counts as reached with these
    n_labels_max: int  # of the curve


def compute_point_values(
    probabilities: Sequence[NDArray], y: NDArray | None, images: NDArray, members: Sequence[NDArray]
) -> NDArray[np.float64]:
    """Accuracy (m,) of m ensembles on rows `images` with classes y (n,), of their `members`; without y, confidence.

    `probabilities` has (members, n, classes) of each ensemble, `images` positions of rows, repeated or not.
    """
    values = []
    for p, used in zip(probabilities, members):
        mean = p[used][:, images].mean(axis=0, dtype=float)
        values.append(mean.max(axis=1).mean() if y is None else (mean.argmax(axis=1) == y[images]).mean())
    return np.array(values)


def estimate_labels_needed(
    n_labels: Sequence[int],
    probabilities: Sequence[NDArray],
    y: NDArray | None,
    groups: NDArray,
    target: float,
    *,
    n_resamples: int = 200,
    seed: int = 0,
) -> LabelsNeeded:
    """Labels at which ensembles reach the accuracy `target` by the power law through their learning curve.

    Parameters
    ----------
    n_labels : sequence of int, length m
        Labels that each ensemble was trained on; three different numbers at least.
    probabilities : sequence of m arrays, shape (members, n, classes)
        Of n images that no ensemble was trained on.
    y : ndarray of int, shape (n,), or None
        Their true classes. None: the mean largest probability stands in for the accuracy.
    groups : ndarray, shape (n,)
        Images of one group are drawn together.
    target : float
        Accuracy in (0, 1).
    n_resamples, seed : int, default 200 and 0
        Resamples of groups and members for the interval, and their seed.

    Returns
    -------
    LabelsNeeded
        With the 5 % and 95 % quantiles over resamples; more than MAX_EXTRAPOLATION times n_labels is infinite.

    Raises
    ------
    ValueError
        For fewer than three different numbers of labels, and a target outside of (0, 1).

    References
    ----------
    Zhang et al., ACS Omega 6 (2021) 12711, case study 1. Efron, Ann. Stat. 7 (1979) 1.
    """
    rng = np.random.default_rng(seed)
    limit = MAX_EXTRAPOLATION * max(n_labels)
    rows_by_group = [np.flatnonzero(groups == name) for name in np.unique(groups)]
    n_groups = len(rows_by_group)

    def solve(images: NDArray, members: Sequence[NDArray]) -> float:
        values = compute_point_values(probabilities, y, images, members)
        needed = compute_labels_needed(fit_learning_curve(n_labels, values), target)
        return max(needed, min(n_labels)) if needed <= limit else np.inf

    best = solve(np.arange(len(groups)), [np.arange(len(p)) for p in probabilities])
    resamples = []
    for _ in range(n_resamples):
        group_numbers = rng.integers(n_groups, size=n_groups)
        members = [rng.integers(len(p), size=len(p)) for p in probabilities]
        resamples.append(solve(np.concatenate([rows_by_group[k] for k in group_numbers]), members))
    low, high = np.quantile(resamples, QUANTILES, method="nearest")
    return LabelsNeeded(target, best, float(low), float(high), int(min(n_labels)), int(max(n_labels)))


def describe_labels_needed(needed: LabelsNeeded) -> str:
    """A sentence: labels needed with their interval, or that the target is not reached."""
    start = f"accuracy {needed.target:g}"
    limit = MAX_EXTRAPOLATION * needed.n_labels_max
    if np.isinf(needed.n_labels):
        odds = "" if np.isinf(needed.low) else f"; the favourable end of the interval is {needed.low:.0f} labels"
        return f"{start} is not reached with up to {limit:.0f} labels{odds}"
    if max(needed.n_labels, needed.high) <= needed.n_labels_min:
        return f"{start} is reached with {needed.n_labels_min} labels, the fewest of the curve, or with fewer"
    high = f"{needed.high:.0f}" if np.isfinite(needed.high) else f"more than {limit:.0f}"
    text = f"{start} needs about {needed.n_labels:.0f} labels (90 % interval {needed.low:.0f} to {high})"
    return text if needed.n_labels <= needed.n_labels_max else f"{text}; extrapolated from {needed.n_labels_max}"
