"""Laplacian of Gaussian by numba: bit for bit that of scipy.ndimage with float64 sums, faster with float32 ones.

Every pixel's sum is taken in scipy's order, so results do not depend on the processor, on tiles, or on strips.
"""

import functools

import numba
import numpy as np
from scipy import ndimage

from emqa_dask.backend import use_wide_vectors

use_wide_vectors()
# Size of a tile: few columns beside those of its rim, and rows that a processor's second cache holds for short kernels.
ROWS = 128
COLUMNS = 1024


def compute_laplacian(
    image: np.ndarray, smooth: np.ndarray, second: np.ndarray, factor: float, out: np.ndarray | None = None
) -> np.ndarray:
    """-factor times the sum of both second derivatives of a smoothed `image` (h, w; float32 or float64), of its dtype.

    `smooth` and `second` are halves of symmetric kernels, outermost tap first, centre last, of one length; sums are
    taken in their dtype and rounded to the image's after each direction. Edges are reflected (d c b a | a b c d).
    `out`, of the image's shape and dtype, receives the result when given: fresh memory costs as much as a short kernel.
    """
    n = len(smooth) - 1
    rows, columns = (reflect_indices(size, n) for size in image.shape)
    out = np.empty(image.shape, image.dtype) if out is None else out
    # One type for numba, which would compile once more for arrays that are read-only.
    image = np.require(image, requirements=["C", "W"])
    _filter_laplace(image, smooth, second, rows, columns, image.dtype.type(factor), out)
    return out


def gaussian_laplace(image: np.ndarray, sigma: np.floating, out: np.ndarray | None = None) -> np.ndarray:
    """-sigma^2 times `scipy.ndimage.gaussian_laplace(image, sigma)`, to the last bit, for float32 and float64 images.

    `sigma` is a numpy scalar: scipy rounds sigma^2 to its dtype. Where scipy was built with fused multiply-adds (other
    processors than x86) and rounds otherwise, scipy itself is called.
    """
    if not is_rounded_as_scipy():
        return _filter_as_scipy(image, sigma)
    smooth, second = _make_kernel_halves(sigma)
    return compute_laplacian(image, smooth, second, sigma**2, out)


@functools.lru_cache(maxsize=256)
def reflect_indices(size: int, n: int) -> np.ndarray:
    """Indices of `size` pixels with n reflected ones before and after; np.pad takes as long as a coarse scale."""
    return np.pad(np.arange(size), n, mode="symmetric")


@functools.cache
def is_rounded_as_scipy() -> bool:
    """Whether compute_laplacian() gives the bits of this machine's scipy; tested on a small image."""
    image = np.random.default_rng(0).random((24, 40), np.float32)
    sigma = np.float32(3.3)
    smooth, second = _make_kernel_halves(sigma)
    return np.array_equal(compute_laplacian(image, smooth, second, sigma**2), _filter_as_scipy(image, sigma))


def _filter_as_scipy(image: np.ndarray, sigma: np.floating) -> np.ndarray:
    return -ndimage.gaussian_laplace(image, sigma) * float(sigma**2)


def _make_kernel_halves(sigma: np.floating) -> list[np.ndarray]:
    """Halves of scipy's kernels of orders 0 and 2: the response to a single bright pixel."""
    radius = int(4 * float(sigma) + 0.5)
    pixel = np.zeros(2 * radius + 1)
    pixel[radius] = 1
    return [ndimage.gaussian_filter1d(pixel, sigma, order=k, mode="constant")[: radius + 1] for k in (0, 2)]


@numba.njit(nogil=True, cache=True)
def _filter_laplace(image, smooth, second, rows, columns, factor, out):
    height, width = image.shape
    n = len(smooth) - 1
    tile = np.empty((ROWS + 2 * n, COLUMNS + 2 * n), smooth.dtype)
    smoothed = np.empty(COLUMNS + 2 * n, smooth.dtype)
    derived = np.empty(COLUMNS + 2 * n, smooth.dtype)
    smoothed_sums = np.empty(COLUMNS, smooth.dtype)
    derived_sums = np.empty(COLUMNS, smooth.dtype)
    for x0 in range(0, width, COLUMNS):
        n_columns = min(COLUMNS, width - x0)
        for y0 in range(0, height, ROWS):
            n_rows = min(ROWS, height - y0)
            for i in range(n_rows + 2 * n):
                _copy_line(image[rows[y0 + i]], columns, x0, n, tile[i, : n_columns + 2 * n])
            for i in range(n_rows):
                _filter_along_y(tile, i, smooth, second, smoothed[: n_columns + 2 * n], derived[: n_columns + 2 * n])
                _round_as(image, smoothed)
                _round_as(image, derived)
                _filter_along_x(smoothed[: n_columns + 2 * n], second, smoothed_sums[:n_columns])
                _filter_along_x(derived[: n_columns + 2 * n], smooth, derived_sums[:n_columns])
                line = out[y0 + i, x0 : x0 + n_columns]
                for x in range(n_columns):
                    # Rounded one by one and then added, as scipy does.
                    laplacian = image.dtype.type(derived_sums[x]) + image.dtype.type(smoothed_sums[x])
                    line[x] = -laplacian * factor


@numba.njit(nogil=True, cache=True)
def _copy_line(line, columns, x0, n, target):
    """Fill `target` with the pixels of `line` from x0 - n on; `columns` reflects it at its ends."""
    first = x0 - n
    if first >= 0 and first + len(target) <= len(line):
        pixels = line[first : first + len(target)]
        for x in range(len(target)):
            target[x] = pixels[x]
    else:
        for x in range(len(target)):
            target[x] = line[columns[x0 + x]]


@numba.njit(nogil=True, cache=True)
def _round_as(image, line):
    """Round the values of `line` to the dtype of `image`."""
    for x in range(len(line)):
        line[x] = image.dtype.type(line[x])


@numba.njit(nogil=True, cache=True)
def _filter_along_y(rows, first, w, v, to_w, to_v):
    """Fill `to_w` and `to_v` with the sums of 2 n + 1 rows under two kernels: three taps a pass, in scipy's order."""
    n = len(w) - 1
    last = first + 2 * n
    width = len(to_w)
    middle = rows[first + n]
    for x in range(width):
        to_w[x] = middle[x] * w[n]
        to_v[x] = middle[x] * v[n]
    k = 0
    while k + 3 <= n:
        a0 = rows[first + k]
        a1 = rows[first + k + 1]
        a2 = rows[first + k + 2]
        b0 = rows[last - k]
        b1 = rows[last - k - 1]
        b2 = rows[last - k - 2]
        w0 = w[k]
        w1 = w[k + 1]
        w2 = w[k + 2]
        v0 = v[k]
        v1 = v[k + 1]
        v2 = v[k + 2]
        for x in range(width):
            p0 = a0[x] + b0[x]
            p1 = a1[x] + b1[x]
            p2 = a2[x] + b2[x]
            to_w[x] = to_w[x] + p0 * w0 + p1 * w1 + p2 * w2
            to_v[x] = to_v[x] + p0 * v0 + p1 * v1 + p2 * v2
        k += 3
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
def _filter_along_x(line, w, sums):
    """Fill `sums` with those of a line, n values longer at each end, under one kernel, in the same order."""
    n = len(w) - 1
    last = 2 * n
    width = len(sums)
    middle = line[n : n + width]
    for x in range(width):
        sums[x] = middle[x] * w[n]
    k = 0
    while k + 3 <= n:
        a0 = line[k : k + width]
        a1 = line[k + 1 :]
        a2 = line[k + 2 :]
        b0 = line[last - k :]
        b1 = line[last - k - 1 :]
        b2 = line[last - k - 2 :]
        w0 = w[k]
        w1 = w[k + 1]
        w2 = w[k + 2]
        for x in range(width):
            sums[x] = sums[x] + (a0[x] + b0[x]) * w0 + (a1[x] + b1[x]) * w1 + (a2[x] + b2[x]) * w2
        k += 3
    while k < n:
        a0 = line[k:]
        b0 = line[last - k :]
        w0 = w[k]
        for x in range(width):
            sums[x] += (a0[x] + b0[x]) * w0
        k += 1
