"""F1 of a detector over imaging conditions (dose, signed defocus, pixel size): a smooth surface as plain numbers.

DaCosta and Scott ask how a model's performance changes with the imaging conditions. Only their abstract is known to us:
the surface is our own construct. predict/surface_fit.py fits it, and a model's card holds it.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

LOGARITHMIC = ("dose_e_per_nm2", "nm_per_pixel")  # conditions of which ratios count; of the defocus, differences count
CARD_TABLE = "conditions"  # of a model's card
DOSE_FACTOR = 2.0  # of which triage says what it would give
_ROWS_AT_ONCE = 4096


class ResponseSurface(NamedTuple):
    """F1 as the mean of a Gaussian process over the points of a grid of conditions."""

    axes: dict[str, NDArray[np.float64]]  # condition -> its values on the grid, ascending
    lengths: NDArray[np.float64]  # (d,), of the kernel exp(-r^2 / 2), in the units of scale_conditions()
    weights: NDArray[np.float64]  # (n,), of the points of the grid, the last condition first
    mean: float

    @property
    def points(self) -> NDArray[np.float64]:
        """All conditions of the grid (n, d), in the order of `weights`."""
        return list_grid_points(self.axes)


def list_grid_points(axes: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
    """All combinations (n, d) of the values of `axes`; the last one changes fastest."""
    grids = np.meshgrid(*(np.asarray(values, float) for values in axes.values()), indexing="ij")
    return np.stack([grid.ravel() for grid in grids], axis=1)


def scale_conditions(axes: Mapping[str, NDArray], points: ArrayLike) -> NDArray[np.float64]:
    """Conditions (n, d) in units of the grid's standard deviation along each axis; logarithms of some."""
    values = np.asarray(points, float)
    scaled = np.empty_like(values)
    for column, (name, ticks) in enumerate(axes.items()):
        ticks = np.log(ticks) if name in LOGARITHMIC else np.asarray(ticks, float)
        with np.errstate(divide="ignore", invalid="ignore"):
            raw = np.log(values[:, column]) if name in LOGARITHMIC else values[:, column]
        scaled[:, column] = (raw - ticks.mean()) / ticks.std()
    return scaled


def evaluate_surface(surface: ResponseSurface, points: ArrayLike) -> NDArray[np.float64]:
    """F1 (n,) at conditions (n, d), in [0, 1]; NaN for unknown conditions and outside the grid.

    A smooth surface says nothing beyond the conditions that were tried, so nothing is extrapolated.
    """
    values = np.asarray(points, float).reshape(-1, len(surface.axes))
    is_inside = np.ones(len(values), bool)
    for column, ticks in enumerate(surface.axes.values()):
        tolerance = 1e-9 * (ticks[-1] - ticks[0])  # of conversions between units
        is_inside &= (values[:, column] >= ticks[0] - tolerance) & (values[:, column] <= ticks[-1] + tolerance)
    f1 = np.full(len(values), np.nan)
    grid = scale_conditions(surface.axes, surface.points) / surface.lengths
    rows = np.flatnonzero(is_inside)
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        chunk = rows[first : first + _ROWS_AT_ONCE]
        scaled = scale_conditions(surface.axes, values[chunk]) / surface.lengths
        squares = ((scaled[:, None] - grid[None]) ** 2).sum(axis=2)
        f1[chunk] = np.clip(surface.mean + np.exp(-0.5 * squares) @ surface.weights, 0, 1)
    return f1


def find_best_conditions(surface: ResponseSurface) -> tuple[dict[str, float], float]:
    """The conditions of the grid with the highest F1, and that F1."""
    points = surface.points
    f1 = evaluate_surface(surface, points)
    best = int(f1.argmax())
    return dict(zip(surface.axes, points[best].tolist())), float(f1[best])


def predict_f1_at_doses(surface: ResponseSurface, images: pd.DataFrame, dose_factors: ArrayLike) -> NDArray[np.float64]:
    """F1 (n, k) of n images at k multiples of their dose; NaN where the surface does not say it.

    images: dose_e_per_nm2, nm_per_pixel, stated_defocus_nm (signed) and defocus_nm (from Thon rings, a magnitude). The
    stated defocus counts where it is known. Of a magnitude, the mean of both signs counts.
    """
    stated_nm = images["stated_defocus_nm"].to_numpy(float)
    magnitude_nm = np.abs(images["defocus_nm"].to_numpy(float))
    results = []
    for factor in np.asarray(dose_factors, float):
        columns = {"dose_e_per_nm2": images["dose_e_per_nm2"].to_numpy(float) * factor}
        columns["nm_per_pixel"] = images["nm_per_pixel"].to_numpy(float)
        by_sign = []
        for sign in (-1, 1):
            columns["defocus_nm"] = np.where(np.isnan(stated_nm), sign * magnitude_nm, stated_nm)
            by_sign.append(evaluate_surface(surface, np.stack([columns[name] for name in surface.axes], axis=1)))
        results.append(np.mean(by_sign, axis=0))
    return np.stack(results, axis=1)


def make_card_table(surface: ResponseSurface, **facts: object) -> dict:
    """The table of a model's card, under CARD_TABLE; `facts` say what it was made from."""
    best, f1 = find_best_conditions(surface)
    return {
        CARD_TABLE: {
            **facts,
            "best_f1": f1,
            "mean": surface.mean,
            "lengths": surface.lengths.tolist(),
            "weights": surface.weights.tolist(),
            "axes": {name: values.tolist() for name, values in surface.axes.items()},
            "best": best,
        }
    }


def read_response_surface(model_card: Mapping) -> ResponseSurface | None:
    """The surface on a model's card; None where it has none. Raises ValueError for one that is incomplete."""
    if CARD_TABLE not in model_card:
        return None
    table = model_card[CARD_TABLE]
    try:
        axes = {str(name): np.array(values, float) for name, values in table["axes"].items()}
        arrays = (np.array(table["lengths"], float), np.array(table["weights"], float))
        surface = ResponseSurface(axes, *arrays, float(table["mean"]))
        is_whole = len(surface.lengths) == len(axes) and len(surface.weights) == len(surface.points)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"the card's table [{CARD_TABLE}] is incomplete: {error!r}") from error
    if not is_whole:
        raise ValueError(
            f"the card's table [{CARD_TABLE}] is incomplete: axes, lengths and weights do not fit together"
        )
    return surface
