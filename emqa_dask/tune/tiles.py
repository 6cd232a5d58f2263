"""Tiles of an image, each of which gets settings of its own, and the points in them."""

import itertools
from typing import NamedTuple

import numpy as np
import pandas as pd


class Tile(NamedTuple):
    """A rectangular part of an image, half-open, px."""

    y0: int
    x0: int
    y1: int
    x1: int


def split_image(shape: tuple[int, int], size_px: int) -> list[Tile]:
    """Tiles of about `size_px` a side that cover an image of `shape`, each pixel once, row by row; none for no pixels.

    Tiles of an axis differ by at most one pixel. Raises ValueError unless size_px is at least 1.
    """
    if size_px < 1:
        raise ValueError(f"size_px is {size_px}: it has to be at least 1")
    if 0 in shape:
        return []
    counts = [max(1, round(side / size_px)) for side in shape]
    rows, columns = (np.arange(n + 1) * side // n for side, n in zip(map(int, shape), counts))
    return [
        Tile(int(y0), int(x0), int(y1), int(x1))
        for y0, y1 in itertools.pairwise(rows)
        for x0, x1 in itertools.pairwise(columns)
    ]


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
