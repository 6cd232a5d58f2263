"""Tiles of an image that each get the best of the candidate settings: a map of settings."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from emqa_dask.tune import pareto


class Tile(NamedTuple):
    """A rectangular part of an image, half-open, px."""

    y0: int
    x0: int
    y1: int
    x1: int


def place_tiles(shape: tuple[int, int], size_px: int, step_px: int) -> list[Tile]:
    """Tiles of `size_px`, `step_px` apart, that cover an image of `shape`, row by row; the last ones end at the edge.

    A side shorter than `size_px` is one tile; an empty image has none. Raises ValueError unless
    1 <= step_px <= size_px: a larger step would leave gaps.
    """
    if not 1 <= step_px <= size_px:
        raise ValueError(f"step_px is {step_px} and size_px {size_px}: 1 <= step_px <= size_px leaves no gap")
    if 0 in shape:
        return []
    starts = [_compute_starts(side, size_px, step_px) for side in shape]
    return [Tile(y, x, min(y + size_px, shape[0]), min(x + size_px, shape[1])) for y in starts[0] for x in starts[1]]


def _compute_starts(side: int, size: int, step: int) -> list[int]:
    last = max(side - size, 0)
    return [*range(0, last, step), last]


def tune_tiles(
    tiles: Sequence[Tile],
    candidates: Sequence[dict],
    evaluate_tile: Callable[[Tile, list[dict]], ArrayLike],
    objectives: Sequence[str],
    distance: str = "euclidean",
    min_range: ArrayLike = 0.0,
) -> pd.DataFrame:
    """The best of `candidates` (settings) in each of `tiles`: rows y0, x0, y1, x1, the settings, the objectives.

    `evaluate_tile(tile, settings)` gives the objectives (k, m; minimised) of each of the settings in that tile. With
    detections of the whole image kept per setting it only has to count inside, see `select_points`. The choice is the
    Pareto front's nearest to the ideal (`pareto.select_nearest_to_ideal`). Where no setting has finite objectives the
    settings are NaN: the tile has nothing to tune on. No tiles give an empty table with all columns.
    """
    candidates = list(candidates)
    names = list(candidates[0]) if candidates else []
    rows = []
    for tile in tiles:
        values = np.asarray(evaluate_tile(tile, candidates), np.float64).reshape(len(candidates), len(objectives))
        if not np.isfinite(values).all(axis=1).any():
            settings = dict.fromkeys(names, math.nan)
            best_values = np.full(len(objectives), np.nan)
        else:
            best_index = pareto.select_nearest_to_ideal(values, distance, min_range)
            settings = candidates[best_index]
            best_values = values[best_index]
        rows.append(tile._asdict() | settings | dict(zip(objectives, best_values)))
    return pd.DataFrame(rows, columns=[*Tile._fields, *names, *objectives])


def select_points(points: pd.DataFrame, tile: Tile) -> pd.DataFrame:
    """The points whose centre (y_px, x_px) lies in `tile`, in the tile's coordinates, also their boxes."""
    y = points["y_px"]
    x = points["x_px"]
    # Pixel centres are integers: pixel y0 begins at y0 - 0.5.
    is_in_tile = (y >= tile.y0 - 0.5) & (y < tile.y1 - 0.5) & (x >= tile.x0 - 0.5) & (x < tile.x1 - 0.5)
    offsets = {"y_px": tile.y0, "y0": tile.y0, "y1": tile.y0, "x_px": tile.x0, "x0": tile.x0, "x1": tile.x0}
    return points[is_in_tile].assign(
        **{name: points[name][is_in_tile] - offset for name, offset in offsets.items() if name in points}
    )


def find_nearest_tile(table: pd.DataFrame, y: ArrayLike, x: ArrayLike) -> NDArray[np.int64]:
    """The row of `table` (a map of tiles) whose centre is nearest to each place: int64 (n,); -1 without tiles.

    Points detected with a tile's settings are kept where that tile is the nearest, so that overlapping tiles count no
    point twice. Ties go to the earlier row.
    """
    y = np.atleast_1d(np.asarray(y, np.float64))
    x = np.atleast_1d(np.asarray(x, np.float64))
    if len(table) == 0:
        return np.full(y.shape, -1, np.int64)
    centres = table[["y0", "x0"]].to_numpy(np.float64) / 2 + table[["y1", "x1"]].to_numpy(np.float64) / 2 - 0.5
    return ((y[:, None] - centres[:, 0]) ** 2 + (x[:, None] - centres[:, 1]) ** 2).argmin(axis=1)
