"""Swelling of a group from the volumes of its objects, with the uncertainty of the foil thickness in the interval."""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from emqa_dask.measure.estimation import LEVEL, Design, Estimate, estimate_ratio


def estimate_swelling(
    design: Design,
    true_volumes: NDArray[np.float64],
    predicted_volumes: NDArray[np.float64] | None = None,
    thickness_uncertainty: float = 0.0,
    level: float = LEVEL,
) -> Estimate:
    """Swelling of a group in %: 100 V / (A t - V), with its interval (Li et al. 2025).

    true_volumes: (n, 2), volume of the objects and of the specimen (area times thickness) of each reviewed image;
    predicted_volumes: (N, 2). thickness_uncertainty: relative standard uncertainty of the thickness, the same for all
    images.
    """
    return convert_to_swelling(
        estimate_ratio(design, true_volumes, predicted_volumes, level), thickness_uncertainty, level
    )


def convert_to_swelling(fraction: Estimate, thickness_uncertainty: float = 0.0, level: float = LEVEL) -> Estimate:
    """Swelling in % of an estimated volume fraction; NaN for a fraction of 1 or more.

    The distances of both ends from the estimate, on the logarithm, are combined as roots of sums of squares: method of
    variance estimates recovery (Zou and Donner, Statistics in Medicine 27 (2008) 1693).
    """
    margin = stats.norm.ppf((1 + level) / 2) * thickness_uncertainty
    swelling = _compute_swelling(fraction.value)
    low, high = (_compute_swelling(end) for end in (fraction.low, fraction.high))
    if margin and swelling > 0:
        thin = _compute_swelling(fraction.value / max(1 - margin, 1e-9))
        thick = _compute_swelling(fraction.value / (1 + margin))
        with np.errstate(divide="ignore"):
            low = swelling * np.exp(-np.hypot(np.log(swelling / low), np.log(swelling / thick)))
            high = swelling * np.exp(np.hypot(np.log(high / swelling), np.log(thin / swelling)))
    slope = (100 + swelling) ** 2 / 100  # of the swelling by the volume fraction
    error = slope * np.hypot(fraction.standard_error, fraction.value * thickness_uncertainty)
    return fraction._replace(value=swelling, low=float(low), high=float(high), standard_error=float(error))


def _compute_swelling(fraction: float) -> float:
    return 100 * fraction / (1 - fraction) if fraction < 1 else np.nan
