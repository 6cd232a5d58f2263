"""Prior knowledge of a lattice image from a TOML file: columns per nm^2, their spacing, the projected cell."""

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emqa_dask.tune.cells import (
    complete_basis,
    compute_cell_matrix,
    compute_cell_vectors,
    compute_distances,
    compute_reduction,
    merge_columns,
)

FORM_KEYS = {
    "cell": {"a_nm", "b_nm", "gamma_deg", "columns", "columns_per_cell"},
    "crystal": {"a_nm", "b_nm", "c_nm", "alpha_deg", "beta_deg", "gamma_deg", "atoms", "zone_axis"},
    "spacings": {"spacings_nm", "angle_deg", "columns_per_cell"},
    "density": {"count_per_um2"},
}
Vectors = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class LatticePhysics:
    """What physics predicts of the objects in an image."""

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
            return float(compute_distances(np.array(self.vectors_nm) * shrink, np.zeros((1, 2)))[:, :4].sum())
        return float(compute_distances(np.array(self.vectors_nm), np.array(self.basis))[:, :4].sum(axis=1).min())


def compute_expected_count(physics: LatticePhysics, shape: tuple[int, int], pixel_side_nm: float) -> float:
    """Columns in a field of view of `shape` px: its area times the density, not rounded.

    `pixel_side_nm` is the side of a square pixel, or of the square with a pixel's area. Raises ValueError where it is
    not a positive number.
    """
    return physics.columns_per_nm2 * shape[0] * shape[1] * check_pixel_size(pixel_side_nm) ** 2


def check_pixel_size(nm_per_pixel: float) -> float:
    """`nm_per_pixel`; ValueError with the remedy unless it is a positive number."""
    if not (math.isfinite(nm_per_pixel) and nm_per_pixel > 0):
        raise ValueError(
            f"nm_per_pixel is {nm_per_pixel}: a lattice needs the pixel size of the image; set "
            "archive.nm_per_pixel in the settings, or --nm-per-pixel"
        )
    return nm_per_pixel


def make_density_physics(count_per_um2: float) -> LatticePhysics:
    """Physics of objects with a known number per square micrometre; ValueError unless it is positive."""
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
    vectors = compute_cell_vectors(a_nm, b_nm, gamma_deg)
    if (columns is None) == (columns_per_cell is None):
        raise ValueError("a cell needs either columns = [[u, v], ...] or columns_per_cell = n")
    if columns_per_cell == 1:
        columns = [[0.0, 0.0]]
    if columns is not None:
        return _make_basis_physics(vectors, _check_table(columns, 2, "columns"))
    if columns_per_cell < 1:
        raise ValueError(f"columns_per_cell is {columns_per_cell}: it has to be at least 1")
    turn = compute_reduction(vectors)
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
    cell = compute_cell_matrix(lengths_nm, angles_deg)
    lattice = complete_basis(axis // np.gcd.reduce(axis))  # two translations and the shortest one along the axis
    sight_line = lattice[2] @ cell
    plane_axes = np.linalg.svd(sight_line[None])[2][1:]  # two unit vectors in the image plane
    vectors = lattice[:2] @ cell @ plane_axes.T
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
    keys = set(crystal if crystal is not None else values)
    if crystal is not None and len(values) > 1:
        raise ValueError(
            f"beside [crystal] there is {', '.join(sorted(set(values) - {'crystal'}))}: give one form only"
        )
    if surplus := sorted(keys - FORM_KEYS[form]):
        raise ValueError(f"unknown key {surplus[0]!r}; a {form} has {', '.join(sorted(FORM_KEYS[form]))}")
    optional = {"columns", "columns_per_cell"} if form == "cell" else set()
    if missing := sorted(FORM_KEYS[form] - keys - optional):
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
    turn = compute_reduction(vectors)
    vectors = turn @ vectors
    fractions = merge_columns(fractions @ np.linalg.inv(turn))
    spacing = compute_distances(vectors, fractions)[:, 0].min()
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
