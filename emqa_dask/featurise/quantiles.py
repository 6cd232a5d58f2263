"""Quantiles of pixels from their sorted values, on the device that holds them."""

from typing import Any

import numpy as np


def compute_quantile(values: np.ndarray, fraction: float) -> np.float32:
    """np.quantile() of float32 `values`; to sort them takes less time than numpy's selection."""
    return interpolate_quantile(np.sort(values, axis=None), fraction)


def interpolate_quantile(ordered: Any, fraction: float) -> Any:
    """Quantile (...) of ascending values (..., k) by linear interpolation, rounded as np.quantile() does."""
    place = fraction * (ordered.shape[-1] - 1)
    rank = int(place)
    part = place - rank
    low = ordered[..., rank]
    high = ordered[..., min(rank + 1, ordered.shape[-1] - 1)]
    return low + (high - low) * part if part < 0.5 else high - (high - low) * (1 - part)
