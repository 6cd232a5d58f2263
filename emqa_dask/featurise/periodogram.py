"""Mean power spectrum of tiles that are spread over an image, on the device that holds it."""

from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from emqa_dask.backend import get_array_modules
from emqa_dask.featurise.pixel_loops import add_packed_power, flatten_tile

TILE_PX = 256
MAX_TILES = 16  # of an image: bounds the cost


class TileGrid(NamedTuple):
    """Where an image is cut into tiles."""

    side_px: int
    corners: list[tuple[int, int]]  # (y, x) of each tile's first pixel


def place_tiles(shape: tuple[int, int], *, tile_px: int = TILE_PX, max_tiles: int = MAX_TILES) -> TileGrid:
    """Square tiles spread evenly over an image of `shape`; their side is the largest power of two up to `tile_px`.

    Bounds the cost for huge images: at most `max_tiles`. An image below 32 px a side has none.
    """
    h, w = shape
    side = min(h, w, tile_px)
    if side < 32:
        return TileGrid(32, [])
    t = 2 ** int(np.log2(side))
    ny, nx = (max(1, round(length / t)) for length in (h, w))
    while ny * nx > max_tiles:
        ny, nx = (ny - 1, nx) if ny >= nx else (ny, nx - 1)
    ys, xs = (
        np.linspace(0, length - t, n).astype(int).tolist() if n > 1 else [(length - t) // 2]
        for length, n in ((h, ny), (w, nx))
    )
    return TileGrid(t, [(y, x) for y in ys for x in xs])


def compute_mean_periodogram(tiles: Iterable[Any]) -> Any:
    """Welch's estimate of the power (..., t, t // 2 + 1) of n tiles (..., t, t): plane removed, Hann window, averaged.

    White noise of variance v has power v everywhere. The tiles, at least one, are float32 on the host or on a device.
    """
    n = 0
    power: Any = 0
    for tile in tiles:  # one by one: a tile stays in the processor's cache
        if n == 0:
            xp, _ = get_array_modules(tile)
            t = tile.shape[-1]
            ramp, window = (xp.asarray(values) for values in make_ramp_and_window(t))
            ramp_power = float(np.square(make_ramp_and_window(t)[0]).sum())
            rfft2 = partial(fft.rfft2, workers=1) if xp is np else xp.fft.rfft2
        values = tile - tile.mean(axis=(-2, -1), keepdims=True)
        slope_y, slope_x = (xp.matmul(values.mean(axis=axis), ramp) / ramp_power for axis in (-1, -2))
        values -= slope_y[..., None, None] * ramp[:, None] + slope_x[..., None, None] * ramp
        values *= window
        f = rfft2(values)
        power = power + (f.real**2 + f.imag**2)
        n += 1
    return power / np.float32(n * t**2)


def compute_image_periodogram(
    tiles: Sequence[NDArray[np.float32]], low: float, unit: np.float32, limits: tuple[float, float]
) -> NDArray[np.float32]:
    """compute_mean_periodogram() of `tiles` (t, t) of an image on the host, at least one, in half the time.

    `low` becomes 0 in them, and a grey level `unit`; then they are clipped to `limits`.
    """
    t = len(tiles[0])
    ramp, window = make_ramp_and_window(t)
    floor, ceiling = (np.float32(limit) for limit in limits)
    values = np.empty((t, t), np.float32)
    power = np.zeros((t, t // 2 + 1), np.float32)
    for tile in tiles:
        flatten_tile(tile, np.float32(low), unit, floor, ceiling, ramp, window, values)
        add_packed_power(cv2.dft(values), power)
    return power / np.float32(len(tiles) * t**2)


@lru_cache(maxsize=8)
def make_ramp_and_window(t: int) -> tuple[np.ndarray, np.ndarray]:
    """Of a tile (t, t), float32: a ramp (t,) from -1 to 1 and a Hann window (t, t) with a mean square of 1."""
    window = np.hanning(t + 1)[:t].astype(np.float32)
    window = np.outer(window, window)
    return np.linspace(-1, 1, t, dtype=np.float32), window / np.sqrt(np.mean(window**2))
