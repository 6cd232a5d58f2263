"""Laplacian of Gaussian by numba: bit for bit that of scipy.ndimage with float64 sums, faster with float32 ones.

Every pixel's sum is taken in scipy's order, so results do not depend on the processor, on tiles, or on strips.
"""

import functools

import numba
import numpy as np
from scipy import ndimage

from emqa_dask.backend import use_wide_vectors

use_wide_vectors()
# Size of a tile: with the margins of the widest kernels it stays in a processor's second cache.
ROWS = 64
COLUMNS = 256


def compute_laplacian(
    image: np.ndarray, smooth: np.ndarray, second: np.ndarray, factor: float, out: np.ndarray | None = None
) -> np.ndarray:
    """-factor times the sum of both second derivatives of a smoothed `image` (h, w; float32 or float64), of its dtype.

    `smooth` and `second` are halves of symmetric kernels, outermost tap first, centre last, of one length; sums are
    taken in their dtype and rounded to the image's after each direction. Edges are reflected (d c b a | a b c d).
    `out`, of the image's shape and dtype, receives the result when given: fresh memory costs as much as a short kernel.
    """
    n = len(smooth) - 1
    rows, columns = (_reflect_indices(size, n) for size in image.shape)
    out = np.empty(image.shape, image.dtype) if out is None else out
    # One type for numba, which would compile once more for arrays that are read-only.
    image = np.require(image, requirements=["C", "W"])
    _laplace(image, smooth, second, rows, columns, image.dtype.type(factor), out)
    return out


def gaussian_laplace(image: np.ndarray, sigma: np.floating, out: np.ndarray | None = None) -> np.ndarray:
    """-sigma^2 times `scipy.ndimage.gaussian_laplace(image, sigma)`, to the last bit, for float32 and float64 images.

    `sigma` is a numpy scalar: scipy rounds sigma^2 to its dtype. Where scipy was built with fused multiply-adds (other
    processors than x86) and rounds otherwise, scipy itself is called.
    """
    if not is_rounded_as_scipy():
        return _gaussian_laplace_of_scipy(image, sigma)
    smooth, second = _halves(sigma)
    return compute_laplacian(image, smooth, second, sigma**2, out)


def halve(image: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """`image` (h, w; float32) under a smoothing kernel, at the centres of its 2 x 2 blocks: (h // 2, w // 2).

    `taps` (float32, an even number) are the half of the kernel along an axis that lies before such a centre, outermost
    first; the other half mirrors it. Edges are reflected as in compute_laplacian().
    """
    height, width = (size // 2 for size in image.shape)
    rows, columns = (_reflect_indices(2 * n, len(taps)) for n in (height, width))
    out = np.empty((height, width), np.float32)
    _halve(np.require(image, requirements=["C", "W"]), taps, rows, columns, out)
    return out


@functools.lru_cache(maxsize=256)
def _reflect_indices(size: int, n: int) -> np.ndarray:
    """Indices of `size` pixels with n reflected ones before and after; np.pad takes as long as a coarse scale."""
    return np.pad(np.arange(size), n, mode="symmetric")


@functools.cache
def is_rounded_as_scipy() -> bool:
    """Whether compute_laplacian() gives the bits of this machine's scipy; tested on a small image."""
    image = np.random.default_rng(0).random((24, 40), np.float32)
    sigma = np.float32(3.3)
    smooth, second = _halves(sigma)
    return np.array_equal(compute_laplacian(image, smooth, second, sigma**2), _gaussian_laplace_of_scipy(image, sigma))


def _gaussian_laplace_of_scipy(image: np.ndarray, sigma: np.floating) -> np.ndarray:
    return -ndimage.gaussian_laplace(image, sigma) * float(sigma**2)


def _halves(sigma: np.floating) -> list[np.ndarray]:
    """Halves of scipy's kernels of orders 0 and 2: the response to a single bright pixel."""
    radius = int(4 * float(sigma) + 0.5)
    pixel = np.zeros(2 * radius + 1)
    pixel[radius] = 1
    return [ndimage.gaussian_filter1d(pixel, sigma, order=k, mode="constant")[: radius + 1] for k in (0, 2)]


@numba.njit(nogil=True, cache=True)
def _laplace(image, smooth, second, rows, columns, factor, out):
    height, width = image.shape
    n = len(smooth) - 1
    tile = np.empty((ROWS + 2 * n, COLUMNS), smooth.dtype)
    sum_0 = np.empty(COLUMNS, smooth.dtype)
    sum_2 = np.empty(COLUMNS, smooth.dtype)
    smoothed = np.empty((ROWS, width), image.dtype)
    derived = np.empty((ROWS, width), image.dtype)
    line_0 = np.empty(width + 2 * n, smooth.dtype)
    line_2 = np.empty(width + 2 * n, smooth.dtype)
    for y0 in range(0, height, ROWS):
        n_rows = min(ROWS, height - y0)
        for x0 in range(0, width, COLUMNS):
            n_columns = min(COLUMNS, width - x0)
            for i in range(n_rows + 2 * n):
                source = image[rows[y0 + i], x0 : x0 + n_columns]
                target = tile[i]
                for x in range(n_columns):
                    target[x] = source[x]
            for i in range(n_rows):
                _along_y(tile, i, smooth, second, sum_0[:n_columns], sum_2[:n_columns])
                for x in range(n_columns):
                    smoothed[i, x0 + x] = sum_0[x]
                    derived[i, x0 + x] = sum_2[x]
        for i in range(n_rows):
            _reflect_line(smoothed[i], columns, n, line_0)
            _reflect_line(derived[i], columns, n, line_2)
            for x0 in range(0, width, COLUMNS):
                n_columns = min(COLUMNS, width - x0)
                _along_x(line_0[x0 : x0 + n_columns + 2 * n], second, sum_0[:n_columns])
                _along_x(line_2[x0 : x0 + n_columns + 2 * n], smooth, sum_2[:n_columns])
                for x in range(n_columns):
                    # Rounded one by one and then added, as scipy does.
                    both = image.dtype.type(sum_2[x]) + image.dtype.type(sum_0[x])
                    out[y0 + i, x0 + x] = -both * factor


@numba.njit(nogil=True, cache=True)
def _along_y(rows, first, w, v, to_w, to_v):
    """Fill `to_w` and `to_v` with the sums of 2 n + 1 rows under two kernels: four taps a pass, in scipy's order."""
    n = len(w) - 1
    last = first + 2 * n
    width = len(to_w)
    middle = rows[first + n]
    for x in range(width):
        to_w[x] = middle[x] * w[n]
        to_v[x] = middle[x] * v[n]
    k = 0
    while k + 4 <= n:
        a0 = rows[first + k]
        a1 = rows[first + k + 1]
        a2 = rows[first + k + 2]
        a3 = rows[first + k + 3]
        b0 = rows[last - k]
        b1 = rows[last - k - 1]
        b2 = rows[last - k - 2]
        b3 = rows[last - k - 3]
        w0 = w[k]
        w1 = w[k + 1]
        w2 = w[k + 2]
        w3 = w[k + 3]
        v0 = v[k]
        v1 = v[k + 1]
        v2 = v[k + 2]
        v3 = v[k + 3]
        for x in range(width):
            p0 = a0[x] + b0[x]
            p1 = a1[x] + b1[x]
            p2 = a2[x] + b2[x]
            p3 = a3[x] + b3[x]
            to_w[x] = to_w[x] + p0 * w0 + p1 * w1 + p2 * w2 + p3 * w3
            to_v[x] = to_v[x] + p0 * v0 + p1 * v1 + p2 * v2 + p3 * v3
        k += 4
    while k < n:
        a0 = rows[first + k]
        b0 = rows[last - k]
        w0 = w[k]
        v0 = v[k]
        for x in range(width):
            p0 = a0[x] + b0[x]
            to_w[x] += p0 * w0
            to_v[x] += p0 * v0
        k += 1


@numba.njit(nogil=True, cache=True)
def _reflect_line(values, columns, n, line):
    """Fill `line` with `values` and n reflected ones at each end."""
    width = len(values)
    inner = line[n : n + width]
    for x in range(width):
        inner[x] = values[x]
    for x in range(n):
        line[x] = values[columns[x]]
        line[n + width + x] = values[columns[n + width + x]]


@numba.njit(nogil=True, cache=True)
def _along_x(line, w, to):
    """Fill `to` with the sums of a line, n values longer at each end, under one kernel, in the same order."""
    n = len(w) - 1
    last = 2 * n
    width = len(to)
    middle = line[n : n + width]
    for x in range(width):
        to[x] = middle[x] * w[n]
    k = 0
    while k + 4 <= n:
        a0 = line[k : k + width]
        a1 = line[k + 1 :]
        a2 = line[k + 2 :]
        a3 = line[k + 3 :]
        b0 = line[last - k :]
        b1 = line[last - k - 1 :]
        b2 = line[last - k - 2 :]
        b3 = line[last - k - 3 :]
        w0 = w[k]
        w1 = w[k + 1]
        w2 = w[k + 2]
        w3 = w[k + 3]
        for x in range(width):
            to[x] = to[x] + (a0[x] + b0[x]) * w0 + (a1[x] + b1[x]) * w1 + (a2[x] + b2[x]) * w2 + (a3[x] + b3[x]) * w3
        k += 4
    while k < n:
        a0 = line[k:]
        b0 = line[last - k :]
        w0 = w[k]
        for x in range(width):
            to[x] += (a0[x] + b0[x]) * w0
        k += 1


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
        inner = line[first:last]
        for k in range(n_pairs):
            even[k] = inner[2 * k]
            odd[k] = inner[2 * k + 1]
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
def _halve_line(even, odd, taps, to):
    """Fill `to` with sums of pixels at equal distances from the middle between pixels 2 j + n and 2 j + n + 1."""
    n = len(taps)
    width = len(to)
    to[:] = 0
    for k in range(0, n, 2):
        a0 = odd[k // 2 :]
        b0 = even[n - k // 2 :]
        w0 = taps[k]
        a1 = even[k // 2 + 1 :]
        b1 = odd[n - k // 2 - 1 :]
        w1 = taps[k + 1]
        for x in range(width):
            to[x] += (a0[x] + b0[x]) * w0 + (a1[x] + b1[x]) * w1
