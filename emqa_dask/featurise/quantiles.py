"""Quantiles of float32 pixels."""

import numpy as np


def compute_quantile(values: np.ndarray, fraction: float) -> np.float32:
    """np.quantile() of float32 `values`; to sort them takes less time than numpy's selection."""
    ordered = np.sort(values, axis=None)
    place = fraction * (len(ordered) - 1)
    rank = int(place)
    part = place - rank
    low, high = ordered[rank], ordered[min(rank + 1, len(ordered) - 1)]
    return low + (high - low) * part if part < 0.5 else high - (high - low) * (1 - part)
