"""Smoothing of an image and sampling of every second pixel, by numba."""

import numba
import numpy as np

from emqa_dask.detect.filters import COLUMNS, ROWS, reflect_indices


def halve(image: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """`image` (h, w; float32) under a smoothing kernel, at the centres of its 2 x 2 blocks: (h // 2, w // 2).

    `taps` (float32, an even number) are the half of the kernel along an axis that lies before such a centre, outermost
    first; the other half mirrors it. Edges are reflected as in compute_laplacian().
    """
    height, width = (size // 2 for size in image.shape)
    rows, columns = (reflect_indices(2 * n, len(taps)) for n in (height, width))
    out = np.empty((height, width), np.float32)
    _halve(np.require(image, requirements=["C", "W"]), taps, rows, columns, out)
    return out


@numba.njit(nogil=True, cache=True)
def _halve(image, taps, rows, columns, out):
    height, width = out.shape
    n = len(taps)
    tile = np.empty((2 * ROWS + 2 * n, COLUMNS), np.float32)
    even = np.empty(COLUMNS + n + 1, np.float32)
    odd = np.empty(COLUMNS + n + 1, np.float32)
    for x0 in range(0, width, COLUMNS):
        n_columns = min(COLUMNS, width - x0)
        for y0 in range(0, height, ROWS):
            n_rows = min(ROWS, height - y0)
            for i in range(2 * n_rows + 2 * n):
                _split_line(image[rows[2 * y0 + i]], columns, x0, n_columns + n, n, even, odd)
                _halve_line(even, odd, taps, tile[i, :n_columns])
            for i in range(n_rows):
                _halve_rows(tile, i, taps, out[y0 + i, x0 : x0 + n_columns])


@numba.njit(nogil=True, cache=True)
def _split_line(line, columns, x0, n_pairs, n, even, odd):
    """Fill `even` and `odd` with pairs of pixels of `line` from 2 x0 - n on; `columns` reflects it at its ends."""
    first = 2 * x0 - n
    last = first + 2 * n_pairs
    if first >= 0 and last <= len(line):
        pixels = line[first:last]
        for k in range(n_pairs):
            even[k] = pixels[2 * k]
            odd[k] = pixels[2 * k + 1]
    else:
        for k in range(n_pairs):
            even[k] = line[columns[2 * (x0 + k)]]
            odd[k] = line[columns[2 * (x0 + k) + 1]]


@numba.njit(nogil=True, cache=True)
def _halve_rows(tile, i, taps, target):
    """Fill `target` with the sums of rows of `tile` at equal distances from the middle of its row pair i."""
    n = len(taps)
    target[:] = 0
    for k in range(0, n, 2):
        a0 = tile[2 * i + 1 + k]
        b0 = tile[2 * (i + n) - k]
        w0 = taps[k]
        a1 = tile[2 * i + 2 + k]
        b1 = tile[2 * (i + n) - k - 1]
        w1 = taps[k + 1]
        for x in range(len(target)):
            target[x] += (a0[x] + b0[x]) * w0 + (a1[x] + b1[x]) * w1


@numba.njit(nogil=True, cache=True)
def _halve_line(even, odd, taps, target):
    """Fill `target` with sums of pixels at equal distances from the middle between pixels 2 j + n and 2 j + n + 1."""
    n = len(taps)
    width = len(target)
    target[:] = 0
    for k in range(0, n, 2):
        a0 = odd[k // 2 :]
        b0 = even[n - k // 2 :]
        w0 = taps[k]
        a1 = even[k // 2 + 1 :]
        b1 = odd[n - k // 2 - 1 :]
        w1 = taps[k + 1]
        for x in range(width):
            target[x] += (a0[x] + b0[x]) * w0 + (a1[x] + b1[x]) * w1
