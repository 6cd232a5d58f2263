"""Probability that the F1 of an image's detections reaches a limit, from quantiles of the predicted F1."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from emqa_dask.tables import F1_LEVELS, F1_QUANTILES


def compute_f1_probability(predictions: pd.DataFrame, limit: float) -> NDArray[np.float64]:
    """Probability (n,) of F1 >= `limit` for n rows with the columns F1_QUANTILES; NaN where they are unknown.

    Linear between quantiles. Beyond the outermost quantiles, the probability is that of these: 0.99 or 0.01.
    """
    quantiles = predictions[list(F1_QUANTILES)].to_numpy(float)
    levels = np.array(F1_LEVELS)
    n_below = (quantiles < limit).sum(axis=1)
    upper = np.clip(n_below, 1, len(levels) - 1)
    rows = np.arange(len(quantiles))
    low, high = quantiles[rows, upper - 1], quantiles[rows, upper]
    share = np.divide(limit - low, high - low, out=np.ones(len(rows)), where=high > low)
    level = levels[upper - 1] + np.clip(share, 0, 1) * (levels[upper] - levels[upper - 1])
    level = np.where(n_below == 0, levels[0], level)
    return np.where(np.isnan(quantiles).any(axis=1), np.nan, 1 - level)


def compute_shifted_probability(predictions: pd.DataFrame, gain: ArrayLike, limit: float) -> NDArray[np.float64]:
    """compute_f1_probability() (n,) if F1 were higher by `gain` (n,); NaN where the gain is unknown."""
    shifted = predictions[list(F1_QUANTILES)].add(np.asarray(gain, float), axis=0)
    return compute_f1_probability(shifted, limit)
