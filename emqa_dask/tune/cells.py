"""Geometry of projected and crystal cells: vectors, reduction, distances between columns."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MERGE_TOLERANCE = 1e-3  # fractional coordinates closer than this are one column


def compute_cell_vectors(a: float, b: float, gamma_deg: float) -> NDArray[np.float64]:
    """Rows a and b (y, x; nm) of a projected cell; ValueError for sides or an angle that make no cell."""
    if not (0 < a < math.inf and 0 < b < math.inf and 0 < gamma_deg < 180):
        raise ValueError(f"a_nm {a}, b_nm {b}, gamma_deg {gamma_deg}: positive lengths and an angle in 0...180 needed")
    gamma = math.radians(gamma_deg)
    return np.array([[0.0, a], [b * math.sin(gamma), b * math.cos(gamma)]])


def compute_cell_matrix(lengths: Sequence[float], angles_deg: Sequence[float]) -> NDArray[np.float64]:
    """Rows a, b, c in Cartesian coordinates (nm)."""
    cosines = np.cos(np.radians(np.asarray(angles_deg, np.float64)))
    sizes = np.asarray(lengths, np.float64)
    metric = np.array([[1, cosines[2], cosines[1]], [cosines[2], 1, cosines[0]], [cosines[1], cosines[0], 1]])
    if not ((sizes > 0).all() and np.isfinite(sizes).all() and (np.linalg.eigvalsh(metric) > 1e-9).all()):
        raise ValueError(f"lengths {sizes.tolist()} nm and angles {list(angles_deg)} degrees make no cell")
    return np.linalg.cholesky(metric) * sizes[:, None]


def complete_basis(axis: NDArray[np.int64]) -> NDArray[np.int64]:
    """Three whole-number rows of determinant +-1, the last of them `axis` (whose greatest common divisor is 1).

    Euclid's algorithm on columns: unimodular steps turn the axis into (0, 0, +-1); the same steps undone, row by row,
    turn the unit vectors into the basis.
    """
    rest = axis.astype(np.int64).copy()
    basis = np.eye(3, dtype=np.int64)
    while np.count_nonzero(rest) > 1:
        order = np.argsort(np.where(rest == 0, np.iinfo(np.int64).max, abs(rest)), kind="stable")
        small = order[0]
        large = next(k for k in order[1:] if rest[k])
        times = rest[large] // rest[small]
        rest[large] -= times * rest[small]
        basis[small] += times * basis[large]
    last = int(np.flatnonzero(rest)[0])
    others = [k for k in range(3) if k != last]
    return np.stack([basis[others[0]], basis[others[1]], rest[last] * basis[last]])


def compute_reduction(vectors: NDArray) -> NDArray[np.int64]:
    """Whole numbers T (2 x 2, determinant +-1): the rows of T @ vectors are the cell's shortest (Gauss, 1801)."""
    turn = np.eye(2, dtype=np.int64)
    for _ in range(1000):
        a, b = turn @ vectors
        if a @ a > b @ b * (1 + 1e-12):
            turn = turn[::-1]
            continue
        times = round(float(a @ b / (a @ a)))
        if times == 0 or abs(a @ b) <= 0.5 * (a @ a) * (1 + 1e-12):
            return turn
        turn = np.stack([turn[0], turn[1] - times * turn[0]])
    raise ValueError(f"the cell {vectors.tolist()} cannot be reduced: its two vectors are almost parallel")


def merge_columns(fractions: NDArray) -> NDArray[np.float64]:
    """Distinct rows of `fractions` (k x 2) modulo 1, in [0, 1), in order of appearance."""
    distinct: list[NDArray] = []
    for row in fractions - np.floor(fractions + MERGE_TOLERANCE / 2):
        gaps = np.array([row - other for other in distinct]).reshape(-1, 2)
        if not (abs(gaps - np.rint(gaps)) < MERGE_TOLERANCE).all(axis=1).any():
            distinct.append(np.clip(row, 0, np.nextafter(1, 0)))
    return np.array(distinct)


def compute_distances(vectors: NDArray, fractions: NDArray) -> NDArray[np.float64]:
    """Distances from each column to the others, nearest first: k x many; the cell has to be reduced."""
    steps = np.stack(np.meshgrid(np.arange(-4, 5), np.arange(-4, 5), indexing="ij"), axis=-1).reshape(-1, 2)
    gaps = (fractions[None, :, None] - fractions[:, None, None] + steps) @ vectors
    lengths = np.sort(np.linalg.norm(gaps, axis=-1).reshape(len(fractions), -1), axis=1)
    return lengths[:, 1:]  # the first is the column itself
