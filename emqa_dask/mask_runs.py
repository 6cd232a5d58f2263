"""Runs of a mask: the stretches of True along its rows, by numba in two passes."""

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(nogil=True, cache=True)
def find_runs(mask: NDArray) -> NDArray:
    """Runs (n, 3: y, start, stop; int64) of True along the rows of `mask` (h, w); along columns for `mask.T`."""
    h, w = mask.shape
    n = 0
    for y in range(h):
        is_inside = False
        for x in range(w):
            n += mask[y, x] and not is_inside
            is_inside = mask[y, x]
    runs = np.empty((n, 3), np.int64)
    n = 0
    for y in range(h):
        is_inside = False
        for x in range(w):
            if mask[y, x] and not is_inside:
                runs[n, 0] = y
                runs[n, 1] = x
                n += 1
            if mask[y, x]:
                runs[n - 1, 2] = x + 1
            is_inside = mask[y, x]
    return runs
