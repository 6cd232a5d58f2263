"""What physics says about a lattice image: columns per nm^2, their spacing, the projected cell; from a TOML file."""

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

MERGE_TOLERANCE = 1e-3  # fractional coordinates closer than this are one column
FORM_KEYS = {
    "cell": {"a_nm", "b_nm", "gamma_deg", "columns", "columns_per_cell"},
    "crystal": {"a_nm", "b_nm", "c_nm", "alpha_deg", "beta_deg", "gamma_deg", "atoms", "zone_axis"},
    "spacings": {"spacings_nm", "angle_deg", "columns_per_cell"},
    "density": {"count_per_um2"},
}
Vectors = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class LatticePhysics:
    """What is known of the objects in view before an image is looked at."""

    columns_per_nm2: float  # atomic columns (or particles) per area
    spacing_nm: float = math.nan  # between nearest neighbours; NaN where only a density is known
    vectors_nm: Vectors | None = None  # the reduced projected cell, rows a and b as (y, x), in any orientation
    basis: tuple[tuple[float, float], ...] | None = None  # the cell's columns, fractions of a and b, in [0, 1)

    @property
    def four_nearest_nm(self) -> float:
        """Summed distance from a column to its four nearest neighbours, the least over the cell's columns, nm.

        Without a basis that of the cell's corners at this density; without a cell that of a square lattice.
        """
        if self.vectors_nm is None:
            return 4 / math.sqrt(self.columns_per_nm2)
        if self.basis is None:
            shrink = math.sqrt(1 / (self.columns_per_nm2 * abs(np.linalg.det(self.vectors_nm))))
            return float(_compute_distances(np.array(self.vectors_nm) * shrink, np.zeros((1, 2)))[:, :4].sum())
        return float(_compute_distances(np.array(self.vectors_nm), np.array(self.basis))[:, :4].sum(axis=1).min())


def compute_expected_count(physics: LatticePhysics, shape: tuple[int, int], nm_per_pixel: float) -> float:
    """Columns in a field of view of `shape` px: its area times the density, not rounded.

    Raises ValueError where `nm_per_pixel` is not a positive number.
    """
    return physics.columns_per_nm2 * shape[0] * shape[1] * check_pixel_size(nm_per_pixel) ** 2


def check_pixel_size(nm_per_pixel: float) -> float:
    """`nm_per_pixel`; ValueError with the remedy unless it is a positive number."""
    if not (math.isfinite(nm_per_pixel) and nm_per_pixel > 0):
        raise ValueError(
            f"nm_per_pixel is {nm_per_pixel}: a lattice without pixel size says nothing about an image; set "
            "archive.nm_per_pixel in the settings, or --nm-per-pixel"
        )
    return nm_per_pixel


def make_density_physics(count_per_um2: float) -> LatticePhysics:
    """Physics of objects of which only the number per square micrometre is known; ValueError unless positive."""
    if not (math.isfinite(count_per_um2) and count_per_um2 > 0):
        raise ValueError(f"count_per_um2 is {count_per_um2}: it has to be above 0")
    return LatticePhysics(columns_per_nm2=count_per_um2 / 1e6)


def make_cell_physics(
    a_nm: float,
    b_nm: float,
    gamma_deg: float,
    columns: ArrayLike | None = None,
    columns_per_cell: int | None = None,
) -> LatticePhysics:
    """Physics of a projected cell with sides `a_nm`, `b_nm`, `gamma_deg` between them.

    `columns` are the fractions (u, v) of the columns that the image shows (k x 2); where they are not known
    `columns_per_cell` is their number, and the spacing is NaN unless it is 1. Columns that coincide count once. Raises
    ValueError for sides or angles that make no cell, and unless exactly one of the two is given.
    """
    vectors = _compute_cell_vectors(a_nm, b_nm, gamma_deg)
    if (columns is None) == (columns_per_cell is None):
        raise ValueError("a cell needs either columns = [[u, v], ...] or columns_per_cell = n")
    if columns_per_cell == 1:
        columns = [[0.0, 0.0]]
    if columns is not None:
        return _make_basis_physics(vectors, _check_table(columns, 2, "columns"))
    if columns_per_cell < 1:
        raise ValueError(f"columns_per_cell is {columns_per_cell}: it has to be at least 1")
    turn = _compute_reduction(vectors)
    return LatticePhysics(
        columns_per_cell / abs(np.linalg.det(vectors)), math.nan, _convert_pairs(turn @ vectors), None
    )


def make_crystal_physics(
    lengths_nm: Sequence[float], angles_deg: Sequence[float], atoms: ArrayLike, zone_axis: Sequence[int]
) -> LatticePhysics:
    """Physics of a crystal seen along `zone_axis` [u, v, w]: atoms on one line of sight are one column.

    `lengths_nm` are a, b, c; `angles_deg` alpha, beta, gamma; `atoms` fractional coordinates (k x 3) of the atoms that
    the image shows (leave light ones out where the detector does not see them), all of the cell's, not only those of
    the asymmetric unit. Raises ValueError for cells that do not close and for a zone axis that is not three whole
    numbers, not all 0.
    """
    axis = np.asarray(zone_axis)
    if axis.shape != (3,) or axis.dtype.kind not in "iu" or not axis.any():
        raise ValueError(f"zone_axis is {list(zone_axis)}: three whole numbers [u, v, w], not all 0, are needed")
    cell = _compute_cell_matrix(lengths_nm, angles_deg)
    lattice = _complete_basis(axis // np.gcd.reduce(axis))  # two translations and the shortest one along the axis
    along = lattice[2] @ cell
    across = np.linalg.svd(along[None])[2][1:]  # two unit vectors in the image plane
    vectors = lattice[:2] @ cell @ across.T
    fractions = _check_table(atoms, 3, "atoms") @ np.linalg.inv(lattice)
    return _make_basis_physics(vectors, fractions[:, :2])


def read_lattice(path: str | Path) -> LatticePhysics:
    """Physics from a TOML file; ValueError names the file and what is wrong with it.

    One of four forms: a projected cell `a_nm, b_nm, gamma_deg` with `columns = [[u, v], ...]` or `columns_per_cell`; a
    table `[crystal]` with `a_nm, b_nm, c_nm, alpha_deg, beta_deg, gamma_deg, atoms, zone_axis`; `spacings_nm =
    [d1, d2]` and `angle_deg` with `columns_per_cell`; or `count_per_um2`. Spacings are distances between planes, as an
    image or its Fourier transform shows them, and the angle that between them.
    """
    try:
        with np.errstate(all="raise"):  # lengths beyond all reason overflow
            return _parse_lattice(tomllib.loads(Path(path).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such lattice file") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): give a lattice file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid TOML: {error}") from error
    except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError, np.linalg.LinAlgError) as error:
        raise ValueError(f"{path}: {error}") from error  # texts in the place of numbers end in errors of any kind


def _parse_lattice(values: dict) -> LatticePhysics:
    crystal = values.get("crystal")
    form = next((f for f, k in (("density", "count_per_um2"), ("spacings", "spacings_nm")) if k in values), "cell")
    form = "crystal" if crystal is not None else form
    given = set(crystal if crystal is not None else values)
    if crystal is not None and len(values) > 1:
        raise ValueError(
            f"beside [crystal] there is {', '.join(sorted(set(values) - {'crystal'}))}: give one form only"
        )
    if surplus := sorted(given - FORM_KEYS[form]):
        raise ValueError(f"unknown key {surplus[0]!r}; a {form} has {', '.join(sorted(FORM_KEYS[form]))}")
    optional = {"columns", "columns_per_cell"} if form == "cell" else set()
    if missing := sorted(FORM_KEYS[form] - given - optional):
        raise ValueError(f"{missing[0]} is missing; a {form} has {', '.join(sorted(FORM_KEYS[form]))}")
    if form == "density":
        return make_density_physics(values["count_per_um2"])
    if form == "crystal":
        lengths = [crystal[key] for key in ("a_nm", "b_nm", "c_nm")]
        angles = [crystal[key] for key in ("alpha_deg", "beta_deg", "gamma_deg")]
        return make_crystal_physics(lengths, angles, crystal["atoms"], crystal["zone_axis"])
    if form == "cell":
        return make_cell_physics(**values)
    spacings = values["spacings_nm"]
    angle = values["angle_deg"]
    if not (isinstance(spacings, list) and len(spacings) == 2 and 0 < angle < 180):
        raise ValueError(
            f"spacings_nm is {spacings} and angle_deg {angle}: two spacings and an angle in 0...180 needed"
        )
    # Planes d1 and d2 apart whose normals are `angle` apart: the sides run along the other set of planes.
    sine = math.sin(math.radians(angle))
    return make_cell_physics(spacings[0] / sine, spacings[1] / sine, 180 - angle, None, values["columns_per_cell"])


def _make_basis_physics(vectors: NDArray, fractions: NDArray) -> LatticePhysics:
    """Physics of a projected cell with columns at `fractions` (k x 2), coinciding ones merged, in reduced form."""
    turn = _compute_reduction(vectors)
    vectors = turn @ vectors
    fractions = _merge_columns(fractions @ np.linalg.inv(turn))
    spacing = _compute_distances(vectors, fractions)[:, 0].min()
    density = len(fractions) / abs(np.linalg.det(vectors))
    return LatticePhysics(float(density), float(spacing), _convert_pairs(vectors), _convert_pairs(fractions))


def _convert_pairs(array: NDArray) -> tuple:
    return tuple((float(y), float(x)) for y, x in array)


def _check_table(values: ArrayLike, width: int, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.ndim != 2 or array.shape[1] != width or len(array) == 0 or not np.isfinite(array).all():
        raise ValueError(
            f"{name} has shape {array.shape}: a list of at least one row of {width} finite numbers is needed"
        )
    return array


def _compute_cell_vectors(a: float, b: float, gamma_deg: float) -> NDArray[np.float64]:
    if not (0 < a < math.inf and 0 < b < math.inf and 0 < gamma_deg < 180):
        raise ValueError(f"a_nm {a}, b_nm {b}, gamma_deg {gamma_deg}: positive lengths and an angle in 0...180 needed")
    gamma = math.radians(gamma_deg)
    return np.array([[0.0, a], [b * math.sin(gamma), b * math.cos(gamma)]])


def _compute_cell_matrix(lengths: Sequence[float], angles_deg: Sequence[float]) -> NDArray[np.float64]:
    """Rows a, b, c in Cartesian coordinates (nm)."""
    cosines = np.cos(np.radians(np.asarray(angles_deg, np.float64)))
    sizes = np.asarray(lengths, np.float64)
    metric = np.array([[1, cosines[2], cosines[1]], [cosines[2], 1, cosines[0]], [cosines[1], cosines[0], 1]])
    if not ((sizes > 0).all() and np.isfinite(sizes).all() and (np.linalg.eigvalsh(metric) > 1e-9).all()):
        raise ValueError(f"lengths {sizes.tolist()} nm and angles {list(angles_deg)} degrees make no cell")
    return np.linalg.cholesky(metric) * sizes[:, None]


def _complete_basis(axis: NDArray[np.int64]) -> NDArray[np.int64]:
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


def _compute_reduction(vectors: NDArray) -> NDArray[np.int64]:
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


def _merge_columns(fractions: NDArray) -> NDArray[np.float64]:
    """Distinct rows of `fractions` (k x 2) modulo 1, in [0, 1), in order of appearance."""
    kept: list[NDArray] = []
    for row in fractions - np.floor(fractions + MERGE_TOLERANCE / 2):
        gaps = np.array([row - other for other in kept]).reshape(-1, 2)
        if not (abs(gaps - np.rint(gaps)) < MERGE_TOLERANCE).all(axis=1).any():
            kept.append(np.clip(row, 0, np.nextafter(1, 0)))
    return np.array(kept)


def _compute_distances(vectors: NDArray, fractions: NDArray) -> NDArray[np.float64]:
    """Distances from each column to the others, nearest first: k x many; the cell has to be reduced."""
    steps = np.stack(np.meshgrid(np.arange(-4, 5), np.arange(-4, 5), indexing="ij"), axis=-1).reshape(-1, 2)
    gaps = (fractions[None, :, None] - fractions[:, None, None] + steps) @ vectors
    lengths = np.sort(np.linalg.norm(gaps, axis=-1).reshape(len(fractions), -1), axis=1)
    return lengths[:, 1:]  # the first is the column itself
