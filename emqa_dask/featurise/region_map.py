"""Tiles of an image's region map, with the sharpness and the noise of each."""

from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from emqa_dask.backend import get_array_modules, to_host
from emqa_dask.featurise.periodogram import compute_mean_periodogram, make_ramp_and_window
from emqa_dask.featurise.pixel_loops import add_packed_power, flatten_tile
from emqa_dask.featurise.spectrum import (
    N_SECTORS,
    compute_noise_power,
    compute_visible_excess,
    find_detail_cpp,
    make_polar_grid,
)

TILE_PX = 256  # of a tile's sides, about: it shows some tens of objects, and four windows like it cover a field of view
MIN_TILES = 4  # along an axis: fewer do not show where an image changes
MAX_TILES = 8  # along an axis: bounds the cost and the rows of large images; a finer map is not readable over a picture
WINDOW_PX = 128  # of the window in the middle of a tile whose spectrum is computed: a quarter of the pixels of the tile
MIN_WINDOW_PX = 32  # smaller ones have too few frequencies for a noise floor, as for the image
OUTER_RINGS = 2  # of the spectrum, whose sectors give the noise floor


class TileEdges(NamedTuple):
    """Rows (ny + 1,) and columns (nx + 1,) at which the tiles of an image start; the last one is its end."""

    y: NDArray[np.int64]
    x: NDArray[np.int64]


def place_map_tiles(shape: tuple[int, int]) -> TileEdges:
    """Tiles that cover an image of `shape` once: sides of about TILE_PX, MIN_TILES to MAX_TILES along each axis."""
    counts = (min(max(round(side / TILE_PX), MIN_TILES), MAX_TILES, side) for side in shape)
    return TileEdges(*(np.linspace(0, side, n + 1).round().astype(np.int64) for side, n in zip(shape, counts)))


class TileWindows(NamedTuple):
    """The square window in the middle of each tile."""

    side_px: int
    y: NDArray[np.int64]  # (ny,) first row
    x: NDArray[np.int64]  # (nx,) first column


def place_windows(shape: tuple[int, int]) -> TileWindows | None:
    """Windows of an image of `shape`; their side is a power of two, about half of a tile's. None for small tiles."""
    edges = place_map_tiles(shape)
    smallest_side = min(int(np.diff(axis_edges).min()) for axis_edges in edges)
    if smallest_side < MIN_WINDOW_PX:
        return None
    side = min(max(2 ** int(np.log2(smallest_side / 2)), MIN_WINDOW_PX), WINDOW_PX)
    return TileWindows(side, *((axis_edges[1:] + axis_edges[:-1] - side) // 2 for axis_edges in edges))


def compute_window_powers(
    pixels: NDArray[np.float32], low: float, unit: np.float32, limits: tuple[float, float]
) -> NDArray[np.float32] | None:
    """Mean power of polar cells of each tile (k, c) of the image `pixels` (h, w) on the host; None without windows.

    `low` becomes 0 in them, and a grey level `unit`; then they are clipped to `limits`. See average_polar_cells().
    """
    windows = place_windows(pixels.shape)
    if windows is None:
        return None
    t = windows.side_px
    ramp, taper = make_ramp_and_window(t)
    floor, ceiling = (np.float32(limit) for limit in limits)
    values = np.empty((t, t), np.float32)
    powers = np.zeros((len(windows.y) * len(windows.x), t, t // 2 + 1), np.float32)
    corners = [(y, x) for y in windows.y for x in windows.x]
    for power, (y, x) in zip(powers, corners, strict=True):
        tile = pixels[y : y + t, x : x + t]
        flatten_tile(tile, np.float32(low), unit, floor, ceiling, ramp, taper, values)
        add_packed_power(cv2.dft(values), power)
    powers /= np.float32(t**2)
    return average_polar_cells(powers)


def compute_window_powers_of_batch(
    raised: Any, units: Any, limits: tuple[float, float]
) -> NDArray[np.float32] | list[None]:
    """compute_window_powers() of each image (n, k, c): pixels `raised` (n, h, w) above their `low`, `units` (n, 1, 1).

    The images lie on the host or on a device.
    """
    windows = place_windows(raised.shape[1:])
    if windows is None:
        return [None] * len(raised)
    xp, _ = get_array_modules(raised)
    t = windows.side_px
    rows, columns = (xp.asarray(first[:, None] + np.arange(t)) for first in (windows.y, windows.x))
    tiles = raised[:, rows[:, None, :, None], columns[None, :, None, :]].reshape(len(raised), -1, t, t)
    tiles = xp.clip(tiles * units[..., None], *limits)
    return to_host(average_polar_cells(compute_mean_periodogram([tiles])))


def average_polar_cells(powers: Any) -> Any:
    """Means (..., r + 2 * N_SECTORS) of spectra (..., t, t // 2 + 1): of r rings, then of the outer rings' sectors."""
    xp, _ = get_array_modules(powers)
    flat_powers = powers.reshape(*powers.shape[:-2], -1)
    return xp.matmul(flat_powers, xp.asarray(_make_cell_weights(powers.shape[-2])))


@lru_cache(maxsize=4)
def _make_cell_weights(t: int) -> NDArray[np.float32]:
    """Weight of each frequency of a spectrum (t, t // 2 + 1) in the means of average_polar_cells()."""
    grid = make_polar_grid(t)
    n_rings = len(grid.middle)
    n_outer = OUTER_RINGS * N_SECTORS
    weights = np.zeros((t * (t // 2 + 1), n_rings + n_outer), np.float32)
    ring = grid.cell // N_SECTORS
    weights[grid.frequencies, ring] = 1 / grid.count.sum(1)[ring]
    outer_cell = grid.cell - (grid.count.size - n_outer)
    is_outer = outer_cell >= 0
    cells = n_rings + outer_cell[is_outer]
    weights[grid.frequencies[is_outer], cells] = 1 / grid.count.ravel()[grid.cell[is_outer]]
    return weights


class TileStatistics(NamedTuple):
    """Statistics of the tiles (k,) of an image, row by row: `detail_cpp` and `noise_floor` of their windows."""

    sharpness_cpp: NDArray[np.float64]
    noise: NDArray[np.float64]


def summarise_tiles(cell_means: NDArray[np.float32] | None, shape: tuple[int, int]) -> TileStatistics:
    """Statistics of an image of `shape` from average_polar_cells() of its windows (k, c); NaN without windows."""
    windows = place_windows(shape)
    if cell_means is None or windows is None:
        y, x = place_map_tiles(shape)
        unknown = np.full((len(y) - 1) * (len(x) - 1), np.nan)
        return TileStatistics(unknown, unknown)
    middle = make_polar_grid(windows.side_px).middle
    ring_means = cell_means[:, : len(middle)].astype(np.float64)
    sector_means = cell_means[:, len(middle) :].astype(np.float64).reshape(-1, OUTER_RINGS, N_SECTORS)
    floors = compute_noise_power(sector_means)
    excesses = compute_visible_excess(ring_means, floors[:, None], middle)
    return TileStatistics(np.array([find_detail_cpp(excess, middle) for excess in excesses]), np.sqrt(floors))
