"""Pruning of overlapping blobs: the largest first, or with the result of scikit-image (its order of visits)."""

import math

import numba
import numpy as np
from scipy.spatial import cKDTree

from emqa_dask.detect.set_order import order_as_set

MAX_DISK_PAIRS = 10_000_000  # of disks near each other that prune_as_skimage() compares: about 0.5 GB
SEAM_OVERLAP = 0.5  # shared area from which disks of different searches are one object


def count_affordable(y: np.ndarray, x: np.ndarray, sigma: np.ndarray, limit: int = MAX_DISK_PAIRS) -> int:
    """Number of blobs, from the first, that have at most `limit` pairs near each other: n, or n/2, or n/4, ..."""
    n = len(sigma)
    while n > 1 and _bound_pairs(y[:n], x[:n], _compute_max_reach(sigma[:n])) > limit:
        tree = cKDTree(np.column_stack([y[:n], x[:n]]))
        if (tree.count_neighbors(tree, _compute_max_reach(sigma[:n])) - n) // 2 <= limit:
            break
        n //= 2
    return n


def _bound_pairs(y: np.ndarray, x: np.ndarray, reach: float) -> int:
    """Upper bound of the number of pairs within `reach`, from counts on a grid of that mesh: cheaper than counting."""
    row, column = (((axis - axis.min()) // reach).astype(np.int64) + 1 for axis in (y, x))
    if (row.max() + 2) * (column.max() + 2) > 10 * len(y) + 100:
        return len(y) * (len(y) - 1) // 2
    counts = np.zeros((row.max() + 2, column.max() + 2))
    np.add.at(counts, (row, column), 1)
    neighbour_counts = sum(np.roll(counts, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
    return int((counts * neighbour_counts).sum() - len(y)) // 2


def _compute_max_reach(sigma: np.ndarray) -> float:
    """The distance within which scikit-image compares two disks."""
    return 2 * sigma.max() * math.sqrt(2)


def prune_largest_first(
    y: np.ndarray,
    x: np.ndarray,
    sigma: np.ndarray,
    overlap: float | np.ndarray,
    search: np.ndarray | None = None,
) -> np.ndarray:
    """Mask of the blobs to keep: those that share at most `overlap` of their area with each larger blob that is kept.

    Blobs may come from several searches, each with its own `overlap` (n,): `search` (n,) has the number of each blob's.
    Two blobs of different searches share at most the smaller overlap, and at most `SEAM_OVERLAP`.

    Disks have radius sqrt(2) sigma; y, x, sigma are in px; of two equal disks the first is removed, as in
    `prune_as_skimage`. The result does not depend on an order of visits, and memory does not grow with the number of
    pairs. All but a few in a thousand of the blobs that scikit-image keeps are kept, and in addition those whose only
    larger neighbours were removed themselves. No blobs give an empty array.
    """
    if len(sigma) == 0:
        return np.zeros(0, bool)
    y, x, sigma = (np.ascontiguousarray(part, np.float64) for part in (y, x, sigma))
    order = np.lexsort((-np.arange(len(sigma)), -sigma))
    height, width = np.ptp(y), np.ptp(x)
    cell = max(2 * math.sqrt(2) * sigma.mean(), math.sqrt(height * width / (4 * len(y))), (height + width) / 10_000)
    limits = np.full(len(sigma), overlap, np.float64)
    searches = np.zeros(len(sigma), np.int64) if search is None else np.asarray(search, np.int64)
    return _prune_largest_first(y - y.min(), x - x.min(), sigma, order, limits, searches, cell)


@numba.njit(nogil=True, cache=True)
def _prune_largest_first(y, x, sigma, order, overlap, search, cell):
    """Mask of the disks that stay; `order` holds the largest first, `cell` is the mesh of a grid of neighbours."""
    n = len(y)
    n_rows = int(y.max() / cell) + 1
    n_columns = int(x.max() / cell) + 1
    starts, members = _sort_into_cells(y, x, cell, n_rows, n_columns)
    is_kept = np.ones(n, np.bool_)
    rank = np.empty(n, np.int64)
    rank[order] = np.arange(n)
    for i in order:
        if not is_kept[i]:
            continue
        reach = 2 * math.sqrt(2) * sigma[i]
        top = max(int((y[i] - reach) / cell), 0)
        bottom = min(int((y[i] + reach) / cell), n_rows - 1)
        first_column = max(int((x[i] - reach) / cell), 0)
        last_column = min(int((x[i] + reach) / cell), n_columns - 1)
        for row in range(top, bottom + 1):
            for m in range(starts[row * n_columns + first_column], starts[row * n_columns + last_column + 1]):
                j = members[m]
                if is_kept[j] and rank[j] > rank[i]:
                    limit = min(overlap[i], overlap[j], SEAM_OVERLAP) if search[i] != search[j] else overlap[j]
                    is_kept[j] = _is_separate(y, x, sigma, i, j, limit)
    return is_kept


@numba.njit(nogil=True, cache=True)
def _sort_into_cells(y, x, cell, n_rows, n_columns):
    """First entry of each cell of a grid in `members`, and these: the indices of the points, cell by cell."""
    n = len(y)
    starts = np.zeros(n_rows * n_columns + 1, np.int64)
    home = np.empty(n, np.int64)
    for i in range(n):
        home[i] = int(y[i] / cell) * n_columns + int(x[i] / cell)
        starts[home[i] + 1] += 1
    for k in range(n_rows * n_columns):
        starts[k + 1] += starts[k]
    members = np.empty(n, np.int64)
    filled = starts[:-1].copy()
    for i in range(n):
        members[filled[home[i]]] = i
        filled[home[i]] += 1
    return starts, members


@numba.njit(nogil=True, cache=True)
def _is_separate(y, x, sigma, i, j, overlap):
    """Whether disk j shares at most `overlap` of its area with disk i, which is no smaller."""
    d2 = (y[i] - y[j]) ** 2 + (x[i] - x[j]) ** 2
    if d2 >= 2 * (sigma[i] + sigma[j]) ** 2:
        return True
    root = math.sqrt(2)
    return _compute_shared_fraction(math.sqrt(d2), root * sigma[i], root * sigma[j]) <= overlap


@numba.njit(nogil=True, cache=True)
def _compute_shared_fraction(d, r1, r2):
    """Area that two disks share, over that of the second, smaller one; d, the distance, is less than r1 + r2."""
    if d <= r1 - r2:
        return 1.0
    a = math.acos(min(max((d * d + r1 * r1 - r2 * r2) / (2 * d * r1), -1.0), 1.0))
    b = math.acos(min(max((d * d + r2 * r2 - r1 * r1) / (2 * d * r2), -1.0), 1.0))
    product = max((r1 + r2 - d) * (d + r2 - r1) * (d - r2 + r1) * (d + r1 + r2), 0.0)
    return (r1 * r1 * a + r2 * r2 * b - 0.5 * math.sqrt(product)) / (math.pi * r2 * r2)


def compute_shared_fractions(distance: np.ndarray, radius_a: np.ndarray, radius_b: np.ndarray) -> np.ndarray:
    """Area that two disks share, over that of the smaller one; all (n,), px."""
    larger = np.maximum(radius_a, radius_b)
    smaller = np.minimum(radius_a, radius_b)
    fraction = np.where(distance <= larger - smaller, 1.0, 0.0)
    lens = np.flatnonzero((distance > larger - smaller) & (distance < larger + smaller))
    fraction[lens] = _compute_lens_fraction(distance[lens], larger[lens], smaller[lens])
    return fraction


def prune_as_skimage(y: np.ndarray, x: np.ndarray, sigma: np.ndarray, overlap: float) -> np.ndarray:
    """Mask of the blobs to keep: of two disks that share over `overlap` of the smaller one, the smaller is removed.

    Disks have radius sqrt(2) sigma; y, x, sigma are in px, of one float dtype, in which the overlap is computed; of
    two equal disks the first is removed. A removed disk removes no other, so the result depends on the order in which
    pairs are visited. scikit-image (`skimage.feature.blob._prune_blobs`) visits them in the order of a Python
    set of tuples; that order is reproduced here, since otherwise chains of overlapping blobs would end differently.
    No blobs give an empty array.
    """
    if len(sigma) == 0:
        return np.zeros(0, bool)
    tree = cKDTree(np.column_stack([y, x]))
    pairs = tree.query_pairs(_compute_max_reach(sigma), output_type="ndarray")
    close_pairs = _find_touching(pairs, y, x, sigma)
    close_pairs = close_pairs[_is_over(y, x, sigma, pairs[close_pairs], overlap)]
    if len(close_pairs) == 0:
        return np.ones(len(sigma), bool)
    is_over = np.zeros(len(pairs), bool)
    is_over[close_pairs] = True
    order = order_as_set(pairs)
    return _remove_smaller(pairs, order[is_over[order]], sigma)


@numba.njit(cache=True)
def _find_touching(pairs, y, x, sigma):
    """Indices of the pairs whose disks may share area, with a margin for rounding."""
    close_pairs = np.empty(len(pairs), np.int64)
    n = 0
    for p in range(len(pairs)):
        i = pairs[p, 0]
        j = pairs[p, 1]
        if (y[i] - y[j]) ** 2 + (x[i] - x[j]) ** 2 <= 2.001 * (sigma[i] + sigma[j]) ** 2:
            close_pairs[n] = p
            n += 1
    return close_pairs[:n]


def _is_over(y: np.ndarray, x: np.ndarray, sigma: np.ndarray, pairs: np.ndarray, overlap: float) -> np.ndarray:
    """Whether each pair's disks share over `overlap` of the smaller one, in steps that round as scikit-image's."""
    s1 = sigma[pairs[:, 0]]
    s2 = sigma[pairs[:, 1]]
    s_max = np.maximum(s1, s2)
    r1 = s1 / s_max
    r2 = s2 / s_max
    # Positions are scaled before they are subtracted: the same rounding as there, and ties depend on it.
    unit = s_max * math.sqrt(2)
    dy = y[pairs[:, 1]] / unit - y[pairs[:, 0]] / unit
    dx = x[pairs[:, 1]] / unit - x[pairs[:, 0]] / unit
    d = np.sqrt(dy**2 + dx**2)
    is_inside = d <= abs(r1 - r2)
    is_over = is_inside & (overlap < 1)
    lens = np.flatnonzero(~is_inside & (d <= r1 + r2))
    is_over[lens] = _compute_lens_fraction(d[lens], r1[lens], r2[lens]) > overlap
    return is_over


def _compute_lens_fraction(d: np.ndarray, r1: np.ndarray, r2: np.ndarray) -> np.ndarray:
    """Area of the lens that two crossing disks share, over the smaller disk's area."""
    dtype = d.dtype
    half_angle_1 = np.arccos(np.clip((d**2 + r1**2 - r2**2) / (2 * d * r1), -1, 1).astype(np.float64)).astype(dtype)
    half_angle_2 = np.arccos(np.clip((d**2 + r2**2 - r1**2) / (2 * d * r2), -1, 1).astype(np.float64)).astype(dtype)
    product = abs((-d + r2 + r1) * (d - r2 + r1) * (d + r2 - r1) * (d + r2 + r1)).astype(np.float64)
    area = r1**2 * half_angle_1 + r2**2 * half_angle_2 - (0.5 * np.sqrt(product)).astype(dtype)
    return area / (math.pi * np.minimum(r1, r2) ** 2)


@numba.njit(cache=True)
def _remove_smaller(pairs, order, sigma):
    """Mask of the disks that stay when of each pair, in `order`, the smaller one is removed."""
    alive = np.ones(len(sigma), np.bool_)
    for p in order:
        i = pairs[p, 0]
        j = pairs[p, 1]
        if alive[i] and alive[j]:
            if sigma[i] > sigma[j]:
                alive[j] = False
            else:
                alive[i] = False
    return alive
