"""Shares of images, also where all reviewed images agree, so that their variation gives no interval."""

import numpy as np
from numpy.typing import NDArray

from emqa_dask.measure.estimation import LEVEL, Design, Estimate, estimate_ratio


def estimate_share(
    design: Design,
    true_totals: NDArray[np.float64],
    predicted_totals: NDArray[np.float64] | None,
    level: float = LEVEL,
) -> Estimate:
    """The share of images with a property; arguments and failures as of estimation.estimate_ratio().

    Numerators are 0 or 1, and 0 where the denominator is 0. Where all reviewed images have the property, or none has
    it, the interval is that of a binomial distribution (Clopper and Pearson, Biometrika 26, 404, 1934). With unequal
    probabilities its number of draws is the effective one, (sum w)^2 / sum w^2 (Kish 1965).
    """
    estimate = estimate_ratio(design, true_totals, predicted_totals, level)
    is_counted = true_totals[:, 1] > 0
    has_property = true_totals[is_counted, 0] > 0
    if np.isfinite(estimate.low) or not is_counted.any() or has_property.any() != has_property.all():
        return estimate
    weights = design.weights[is_counted]
    limit = ((1 - level) / 2) ** ((weights**2).sum() / weights.sum() ** 2)
    low, high = (limit, 1.0) if has_property.all() else (0.0, 1 - limit)
    return estimate._replace(value=float(has_property.all()), low=low, high=high, tuning=0.0)
