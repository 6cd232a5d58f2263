"""Quantiles of a value per image over all images of a group, from labels of a few and detections in all."""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from emqa_dask.measure.estimation import LEVEL, MIN_TUNED_LABELS, NO_ESTIMATE, Design, Estimate


def estimate_quantile(
    design: Design,
    true_values: NDArray[np.float64],
    probability: float,
    predicted_values: NDArray[np.float64] | None = None,
    level: float = LEVEL,
) -> Estimate:
    """The `probability` quantile over the images of a group, with its interval (Woodruff 1952).

    true_values: (n,) by the labels; predicted_values: (N,) by the detections. NaN is an image without a value, such as
    the mean diameter of no objects; the quantile is that of the images with a value. The share of images at or below a
    value is estimated by the labels, adjusted by the share of detections at or below the quantile of the same rank. The
    interval has all values whose share is compatible with `probability`; an end is NaN where the labels do not reach
    so far. The variance is that of a share `probability`, less what the detections explain of it.
    """
    n_labels = len(design.reviewed)
    has_value = ~np.isnan(true_values)
    n_values = int(has_value.sum())
    if not n_values:
        return NO_ESTIMATE._replace(n_labels=n_labels)
    weights = design.weights / design.weights[has_value].sum()
    values = np.unique(true_values[has_value])
    is_below = true_values[:, None] <= values  # (n, values)
    shares = weights @ is_below
    control = np.zeros_like(is_below, dtype=np.float64)
    n_strata = len(np.unique(design.strata))
    if predicted_values is not None and n_values - n_strata >= MIN_TUNED_LABELS - 1:
        control = _compute_control(predicted_values, design.reviewed, np.clip(shares, 0, 1))
    center = int(np.argmax(shares >= probability - 1e-9))
    # Twice the images on the rarer side of the quantile: they decide how much labels and detections tell.
    n_effective = 4 * probability * (1 - probability) / (weights[has_value] @ weights[has_value])
    residuals = np.where(has_value, is_below[:, center] - probability, 0.0)
    squared_weights = weights**2 * (1 - design.probabilities)
    min_variance = float(squared_weights[has_value].sum()) * probability * (1 - probability)
    tuning, variance = _tune(design.strata, squared_weights, residuals, control[:, center], min_variance, n_effective)
    shares = np.maximum.accumulate(shares - tuning * (weights @ control))
    degrees = n_values - n_strata - (tuning != 0)
    estimate = Estimate(
        _find_quantile(values, shares, probability), np.nan, np.nan, np.nan, n_labels, float(degrees), tuning
    )
    if degrees < 1:
        return estimate
    margin = stats.t.ppf((1 + level) / 2, degrees) * np.sqrt(variance * n_values / degrees)
    low = _find_quantile(values, shares, probability - margin) if probability > margin else np.nan
    return estimate._replace(low=low, high=_find_quantile(values, shares, probability + margin))


def _find_quantile(values: NDArray[np.float64], shares: NDArray[np.float64], probability: float) -> float:
    """The smallest of `values` whose share is at least `probability`; NaN where none is."""
    is_reached = shares >= probability - 1e-9
    return float(values[np.argmax(is_reached)]) if is_reached.any() and probability <= 1 else np.nan


def _compute_control(
    predicted_values: NDArray[np.float64], reviewed: NDArray[np.int64], shares: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(n, shares) whether detections of reviewed images are at or below their quantile of each share, less its rank.

    Over all images the sum is 0. So it is for an image whose detections have no value.
    """
    values = np.sort(predicted_values)[: int((~np.isnan(predicted_values)).sum())]  # NaN is sorted to the end
    if not len(values):
        return np.zeros((len(reviewed), len(shares)))
    quantiles = np.quantile(values, shares, method="inverted_cdf")
    ranks = np.searchsorted(values, quantiles, side="right") / len(values)
    reviewed_values = predicted_values[reviewed][:, None]
    return np.where(np.isnan(reviewed_values), 0.0, (reviewed_values <= quantiles) - ranks)


def _tune(
    strata: NDArray[np.int64],
    squared_weights: NDArray[np.float64],
    residuals: NDArray[np.float64],
    control: NDArray[np.float64],
    min_variance: float,
    n_effective: float,
) -> tuple[float, float]:
    """The weight of the detections with the least variance, and the variance of the share that it leaves.

    residuals: (n,) whether an image is at or below the quantile, less the probability. Without detections the variance
    is that of the weighted images, or `min_variance`, that of a share of any images, if this is larger.
    """
    total = max(squared_weights @ residuals**2, min_variance)
    deviations = np.zeros(len(control))
    centered = np.zeros(len(control))
    for stratum in np.unique(strata):
        is_member = strata == stratum
        member_weights = squared_weights[is_member] if squared_weights[is_member].any() else None
        deviations[is_member] = control[is_member] - np.average(control[is_member], weights=member_weights)
        centered[is_member] = residuals[is_member] - np.average(residuals[is_member], weights=member_weights)
    explained = squared_weights @ deviations**2
    varied = squared_weights @ centered**2
    if not (varied > 0 and explained > 0):
        return 0.0, float(total)
    product = squared_weights @ (centered * deviations)
    # Two more images that the detections do not explain: few images may agree with them by chance.
    share = product**2 / (varied * explained) * n_effective / (n_effective + 2)
    return float(product / explained), float(total * (1 - share))
