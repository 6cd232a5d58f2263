"""Large micrographs in tiles: windows that overlap, and objects that each belong to one of them."""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emqa_dask import boxes as bx

MARGIN_PX = 8  # a tile also claims objects whose centre lies this little beyond what it owns; doubles are then dropped
GRID_PX = 64  # windows begin at multiples of it, as the network's coarsest layer sees the image


class Window(NamedTuple):
    """Part of an image: pixels it reads (half-open), and the part of them it owns."""

    y0: int
    x0: int
    y1: int
    x1: int
    core_box: tuple[float, float, float, float]  # y0, x0, y1, x1; infinite at the image's edges


def make_tiles(shape: tuple[int, int], tile_px: int, halo_px: int) -> list[Window]:
    """Windows of at most `tile_px` a side that cover an image of `shape` and share 2 `compute_halo` or more.

    All have one size, so that a network which scales its input sees all at one scale; what they own covers the plane
    once. `tile_px` has to exceed 2 `compute_halo`. An image up to `tile_px` is one window; an empty one has none.
    """
    if 0 in shape:
        return []
    rows, columns = (_compute_tile_spans(size, tile_px, halo_px) for size in shape)
    return [
        Window(y0, x0, y1, x1, (own_y0, own_x0, own_y1, own_x1))
        for y0, y1, own_y0, own_y1 in rows
        for x0, x1, own_x0, own_x1 in columns
    ]


def _compute_tile_spans(size: int, tile_px: int, halo_px: int) -> list[tuple[int, int, float, float]]:
    if size <= tile_px:
        return [(0, size, -math.inf, math.inf)]
    grid = GRID_PX if tile_px - 2 * halo_px >= 3 * GRID_PX else 1
    shared = 2 * halo_px + grid - 1  # room to move each start down to the grid
    n = math.ceil((size - shared) / (tile_px - shared))
    length = math.ceil((size + (n - 1) * shared) / n)
    starts = [k * (size - length) // (n - 1) // grid * grid for k in range(n - 1)] + [size - length]
    seams = [(a + length + b) / 2 for a, b in pairwise(starts)]
    return list(zip(starts, [s + length for s in starts], [-math.inf, *seams], [*seams, math.inf]))


def find_claimed_boxes(boxes: NDArray, window: Window) -> NDArray[np.bool_]:
    """Which of n boxes (y0, x0, y1, x1; px of the image) `window` may keep: those whose centre it owns, or nearly."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    low, high = np.array(window.core_box[:2]) - MARGIN_PX, np.array(window.core_box[2:]) + MARGIN_PX
    return ((centre >= low) & (centre < high)).all(axis=1)


def find_doubles(
    boxes: NDArray,
    scores: NDArray,
    classes: NDArray,
    tiles: NDArray,
    is_centre_in_core: NDArray,
    iou_threshold: float = 0.5,
) -> NDArray[np.bool_]:
    """Which of n detections another tile has found too, and keeps.

    Two are one object when they are of one class and two tiles and their boxes' IoU reaches `iou_threshold`. The one
    in the tile that owns its centre stays, else the higher score, else the lower tile.
    """
    is_double = np.zeros(len(boxes), bool)
    if len(np.unique(tiles)) < 2:
        return is_double
    i, j, _ = bx.find_overlaps(boxes, boxes, iou_threshold)
    pair = (i != j) & (tiles[i] != tiles[j]) & (classes[i] == classes[j])
    partners: dict[int, list[int]] = {}
    for a, b in zip(i[pair].tolist(), j[pair].tolist()):
        partners.setdefault(a, []).append(b)
    for a in np.lexsort((tiles, -scores, ~is_centre_in_core)).tolist():
        if not is_double[a]:
            is_double[partners.get(a, [])] = True
    return is_double
