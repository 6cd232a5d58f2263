"""Counts of the values of integer pixels by numba: numpy's bincount makes 8 bytes of each first."""

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(nogil=True, cache=True)
def count_values(values: NDArray, first: int) -> NDArray:
    """Counts (65536,) of `values` (m,) of at most 16 bits, by their distance from `first`, the least of their dtype."""
    counts = np.zeros(65536, np.int64)
    for value in values:
        counts[int(value) - first] += 1
    return counts
