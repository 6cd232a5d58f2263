"""Ratios of totals over all images of a group, from labels of a few and detections in all, with confidence intervals.

Density, mean diameter and swelling are ratios of two totals. The labels of the reviewed images give an estimate that
does not depend on a detector, and the detections of all images reduce its variance: prediction-powered inference
(Angelopoulos, Duchi and Zrnic, arXiv:2311.01453), known in survey statistics as the difference or generalised
regression estimator (Saerndal, Swensson and Wretman 1992, chapter 6). Its intervals hold for any bias of the detector.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95  # of the intervals, unless stated
MIN_TUNED_LABELS = 8  # fewer labels do not determine the weight of the detections
N_TUNING_STEPS = 2  # from 50 labels on a third changes the ratio by less than a tenth of its standard error
MIN_VARIATION = 1e-9  # of detections or labels relative to their size; below it they are equal but for rounding


class Design(NamedTuple):
    """The reviewed images of a group and how they were selected."""

    n_images: int  # of the group
    reviewed: NDArray[np.int64]  # (n,) positions of the reviewed images, each once
    probabilities: NDArray[np.float64]  # (n,) probability of each to be reviewed, in (0, 1]
    strata: NDArray[np.int64]  # (n,) numbers of the strata from which images were drawn independently

    @property
    def weights(self) -> NDArray[np.float64]:
        """(n,) number of images of the group that each reviewed image represents."""
        weights = 1 / self.probabilities
        return weights * self.n_images / weights.sum() if len(weights) else weights


class Estimate(NamedTuple):
    """A quantity of a group with its confidence interval; NaN where it cannot be computed."""

    value: float
    low: float
    high: float
    standard_error: float
    n_labels: int
    degrees_of_freedom: float
    tuning: float  # weight of the detections; 0: labels alone

    @property
    def half_width(self) -> float:
        """Half of the length of the interval."""
        return (self.high - self.low) / 2


NO_ESTIMATE = Estimate(np.nan, np.nan, np.nan, np.nan, 0, np.nan, 0.0)


def define_simple_design(n_images: int, reviewed: NDArray[np.int64]) -> Design:
    """The design of a simple random sample without replacement: `reviewed` of `n_images`."""
    probabilities = np.full(len(reviewed), len(reviewed) / n_images) if n_images else np.empty(0)
    return Design(n_images, reviewed, probabilities, np.zeros(len(reviewed), int))


def define_stratified_design(image_strata: NDArray[np.int64], reviewed: NDArray[np.int64]) -> Design:
    """The design of a simple random sample within each stratum; `image_strata`: (N,) stratum of each image.

    ValueError where a stratum has fewer than two reviewed images and is not reviewed completely.
    """
    n_images = np.bincount(image_strata)
    n_reviewed = np.bincount(image_strata[reviewed], minlength=len(n_images))
    if (n_reviewed < np.minimum(n_images, 2)).any():
        raise ValueError("each stratum needs two reviewed images")
    strata = image_strata[reviewed]
    return Design(len(image_strata), reviewed, n_reviewed[strata] / n_images[strata], strata)


def estimate_ratio(
    design: Design,
    true_totals: NDArray[np.float64],
    predicted_totals: NDArray[np.float64] | None = None,
    level: float = LEVEL,
) -> Estimate:
    """The ratio of two totals over all images of a group, with its interval.

    true_totals: (n, 2), numerator and denominator of each reviewed image by its labels. predicted_totals: (N, 2), the
    same by the detections of each image of the group; without them the labels alone count. The weight of the
    detections is the one of least variance. The variance is the jackknife's, in which the weight is fitted anew, with
    a finite-population correction. The interval is computed on the logarithm, so that it is positive, with Student's
    t for the degrees of freedom that the kurtosis leaves. The end towards which the images are skewed lies farther
    away, by the first term of the Edgeworth expansion (Hall 1992); the other end is not moved inwards. The value is
    NaN without a denominator, and the interval where the labels do not vary or equal the detections but for a factor.
    """
    n_labels = len(design.reviewed)
    control = np.zeros(n_labels)
    if predicted_totals is not None and n_labels - len(np.unique(design.strata)) >= MIN_TUNED_LABELS - 1:
        control = _compute_control(predicted_totals)[design.reviewed]
    values = np.column_stack([true_totals, control])
    if not (true_totals[:, 1] * design.weights).sum() > 0:
        return NO_ESTIMATE._replace(n_labels=n_labels)
    ratio, tuning, deletions = _solve_with_deletions(design, values)
    is_tuned = bool(control.any())
    return _find_interval(design, Solution(ratio, tuning, deletions, is_tuned), level)


class Solution(NamedTuple):
    """An estimate, and the estimates without one reviewed image each."""

    ratio: float
    tuning: float
    deletions: NDArray[np.float64]  # (n,)
    is_tuned: bool


def _compute_control(predicted_totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) residuals of the detections from their own ratio: their total over the group is 0."""
    totals = predicted_totals.sum(axis=0)
    if not totals[1] > 0:
        return np.zeros(len(predicted_totals))
    residuals = predicted_totals[:, 0] - totals[0] / totals[1] * predicted_totals[:, 1]
    is_constant = np.abs(residuals).max() <= MIN_VARIATION * np.abs(predicted_totals[:, 0]).max()
    return np.zeros(len(residuals)) if is_constant else residuals


def _solve_with_deletions(design: Design, values: NDArray[np.float64]) -> tuple[float, float, NDArray[np.float64]]:
    """Ratio, weight of the detections, and (n,) ratios without each image; values: (n, 3) numerator, denominator,
    control."""
    weights = design.weights[:, None]
    variance_weights = weights * weights * (1 - design.probabilities[:, None])  # of squared residuals
    y, z, a = values.T
    weighted = weights * values
    moments = variance_weights * np.column_stack([np.ones(len(y)), y, z, a, y * a, z * a, a * a])
    strata = np.unique(design.strata, return_inverse=True)[1]
    n_strata = strata.max() + 1
    sums = _sum_by_stratum(weighted, strata, n_strata)
    stratum_moments = _sum_by_stratum(moments, strata, n_strata)
    stratum_weights = _sum_by_stratum(weights, strata, n_strata)[strata]
    covariances = _center(stratum_moments)
    ratio, tuning = _solve(sums.sum(axis=0), covariances.sum(axis=0))
    left_weights = stratum_weights - weights
    is_single = left_weights <= 0
    scale = stratum_weights / np.where(is_single, 1, left_weights)
    stratum_sums = np.where(is_single, sums[strata], (sums[strata] - weighted) * scale)
    deleted_sums = sums.sum(axis=0) - sums[strata] + stratum_sums
    deleted_covariances = covariances.sum(axis=0) - covariances[strata] + _center(stratum_moments[strata] - moments)
    deletions, _ = _solve(deleted_sums, deleted_covariances)
    return float(ratio), float(tuning), deletions


def _sum_by_stratum(values: NDArray[np.float64], strata: NDArray[np.int64], n_strata: int) -> NDArray[np.float64]:
    sums = np.zeros((n_strata, values.shape[1]))
    np.add.at(sums, strata, values)
    return sums


def _center(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., 3) covariances of numerator, denominator and control with the control; moments: (..., 7)."""
    total = moments[..., :1]
    means = moments[..., 1:4] / np.where(total > 0, total, 1)
    return moments[..., 4:] - means * moments[..., 3:4]


def _solve(sums: NDArray[np.float64], covariances: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
    """Ratios and weights of the detections; sums, covariances: (..., 3) of numerator, denominator and control.

    The weight of least variance depends on the ratio; two steps from that of the labels alone determine both.
    """
    y, z, a = np.moveaxis(sums, -1, 0)
    y_a, z_a, a_a = np.moveaxis(covariances, -1, 0)
    tuning = np.zeros(np.shape(y))
    with np.errstate(invalid="ignore", divide="ignore"):
        for _ in range(N_TUNING_STEPS):
            ratios = (y - tuning * a) / z
            tuning = np.where(a_a > 0, (y_a - ratios * z_a) / np.where(a_a > 0, a_a, 1), 0.0)
        return (y - tuning * a) / z, tuning


def _find_interval(design: Design, solution: Solution, level: float) -> Estimate:
    """The estimate with standard error and interval from the delete-one ratios."""
    n_labels = len(design.reviewed)
    strata = np.unique(design.strata, return_inverse=True)[1]
    sizes = np.bincount(strata)
    means = np.bincount(strata, solution.deletions) / sizes
    deviations = (solution.deletions - means[strata]) * np.sqrt(1 - design.probabilities)
    variances = (sizes - 1) / sizes * np.bincount(strata, deviations**2)
    error = float(np.sqrt(variances.sum()))
    estimate = Estimate(solution.ratio, np.nan, np.nan, error, n_labels, np.nan, solution.tuning)
    if (design.probabilities >= 1).all() and n_labels >= design.n_images:
        return estimate._replace(low=solution.ratio, high=solution.ratio, standard_error=0.0)
    n_degrees = n_labels - len(sizes) - solution.is_tuned
    if not error > MIN_VARIATION * abs(solution.ratio) or n_degrees < 1:
        return estimate
    is_single = len(sizes) == 1 and n_labels > 3  # of several strata each has too few labels for these moments
    excess = float(stats.kurtosis(deviations, bias=False)) if is_single else 0.0
    skewness = _compute_skewness(design, solution) if is_single else 0.0
    degrees = reduce_degrees(variances, sizes, excess) * n_degrees / (n_labels - len(sizes))
    probability = (1 + level) / 2
    margin = stats.t.ppf(probability, degrees)
    shift = skewness * (2 * stats.t.ppf(probability, n_degrees) ** 2 + 1) / (6 * np.sqrt(n_labels))
    low, high = span_interval(solution.ratio, (margin + max(-shift, 0)) * error, (margin + max(shift, 0)) * error)
    return estimate._replace(low=low, high=high, degrees_of_freedom=degrees)


def _compute_skewness(design: Design, solution: Solution) -> float:
    """Skewness of the influence of each reviewed image on the logarithm of the ratio; 0 for a ratio of 0 or less."""
    if not (solution.ratio > 0 and (solution.deletions > 0).all()):
        return 0.0
    influences = -np.log(solution.deletions / solution.ratio) * np.sqrt(1 - design.probabilities)
    return float(stats.skew(influences, bias=False))


def reduce_degrees(variances: NDArray[np.float64], sizes: NDArray[np.int64], excess: float) -> float:
    """Degrees of freedom of a sum of variances (Satterthwaite) of deviations with this excess kurtosis.

    variances, sizes: (strata,); the relative variance of a sample variance is 2 / (n - 1) + excess / n.
    """
    is_varied = variances > 0
    relative = 2 / (sizes[is_varied] - 1) + max(excess, 0.0) / sizes[is_varied]
    return float(2 * variances.sum() ** 2 / (variances[is_varied] ** 2 @ relative))


def span_interval(value: float, margin_low: float, margin_high: float) -> tuple[float, float]:
    """The ends of an interval of a positive quantity, `margin_low` below and `margin_high` above it.

    The margins hold on the logarithm, to first order. An estimate of 0 or less has an interval from 0 on.
    """
    if value > 0:
        low_ratio, high_ratio = (np.exp(min(margin / value, 700.0)) for margin in (margin_low, margin_high))
        return float(value / low_ratio), float(value * high_ratio)  # 700: exp() is finite
    return 0.0, float(max(value + margin_high, 0.0))


def count_further_labels(design: Design) -> int:
    """Number of further labels after which intervals have half their length, for labels drawn as the present ones."""
    n_labels = len(design.reviewed)
    if not 0 < n_labels < design.n_images:
        return 0
    needed = 1 / ((1 / n_labels - 1 / design.n_images) / 4 + 1 / design.n_images)
    return int(np.ceil(needed - 1e-9)) - n_labels
