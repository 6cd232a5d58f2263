"""Loops over landmarks (see featurise.landmarks), compiled: which of two images agree, and by which scale and shift."""

import math

import numba
import numpy as np
from numpy.typing import NDArray

from emqa_dask.triage.sign_correlation import _count_ones

MAX_DIFFERENT_BITS = 9  # of 48, between landmarks that may be the same; 5 % differ in two versions of a frame
SIGN_SHIFT = np.uint64(48)  # bits above are brightness and scale
BRIGHTNESS = np.uint64(1 << 48)
DESCRIPTION = np.uint64((1 << 48) - 1)
MIN_BASELINE = 8.0  # distance, in sigmas, of two landmarks that a scale is measured with
MAX_SCALE_OCTAVES = 0.35  # between the scale of positions and that of the landmarks' own sizes
TOLERANCE = 1.5  # sigmas between a landmark and where the other image has it
OTHER_SHIFT = 4.0  # sigmas between shifts that are not the same


@numba.njit(cache=True)
def is_close(code_i, code_j) -> bool:
    """Whether two landmarks have the same brightness and nearly the same description."""
    different = code_i ^ code_j
    return (different & BRIGHTNESS) == 0 and _count_ones(different & DESCRIPTION) <= MAX_DIFFERENT_BITS


@numba.njit(cache=True)
def list_close_neighbours(keys: NDArray, codes: NDArray, images: NDArray, shift: int, reach: int) -> NDArray:
    """(m,) uint64, a << 32 | b, of images a < b with close landmarks up to `reach` apart in one bucket.

    keys (n,) uint64 are sorted; landmarks are in one bucket where their keys agree but for the last `shift` bits.
    """
    n = len(keys)
    hits = np.empty(max(n, 1), np.uint64)
    n_hits = 0
    for i in range(n):
        bucket = keys[i] >> np.uint64(shift)
        for j in range(i + 1, min(i + 1 + reach, n)):
            if keys[j] >> np.uint64(shift) != bucket:
                break
            if images[i] == images[j] or not is_close(codes[i], codes[j]):
                continue
            if n_hits == len(hits):
                larger = np.empty(2 * n_hits, np.uint64)
                larger[:n_hits] = hits
                hits = larger
            a = np.uint64(min(images[i], images[j]))
            b = np.uint64(max(images[i], images[j]))
            hits[n_hits] = a << np.uint64(32) | b
            n_hits += 1
    return hits[:n_hits]


@numba.njit(cache=True)
def fit_similarity(codes_a, places_a, codes_b, places_b) -> tuple[int, int, float, float, float]:
    """(n_agreeing, n_next, scale, shift_y, shift_x) of the best map position_b = scale * position_a + shift.

    codes (n,) uint64, and places (n, 3) of y, x and sigma in px; landmarks with the code 0 are none. n_agreeing:
    landmarks of a that the map brings to a close one of b. n_next: the same for the best map with another shift; of a
    lattice it is nearly as large. No two close landmarks give zeros.
    """
    i, j = _list_close_pairs(codes_a, codes_b)
    best = (0, 0.0, 0.0, 0.0)
    for p in range(len(i)):
        for q in range(p):
            scale, shift_y, shift_x = _solve_pair(places_a[i[p]], places_a[i[q]], places_b[j[p]], places_b[j[q]])
            if scale > 0:
                n = _count_agreeing(i, j, places_a, places_b, scale, shift_y, shift_x)
                if n > best[0]:
                    best = (n, scale, shift_y, shift_x)
    best = _refine_map(i, j, places_a, places_b, best)
    n_next = 0
    for p in range(len(i)):
        for q in range(p):
            scale, shift_y, shift_x = _solve_pair(places_a[i[p]], places_a[i[q]], places_b[j[p]], places_b[j[q]])
            if scale > 0:
                y = (scale - best[1]) * places_a[i[p], 0] + shift_y - best[2]
                x = (scale - best[1]) * places_a[i[p], 1] + shift_x - best[3]
                if math.hypot(y, x) > OTHER_SHIFT * places_b[j[p], 2]:
                    n_next = max(n_next, _count_agreeing(i, j, places_a, places_b, scale, shift_y, shift_x))
    return best[0], n_next, best[1], best[2], best[3]


@numba.njit(cache=True)
def count_same_places(codes_a, places_a, codes_b, places_b) -> int:
    """Landmarks of a that have a close one of b at their own place; arguments as those of fit_similarity()."""
    i, j = _list_close_pairs(codes_a, codes_b)
    return _count_agreeing(i, j, places_a, places_b, 1.0, 0.0, 0.0)


@numba.njit(cache=True)
def _list_close_pairs(codes_a, codes_b):
    """Numbers (m,) and (m,) of close landmarks, sorted by the first."""
    i = np.empty(len(codes_a) * len(codes_b), np.int64)
    j = np.empty_like(i)
    n = 0
    for k in range(len(codes_a)):
        for m in range(len(codes_b)):
            if codes_a[k] != 0 and codes_b[m] != 0 and is_close(codes_a[k], codes_b[m]):
                i[n] = k
                j[n] = m
                n += 1
    return i[:n], j[:n]


@numba.njit(cache=True)
def _solve_pair(a1, a2, b1, b2) -> tuple[float, float, float]:
    """Scale and shifts that bring two landmarks of a to two of b; scale 0 where none do."""
    step_ay = a1[0] - a2[0]
    step_ax = a1[1] - a2[1]
    step_by = b1[0] - b2[0]
    step_bx = b1[1] - b2[1]
    square = step_ay * step_ay + step_ax * step_ax
    if square < (MIN_BASELINE * a1[2]) ** 2:
        return 0.0, 0.0, 0.0
    scale = (step_ay * step_by + step_ax * step_bx) / square
    if scale <= 0 or abs(math.log2(b1[2] / (a1[2] * scale))) > MAX_SCALE_OCTAVES:
        return 0.0, 0.0, 0.0
    if math.hypot(scale * step_ay - step_by, scale * step_ax - step_bx) > 2 * b1[2]:
        return 0.0, 0.0, 0.0
    shift_y = (b1[0] + b2[0] - scale * (a1[0] + a2[0])) / 2
    shift_x = (b1[1] + b2[1] - scale * (a1[1] + a2[1])) / 2
    return scale, shift_y, shift_x


@numba.njit(cache=True)
def _refine_map(i, j, places_a, places_b, best):
    """`best` (n_agreeing, scale, shift_y, shift_x) fitted to all landmarks that agree by it, in least squares."""
    n = 0.0
    means = np.zeros(4)
    products = np.zeros(2)
    for k in range(len(i)):
        a = places_a[i[k]]
        b = places_b[j[k]]
        if _is_agreeing(a, b, best[1], best[2], best[3]):
            n += 1
            means += (np.array([a[0], a[1], b[0], b[1]]) - means) / n
            products += np.array([a[0] * b[0] + a[1] * b[1], a[0] ** 2 + a[1] ** 2])
    spread = products[1] - n * (means[0] ** 2 + means[1] ** 2)
    if n < 3 or spread <= 0:
        return best
    scale = (products[0] - n * (means[0] * means[2] + means[1] * means[3])) / spread
    return best[0], scale, means[2] - scale * means[0], means[3] - scale * means[1]


@numba.njit(cache=True)
def _is_agreeing(a, b, scale, shift_y, shift_x) -> bool:
    """Whether the map brings the place `a` to the place `b`."""
    return math.hypot(scale * a[0] + shift_y - b[0], scale * a[1] + shift_x - b[1]) < TOLERANCE * b[2]


@numba.njit(cache=True)
def _count_agreeing(i, j, places_a, places_b, scale, shift_y, shift_x) -> int:
    n = 0
    last = -1
    for k in range(len(i)):
        if i[k] != last and _is_agreeing(places_a[i[k]], places_b[j[k]], scale, shift_y, shift_x):
            n += 1
            last = i[k]
    return n
