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


@numba.njit(nogil=True, cache=True)
def sample_excess(image: NDArray, step: int) -> NDArray:
    """What every `step`-th pixel of `image` (h, w) is above the highest of its eight neighbours, from (2, 2) on.

    The outer two rows and columns are left out.
    """
    h, w = image.shape
    line = np.empty(w - 4, image.dtype)
    sample = np.empty(((h - 5) // step + 1, (w - 5) // step + 1), image.dtype)
    for k in range(len(sample)):
        _compute_excess(image, 2 + k * step, line)
        sample[k] = line[::step]
    return sample


@numba.njit(nogil=True, cache=True)
def find_peaks(image: NDArray, limit: np.float32, n_most: int) -> NDArray:
    """The first `n_most` pixels (n, 2: y, x) of `image` (h, w) that are over `limit` above their eight neighbours.

    The outer two rows and columns are left out.
    """
    h, w = image.shape
    line = np.empty(w - 4, image.dtype)
    peaks = np.empty((n_most, 2), np.int64)
    n = 0
    for y in range(2, h - 2):
        _compute_excess(image, y, line)
        n_in_line = 0
        for x in range(len(line)):
            n_in_line += line[x] > limit
        if n_in_line == 0:  # as in most rows
            continue
        for x in range(len(line)):
            if line[x] > limit and n < n_most:
                peaks[n, 0] = y
                peaks[n, 1] = x + 2
                n += 1
    return peaks[:n].copy()


@numba.njit(nogil=True, cache=True)
def _compute_excess(image: NDArray, y: int, line: NDArray) -> None:
    """Fill `line` (w - 4) with what the pixels of row `y` of `image` (h, w) are above their highest neighbour."""
    row_above = image[y - 1]
    row = image[y]
    row_below = image[y + 1]
    for x in range(len(line)):
        highest = max(max(max(row_above[x + 1], row_above[x + 2]), max(row_above[x + 3], row[x + 1])), row[x + 3])
        highest = max(highest, max(max(row_below[x + 1], row_below[x + 2]), row_below[x + 3]))
        line[x] = row[x + 2] - highest


@numba.njit(nogil=True, cache=True)
def flatten_tile(
    tile: NDArray,
    low: np.float32,
    unit: np.float32,
    floor: np.float32,
    ceiling: np.float32,
    ramp: NDArray,
    window: NDArray,
    out: NDArray,
) -> None:
    """Fill `out` with `tile` (t, t), `low` at 0 and in units, clipped, without its plane, and times `window`.

    `ramp` (t,) rises from -1 to 1.
    """
    t = len(tile)
    column_sums = np.zeros(t)
    column_slopes = np.zeros(t)
    for y in range(t):
        source = tile[y]
        line = out[y]
        for x in range(t):
            value = min(max((source[x] - low) * unit, floor), ceiling)
            line[x] = value
            column_sums[x] += value
            column_slopes[x] += value * ramp[y]
    ramp_power = t * np.sum(ramp * ramp)
    slope_y = np.float32(column_slopes.sum() / ramp_power)
    slope_x = np.float32((column_sums * ramp).sum() / ramp_power)
    mean = np.float32(column_sums.sum() / (t * t))
    for y in range(t):
        line = out[y]
        window_line = window[y]
        for x in range(t):
            line[x] = (line[x] - mean - (slope_y * ramp[y] + slope_x * ramp[x])) * window_line[x]


@numba.njit(nogil=True, cache=True)
def add_packed_power(packed: NDArray, power: NDArray) -> None:
    """Add to `power` (t, t // 2 + 1) the squared magnitudes of the transform that cv2.dft() packs into (t, t)."""
    t = len(packed)
    half = t // 2
    for y in range(t):
        line = packed[y]
        target = power[y]
        for x in range(1, half):
            target[x] += line[2 * x - 1] * line[2 * x - 1] + line[2 * x] * line[2 * x]
    for column, x in ((0, 0), (t - 1, half)):  # of those without a partner the half is stored, down the rows
        power[0, x] += packed[0, column] ** 2
        power[half, x] += packed[t - 1, column] ** 2
        for y in range(1, half):
            value = packed[2 * y - 1, column] ** 2 + packed[2 * y, column] ** 2
            power[y, x] += value
            power[t - y, x] += value
