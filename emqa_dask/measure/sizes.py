"""Histograms of diameters with the same bins for all images."""

import numpy as np
from numpy.typing import NDArray

BINS_PER_DECADE = 20  # a bin is 12 % wide
MIN_DIAMETER = 1e-3  # nm or px, lower limit of bin 0
N_BINS = 11 * BINS_PER_DECADE  # up to 1e8: 0.1 m, beyond every micrograph
# Rounded, so that limits of one decade have the same digits as those of another.
BIN_LIMITS = np.array([float(f"{MIN_DIAMETER * 10 ** (k / BINS_PER_DECADE):.6g}") for k in range(N_BINS + 1)])


def count_sizes(diameters: NDArray, weights: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Bins with objects, their numbers of objects, and the sums of the objects' weights.

    Objects without a weight, and those whose diameter is not finite, are left out. `bins` are positions in BIN_LIMITS;
    a diameter outside of the limits counts in the first or the last bin.
    """
    is_counted = np.isfinite(diameters) & (weights > 0)
    positions = np.searchsorted(BIN_LIMITS, diameters[is_counted], "right") - 1
    bins, inverse = np.unique(np.clip(positions, 0, N_BINS - 1), return_inverse=True)
    counts = np.bincount(inverse, minlength=len(bins))
    return bins, counts, np.bincount(inverse, weights[is_counted], minlength=len(bins))
