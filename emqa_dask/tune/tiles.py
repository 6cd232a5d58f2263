"""Settings of their own for every part of an image: sliding windows, a search in each, a map of what it chose."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from emqa_dask.tune import pareto


class Tile(NamedTuple):
    """A part of an image, half-open, px."""

    y0: int
    x0: int
    y1: int
    x1: int


def place_tiles(shape: tuple[int, int], size_px: int, step_px: int) -> list[Tile]:
    """Windows of `size_px`, `step_px` apart, that cover an image of `shape`, row by row; those at the end lie flush.

    A side shorter than `size_px` is one window; an empty image has none. Raises ValueError unless
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
    parts: Sequence[Tile],
    candidates: Sequence[dict],
    evaluate_window: Callable[[Tile, list[dict]], ArrayLike],
    objectives: Sequence[str],
    distance: str = "euclidean",
    min_range: ArrayLike = 0.0,
) -> pd.DataFrame:
    """The best of `candidates` (settings) in each of `parts`: rows y0, x0, y1, x1, the settings, the objectives.

    `evaluate_window(window, settings)` gives the objectives (k, m; minimised) of each of the settings in that window.
    With detections of the whole image kept per setting it only has to count inside, see `inside`. The choice is the
    Pareto front's nearest to the ideal (`pareto.nearest_to_ideal`). Where no setting has finite objectives the settings
    are NaN: the window has nothing to tune on. No windows give an empty table with all columns.
    """
    candidates = list(candidates)
    names = list(candidates[0]) if candidates else []
    rows = []
    for part in parts:
        values = np.asarray(evaluate_window(part, candidates), np.float64).reshape(len(candidates), len(objectives))
        if not np.isfinite(values).all(axis=1).any():
            chosen = dict.fromkeys(names, math.nan)
            found = np.full(len(objectives), np.nan)
        else:
            best = pareto.select_nearest_to_ideal(values, distance, min_range)
            chosen = candidates[best]
            found = values[best]
        rows.append(part._asdict() | chosen | dict(zip(objectives, found)))
    return pd.DataFrame(rows, columns=[*Tile._fields, *names, *objectives])


def select_points(points: pd.DataFrame, window: Tile) -> pd.DataFrame:
    """The points whose centre (y_px, x_px) lies in `window`, in the window's own coordinates; so are their boxes."""
    y, x = points["y_px"], points["x_px"]
    # Pixel centres are integers: pixel y0 begins at y0 - 0.5.
    keep = (y >= window.y0 - 0.5) & (y < window.y1 - 0.5) & (x >= window.x0 - 0.5) & (x < window.x1 - 0.5)
    moved = {"y_px": window.y0, "y0": window.y0, "y1": window.y0, "x_px": window.x0, "x0": window.x0, "x1": window.x0}
    return points[keep].assign(**{name: points[name][keep] - by for name, by in moved.items() if name in points})


def find_nearest_tile(table: pd.DataFrame, y: ArrayLike, x: ArrayLike) -> NDArray[np.int64]:
    """The row of `table` (a map of windows) whose centre is nearest to each place: int64 (n,); -1 without windows.

    Points detected with each window's settings are kept where that window owns them, so that overlapping windows count
    nothing twice. Ties go to the earlier row.
    """
    y, x = np.atleast_1d(np.asarray(y, np.float64)), np.atleast_1d(np.asarray(x, np.float64))
    if len(table) == 0:
        return np.full(y.shape, -1, np.int64)
    centres = table[["y0", "x0"]].to_numpy(np.float64) / 2 + table[["y1", "x1"]].to_numpy(np.float64) / 2 - 0.5
    return ((y[:, None] - centres[:, 0]) ** 2 + (x[:, None] - centres[:, 1]) ** 2).argmin(axis=1)
