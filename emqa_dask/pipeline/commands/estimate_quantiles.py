"""Quantiles over the images of a group, of the number, the density or the mean diameter of the objects of an image."""

import math

import numpy as np
from numpy.typing import NDArray

from emqa_dask.measure.estimation import NO_ESTIMATE, Design, Estimate
from emqa_dask.measure.estimation_quantiles import estimate_quantile

PROBABILITIES = (0.1, 0.5, 0.9)  # of the quantiles, unless stated
QUANTILE_TITLES = {
    "n_per_image": "objects per image",
    "density": "density of an image",
    "mean_diameter": "mean diameter of an image",
}


def name_quantile(quantity: str, probability: float) -> str:
    """The quantity of a row, e.g. density_q50."""
    return f"{quantity}_q{100 * probability:g}"


def list_quantile_titles(probabilities: tuple[float, ...]) -> dict[str, str]:
    """Title by quantity, of all quantiles with these probabilities."""
    return {
        name_quantile(quantity, probability): f"{title}, {_name_rank(probability)}"
        for quantity, title in QUANTILE_TITLES.items()
        for probability in probabilities
    }


def _name_rank(probability: float) -> str:
    return "median" if probability == 0.5 else f"{100 * probability:g} % quantile"


def estimate_quantiles(
    design: Design | None, true_totals: NDArray[np.float64], predicted_totals: NDArray[np.float64], probability: float
) -> list[Estimate]:
    """The quantile from labels and detections, from labels alone, and from detections alone.

    true_totals: (n, 2), numerator and denominator of each reviewed image; predicted_totals: (N, 2) of each image. The
    value of an image is their ratio. An image without a denominator has no value and does not count.
    """
    predicted_values = _divide(predicted_totals)
    is_valued = ~np.isnan(predicted_values)
    naive = math.nan
    if is_valued.any():
        naive = float(np.quantile(predicted_values[is_valued], probability, method="inverted_cdf"))
    estimates = [NO_ESTIMATE, NO_ESTIMATE]
    if design is not None:
        true_values = _divide(true_totals)
        estimates = [estimate_quantile(design, true_values, probability, source) for source in (predicted_values, None)]
    return [*estimates, NO_ESTIMATE._replace(value=naive)]


def _divide(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) ratios of (n, 2) totals; NaN for a denominator of 0."""
    has_value = totals[:, 1] > 0
    return np.where(has_value, totals[:, 0] / np.where(has_value, totals[:, 1], 1.0), np.nan)
