"""Runs of masks, by numba: found, measured, and read and written as COCO's run lengths, without a call per object.

Runs of an object are (r, 3) int64: line, start, stop, where lines are rows or columns. Those of object k of n are
`runs[offsets[k] : offsets[k + 1]]` (`offsets`: (n + 1,)); what measures and encodes takes lines that are columns.
"""

import numba
import numpy as np
from numpy.typing import NDArray

MAX_CHARACTERS = 7  # of a count in COCO's compressed RLE: 5 bits each, 32 bits and a sign
MAX_COORDINATE = 1 << 62  # half pixels: beyond every image


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


@numba.njit(nogil=True, cache=True)
def measure_objects(runs: NDArray, offsets: NDArray) -> NDArray:
    """Area, circularity and diameter (n, 3) of n masks; see masks.measure."""
    shapes = np.full((len(offsets) - 1, 3), np.nan)
    for k in range(len(shapes)):
        shapes[k, 0] = 0.0
        if offsets[k] < offsets[k + 1]:
            _measure_object(runs[offsets[k] : offsets[k + 1]], shapes[k])
    return shapes


@numba.njit(nogil=True, cache=True)
def _measure_object(runs: NDArray, shape: NDArray) -> None:
    x, y = _find_hull(runs)
    n = len(x)
    y_centre, x_centre = y.mean(), x.mean()
    double_area = 0
    perimeter = 0.0
    nearest = np.inf
    farthest = 0.0
    for i in range(n):
        j = (i + 1) % n
        double_area += x[i] * y[j] - x[j] * y[i]
        perimeter += np.hypot(float(x[i] - x[j]), float(y[i] - y[j]))
        distance = np.hypot(x[i] - x_centre, y[i] - y_centre)
        nearest = min(nearest, distance)
        farthest = max(farthest, distance)
    # Corners are in half pixels.
    shape[0] = (runs[:, 2] - runs[:, 1]).sum()
    shape[1] = perimeter / 2 / (2 * np.sqrt(np.pi * abs(double_area) / 8))
    shape[2] = np.sqrt(nearest * farthest)


@numba.njit(nogil=True, cache=True)
def _find_hull(runs: NDArray) -> tuple[NDArray, NDArray]:
    """Corners x, y of the convex hull of a mask, in half pixels from its first column: whole numbers.

    A pixel reaches half a pixel up, down, left and right. Columns are half pixels wide, so that the hull needs the
    lowest and the highest point of each alone (Andrew's monotone chain).
    """
    left = runs[0, 0]
    n = 2 * (runs[-1, 0] - left) + 3
    low = np.full(n, MAX_COORDINATE)
    high = np.full(n, -MAX_COORDINATE)
    for i in range(len(runs)):
        x = 2 * (runs[i, 0] - left) + 1
        start, stop = 2 * runs[i, 1], 2 * runs[i, 2] - 2
        low[x] = min(low[x], start - 1)
        high[x] = max(high[x], stop + 1)
        for side in (x - 1, x + 1):
            low[side] = min(low[side], start)
            high[side] = max(high[side], stop)
    columns = np.flatnonzero(low <= high)
    corners = np.empty((2 * len(columns) + 1, 2), np.int64)
    m = _add_chain(corners, 0, columns, low)
    is_point = low[columns[-1]] == high[columns[-1]]  # the last corner of the lower side begins the upper one
    m = _add_chain(corners, m - is_point, columns[::-1], high)
    if m > 1 and corners[m - 1, 0] == corners[0, 0] and corners[m - 1, 1] == corners[0, 1]:
        m -= 1
    return corners[:m, 0].copy(), corners[:m, 1].copy()


@numba.njit(nogil=True, cache=True)
def _add_chain(corners: NDArray, first: int, columns: NDArray, edge: NDArray) -> int:
    """Add the corners of one side of a hull at `first`; returns the number of corners after it."""
    m = first
    for x in columns:
        y = edge[x]
        while m >= first + 2 and _turn(corners[m - 2], corners[m - 1], x, y) <= 0:
            m -= 1
        corners[m, 0] = x
        corners[m, 1] = y
        m += 1
    return m


@numba.njit(nogil=True, cache=True)
def _turn(a: NDArray, b: NDArray, x: int, y: int) -> int:
    """Positive where the way from `a` over `b` to (x, y) turns as the hull does, 0 where it is straight."""
    return (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])


@numba.njit(nogil=True, cache=True)
def encode_objects(runs: NDArray, offsets: NDArray, height: int, n_pixels: int) -> tuple[NDArray, NDArray]:
    """COCO's compressed counts (uint8, ascii) of n masks in images of `height` rows, and where each one ends (n,)."""
    text = np.empty(MAX_CHARACTERS * (2 * len(runs) + len(offsets)), np.uint8)
    ends = np.empty(len(offsets) - 1, np.int64)
    counts = np.empty(2 * len(runs) + 1, np.int64)
    m = 0
    for k in range(len(ends)):
        n = _count_lengths(runs[offsets[k] : offsets[k + 1]], height, n_pixels, counts)
        for i in range(n):
            m = _append_count(text, m, counts[i] - (counts[i - 2] if i > 2 else 0))
        ends[k] = m
    return text[:m], ends


@numba.njit(nogil=True, cache=True)
def _count_lengths(runs: NDArray, height: int, n_pixels: int, counts: NDArray) -> int:
    """Fill `counts` with the lengths of the stretches of 0 and 1, in turn, down the columns; returns their number."""
    n = 0
    end = 0
    for i in range(len(runs)):
        start = runs[i, 0] * height + runs[i, 1]
        stop = runs[i, 0] * height + runs[i, 2]
        if n and start == end:  # a run that reaches the last row goes on in the next column's first
            counts[n - 1] += stop - start
        else:
            counts[n] = start - end
            counts[n + 1] = stop - start
            n += 2
        end = stop
    if end < n_pixels:
        counts[n] = n_pixels - end
        n += 1
    return n


@numba.njit(nogil=True, cache=True)
def _append_count(text: NDArray, m: int, value: int) -> int:
    """Write a count, or a difference of two, as characters of 5 bits from `m` on; returns where they end."""
    while True:
        bits = value & 0x1F
        value >>= 5
        is_last = value == (-1 if bits & 0x10 else 0)
        text[m] = 48 + (bits if is_last else bits | 0x20)
        m += 1
        if is_last:
            return m


@numba.njit(nogil=True, cache=True)
def decode_objects(text: NDArray, ends: NDArray, heights: NDArray) -> tuple[NDArray, NDArray]:
    """Runs down the columns, and offsets, of n masks whose compressed counts `text` (uint8, ascii) holds.

    `ends` (n,): where the counts of each one end. `heights` (n,): rows of its image. The text has to be valid.
    """
    offsets = np.zeros(len(ends) + 1, np.int64)
    runs = np.empty((0, 3), np.int64)
    for is_filled in (False, True):
        start = 0
        m = 0
        for k in range(len(ends)):
            m = _decode_object(text[start : ends[k]], heights[k], runs, m, is_filled)
            offsets[k + 1] = m
            start = ends[k]
        if not is_filled:
            runs = np.empty((m, 3), np.int64)
    return runs, offsets


@numba.njit(nogil=True, cache=True)
def _decode_object(text: NDArray, height: int, runs: NDArray, m: int, is_filled: bool) -> int:
    """Write the runs of one mask from `m` on, if `is_filled`; returns where they end."""
    lengths = np.zeros(3, np.int64)  # of the last stretches
    n = 0
    position = 0
    value = 0
    shift = 0
    for i in range(len(text)):
        bits = int(text[i]) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        length = value + (lengths[(n - 2) % 3] if n > 2 else 0)
        lengths[n % 3] = length
        stop = position + length
        while n % 2 and position < stop:  # one piece per column
            column = position // height
            end = min(stop, (column + 1) * height)
            if is_filled:
                runs[m, 0] = column
                runs[m, 1] = position - column * height
                runs[m, 2] = end - column * height
            m += 1
            position = end
        position = stop
        n += 1
        value = 0
        shift = 0
    return m


def draw_runs(runs: NDArray[np.int64]) -> tuple[int, int, NDArray[np.bool_]]:
    """First row, first column and pixels (h, w; bool) of the runs (r, 3) of an object with at least one."""
    y0 = int(runs[:, 1].min())
    x0 = int(runs[0, 0])
    pixels = np.zeros((int(runs[:, 2].max()) - y0, int(runs[-1, 0]) - x0 + 1), bool)
    for column, start, stop in runs.tolist():
        pixels[start - y0 : stop - y0, column - x0] = True
    return y0, x0, pixels
