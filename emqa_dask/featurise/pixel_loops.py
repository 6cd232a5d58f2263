"""Loops over pixels by numba, each in one pass where numpy would take several."""

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(nogil=True, cache=True)
def _find_root(parents: NDArray, k: int) -> int:
    while parents[k] != k:
        parents[k] = parents[parents[k]]
        k = parents[k]
    return k


@numba.njit(nogil=True, cache=True)
def connect_runs(runs: NDArray) -> NDArray:
    """The number (n,) of the first run of the 4-connected region of each of `runs` (n, 3), sorted by row and start."""
    n = len(runs)
    parents = np.arange(n)
    first_above = 0
    for k in range(n):
        y, start, stop = runs[k]
        while first_above < k and (
            runs[first_above, 0] < y - 1 or (runs[first_above, 0] == y - 1 and runs[first_above, 2] <= start)
        ):
            first_above += 1
        i = first_above
        while i < k and runs[i, 0] == y - 1 and runs[i, 1] < stop:
            a = _find_root(parents, i)
            b = _find_root(parents, k)
            parents[max(a, b)] = min(a, b)
            i += 1
    for k in range(n):
        parents[k] = _find_root(parents, k)
    return parents


@numba.njit(nogil=True, cache=True)
def find_step_runs(view: NDArray, step: np.float32, length: int, sign: int) -> NDArray:
    """Runs (n, 3: y, start, stop) of at least `length` px along rows where grey rises by over `step` within two rows.

    `view` is (h, w) float32; the rise is the mean of 7 columns, mirrored at the sides. The outer rows and columns have
    no rise. With `sign` -1 grey falls.
    """
    h, w = view.shape
    runs = np.empty((h * (w // max(length, 1) + 1), 3), np.int64)
    n = 0
    for y in range(1, h - 1):
        stop = 0
        # Every run of this length holds a multiple of it: few pixels are looked at where there is no run.
        for x in range(length, w - 1, length):
            if x < stop or not _is_step(view, y, x, step, sign):
                continue
            start = x
            while start > 1 and _is_step(view, y, start - 1, step, sign):
                start -= 1
            stop = x + 1
            while stop < w - 1 and _is_step(view, y, stop, step, sign):
                stop += 1
            if stop - start >= length:
                runs[n, 0] = y
                runs[n, 1] = start
                runs[n, 2] = stop
                n += 1
    return runs[:n]


@numba.njit(nogil=True, cache=True)
def _is_step(view: NDArray, y: int, x: int, step: np.float32, sign: int) -> bool:
    w = view.shape[1]
    total = 0.0
    for k in range(x - 3, x + 4):
        i = abs(k)
        if i >= w:
            i = 2 * (w - 1) - i
        total += view[y + 1, i] - view[y - 1, i]
    return np.float32(sign * total / 7) > step


@numba.njit(nogil=True, cache=True)
def count_bar_pixels(part: NDArray, ground: np.float32, tolerance: np.float32, change: np.float32) -> tuple:
    """Pixels of each row (h,) nearer than `tolerance` to `ground`, and those that differ by less than `change` from the
    next one.
    """
    h, w = part.shape
    n_ground = np.zeros(h, np.int64)
    n_equal = np.zeros(h, np.int64)
    for y in range(h):
        a = 0
        b = 0
        for x in range(w):
            a += abs(part[y, x] - ground) < tolerance
        for x in range(w - 1):
            b += abs(part[y, x + 1] - part[y, x]) < change
        n_ground[y] = a
        n_equal[y] = b
    return n_ground, n_equal


@numba.njit(nogil=True, cache=True)
def count_in_bins(values: NDArray, counts: NDArray, edges: NDArray) -> NDArray:
    """Sums (n,) of the `counts` (m,) of finite `values` (m,) between n + 1 equally spaced `edges`, as np.histogram."""
    n = len(edges) - 1
    sums = np.zeros(n, np.int64)
    low = edges[0]
    scale = n / (edges[n] - low)
    for i in range(len(values)):
        value = values[i]
        if not low <= value <= edges[n]:
            continue
        k = min(int((value - low) * scale), n - 1)
        if value < edges[k]:
            k -= 1
        elif k < n - 1 and value >= edges[k + 1]:
            k += 1
        sums[k] += counts[i]
    return sums


@numba.njit(nogil=True, cache=True)
def compute_haar_power(view: NDArray) -> NDArray:
    """Mean squares (h // 32, w // 32) of the finest diagonal Haar coefficients in blocks of 32 px of `view` (h, w)."""
    h = view.shape[0] // 32
    w = view.shape[1] // 32
    power = np.zeros((h, w), np.float64)
    for y in range(16 * h):
        for k in range(w):
            total = np.float32(0)
            for x in range(32 * k, 32 * k + 32, 2):
                diagonal = view[2 * y, x] - view[2 * y, x + 1] - view[2 * y + 1, x] + view[2 * y + 1, x + 1]
                total += diagonal * diagonal
            power[y // 16, k] += total
    return power / np.float64(4 * 256)
