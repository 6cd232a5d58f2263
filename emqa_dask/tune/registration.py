"""Residual of points from the perfect lattice that fits them best, after rotation, shift and mirroring."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from emqa_dask.tune.lattice import LatticePhysics, check_pixel_size

N_START_POINTS = 150  # points around the centre that the fit starts from: further out a small rotation is a large shift
PHASE_STEP = 0.2  # of a period: largest shift of the furthest of them by one step of the rotation


def compute_lattice_rms(points: NDArray, physics: LatticePhysics) -> float:
    """Root mean square distance of `points` (n x 2; y, x; nm) to the nearest site of the best lattice, in spacings.

    The lattice is `physics.vectors_nm` with its basis (one column at the corners without), turned, shifted, mirrored,
    strained a little by least squares. A perfect lattice gives 0; random points about 0.38 of the
    mean distance between sites. Fewer than 4 points give NaN. Raises ValueError where physics has no cell.
    """
    if physics.vectors_nm is None:
        raise ValueError("lattice_residual needs a cell: the lattice file gives a density only")
    if len(points) < 4:
        return math.nan
    vectors = np.array(physics.vectors_nm)
    basis = np.array(physics.basis or ((0.0, 0.0),))
    points = points - points.mean(axis=0)
    fits = [_fit_residual(points, vectors * mirror, basis) for mirror in ((1.0, 1.0), (1.0, -1.0))]
    return min(fits) / compute_spacing_nm(physics)


def compute_spacing_nm(physics: LatticePhysics) -> float:
    """Distance between nearest neighbours, nm; that of a square lattice of this density where it is unknown."""
    return physics.spacing_nm if physics.spacing_nm > 0 else 1 / math.sqrt(physics.columns_per_nm2)


def compute_spacing_px(physics: LatticePhysics, nm_per_pixel: float) -> float:
    """Distance between nearest neighbours, px; ValueError where `nm_per_pixel` is not a positive number."""
    return compute_spacing_nm(physics) / check_pixel_size(nm_per_pixel)


def _fit_residual(points: NDArray, vectors: NDArray, basis: NDArray) -> float:
    """Residual after the best rotation, the best offset, and least squares over ever more points."""
    order = np.argsort((points**2).sum(axis=1), kind="stable")
    vectors = vectors @ _make_rotation(_find_orientation(points[order[:N_START_POINTS]], vectors, basis))
    offset = _find_offset(points[order[:N_START_POINTS]], vectors, basis)
    count = min(30, len(points))
    while True:
        inner_points = points[order[:count]]
        for _ in range(3):
            vectors, offset = _refine_lattice(inner_points, vectors, offset, basis)
        if count == len(points):
            gaps = inner_points - _find_nearest_sites(inner_points, vectors, offset, basis)[0] @ vectors - offset
            return float(np.sqrt((gaps**2).sum(axis=1).mean()))
        count = min(2 * count, len(points))


def _make_rotation(angle: float) -> NDArray:
    return np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])


def _compute_structure_factors(basis: NDArray) -> tuple[NDArray, NDArray]:
    """The low orders (h, k) of a cell and the structure factors of its basis there, mean over the columns."""
    hk = np.array([(h, k) for h in range(-2, 3) for k in range(-2, 3) if (h, k) > (0, 0)])
    return hk, np.exp(2j * np.pi * hk @ basis.T).mean(axis=1)


def _find_orientation(points: NDArray, vectors: NDArray, basis: NDArray) -> float:
    """The rotation (radians) at which the points' structure factors match those of the basis best.

    Four of the shortest reciprocal vectors that the basis does not forbid are enough, and their phases change least.
    """
    hk, factors = _compute_structure_factors(basis)
    reciprocal = hk @ np.linalg.inv(vectors).T
    weight = abs(factors)
    keep = np.argsort(np.where(weight > 0.3, np.linalg.norm(reciprocal, axis=1), np.inf), kind="stable")[:4]
    reciprocal = reciprocal[keep]
    weight = weight[keep]
    reach = np.linalg.norm(points, axis=1).max() * np.linalg.norm(reciprocal, axis=1).max()
    angles = np.arange(0, np.pi, PHASE_STEP / max(reach, PHASE_STEP))
    turned = np.einsum("gi,aij->agj", reciprocal, np.array([_make_rotation(angle) for angle in angles]))
    amplitudes = abs(np.exp(2j * np.pi * turned @ points.T).mean(axis=2))
    return float(angles[int((amplitudes * weight).sum(axis=1).argmax())])


def _find_offset(points: NDArray, vectors: NDArray, basis: NDArray) -> NDArray:
    """The shift that gives the points' structure factors the phases of the basis: the best of a grid."""
    hk, factors = _compute_structure_factors(basis)
    point_factors = np.exp(2j * np.pi * (points @ np.linalg.inv(vectors)) @ hk.T).mean(axis=0)
    steps = np.arange(48) / 48
    trial = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    match = (np.exp(-2j * np.pi * trial @ hk.T) * (point_factors * factors.conj())).real.sum(axis=1)
    return trial[int(match.argmax())] @ vectors


def _find_nearest_sites(points, vectors, offset, basis) -> tuple[NDArray, NDArray]:
    """The site of the lattice nearest to each point, in fractions of the cell (n x 2), and its distance."""
    cells = (points - offset) @ np.linalg.inv(vectors)
    corners = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)])
    sites = (basis[:, None] + corners).reshape(-1, 2)
    whole = np.floor(cells)
    distance, index = cKDTree(sites @ vectors).query((cells - whole) @ vectors)
    return whole + sites[index], distance


def _refine_lattice(points, vectors, offset, basis) -> tuple[NDArray, NDArray]:
    """Cell and offset from a linear fit of the sites nearest to `points`."""
    sites, distance = _find_nearest_sites(points, vectors, offset, basis)
    is_near_site = distance <= max(np.median(distance) * 2.5, 1e-9)  # an interstitial must not pull the lattice
    design = np.column_stack([sites, np.ones(len(sites))])[is_near_site]
    if np.linalg.matrix_rank(design) < 3:
        return vectors, offset
    solved = np.linalg.lstsq(design, points[is_near_site], rcond=None)[0]
    strain = np.linalg.inv(vectors) @ solved[:2] - np.eye(2)
    return (solved[:2], solved[2]) if abs(strain).max() < 0.1 else (vectors, offset)
