"""Mean, standard deviation and quantiles of values that have weights."""

import numpy as np
from numpy.typing import NDArray


def compute_mean(values: NDArray, weights: NDArray) -> float:
    """Weighted mean of the finite `values`; NaN without weight."""
    is_finite = np.isfinite(values) & (weights > 0)
    if not is_finite.any():
        return float("nan")
    return float(np.average(values[is_finite], weights=weights[is_finite]))


def compute_std(values: NDArray, weights: NDArray) -> float:
    """Weighted standard deviation (ddof = 0) of the finite `values`; NaN without weight."""
    mean = compute_mean(values, weights)
    return float(np.sqrt(compute_mean((values - mean) ** 2, weights)))


def compute_quantiles(values: NDArray, weights: NDArray, levels: tuple[float, ...]) -> list[float]:
    """Weighted quantiles of the finite `values`, linear between the middles of their weights; NaN without weight.

    With equal weights they are Hazen's, whose median is the usual one.
    """
    is_finite = np.isfinite(values) & (weights > 0)
    if not is_finite.any():
        return [float("nan")] * len(levels)
    order = np.argsort(values[is_finite], kind="stable")
    sorted_values = values[is_finite][order]
    sorted_weights = weights[is_finite][order]
    middles = (np.cumsum(sorted_weights) - sorted_weights / 2) / sorted_weights.sum()
    return np.interp(levels, middles, sorted_values).tolist()
