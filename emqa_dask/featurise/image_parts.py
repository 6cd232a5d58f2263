"""The small arrays from which the statistics of an image are computed: one pass over its pixels on the host."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from emqa_dask.featurise import overlays
from emqa_dask.featurise.hits import count_impulses, count_statistics, cut_middle
from emqa_dask.featurise.periodogram import compute_image_periodogram, place_tiles
from emqa_dask.featurise.region_map import compute_window_powers
from emqa_dask.featurise.signature import TONE_PX, cut_grain_tile
from emqa_dask.featurise.tones import NO_SPAN, GreyLevels, count_levels, find_grey_range

SAMPLE_PX = 1 << 18  # pixels that histograms are made from, taken on a regular grid
MAX_OVER = 20  # spans over the grey range: hits stay far above the rest, but float32 holds their squares
TILE_RANGE = (-0.5, 1.5)  # in grey ranges, of the pixels of the spectrum


class ImageParts(NamedTuple):
    """What is kept of an image (h, w) with at least one finite pixel; all arrays are on the host.

    Its grey range, `low` to `low + span`, is that of its sample.
    """

    shape: tuple[int, int]
    dtype: np.dtype
    nonfinite_fraction: float
    grey: GreyLevels  # of the sample
    low: float
    span: float
    power: NDArray[np.float32] | None  # (t, t // 2 + 1) mean periodogram of the tiles; None without tiles
    n_tiles: int
    cell_means: NDArray[np.float32] | None  # compute_window_powers() of the tiles of the region map
    hits: dict[str, float]  # count_statistics() and count_impulses() of the middle
    view: NDArray[np.float32]  # of at most 1024 px a side, the grey range from 0 to 1
    factor: float  # by which the view is smaller
    tone_means: NDArray[np.float64]  # (16, 16)
    grain_tile: NDArray[np.float32]  # that of cut_grain_tile()


def compute_sample_step(shape: tuple[int, int]) -> int:
    """The step, px, along both axes between the pixels of the sample of an image of `shape`."""
    return int(np.ceil(np.sqrt(shape[0] * shape[1] / SAMPLE_PX)))


def compute_unit(span: float) -> np.float32:
    """Grey ranges per grey level; 0 for a constant image."""
    return np.float32(1 / span if span > NO_SPAN else 0)


def split_image(image: np.ndarray) -> ImageParts | float:
    """The parts of `image` (h, w), or its fraction of non-finite pixels where there is no finite pixel.

    Non-finite pixels are replaced by the median.
    """
    pixels, nonfinite_fraction = _clean_image(image)
    if pixels.size == 0 or nonfinite_fraction == 1:
        return nonfinite_fraction
    step = compute_sample_step(image.shape)
    is_small_integer = image.dtype.kind in "biu" and image.dtype.itemsize <= 2
    grey = count_levels((image if is_small_integer else pixels)[::step, ::step])
    low, span = find_grey_range(grey)
    unit = compute_unit(span)
    tone_means = cv2.resize(pixels, (TONE_PX, TONE_PX), interpolation=cv2.INTER_AREA).astype(np.float64)
    grain_tile = cut_grain_tile(pixels).copy()
    hits = count_statistics(cut_middle(pixels))
    np.clip(pixels, np.float32(low - span), np.float32(low + MAX_OVER * span), out=pixels)
    hits |= count_impulses((cut_middle(pixels) - np.float32(low)) * unit)
    t, corners = place_tiles(pixels.shape)
    tiles = [pixels[y : y + t, x : x + t] for y, x in corners]
    power = compute_image_periodogram(tiles, low, unit, TILE_RANGE) if tiles else None
    cell_means = compute_window_powers(pixels, low, unit, TILE_RANGE)
    view, factor = overlays.make_view(pixels, low, low + span)
    ends = (nonfinite_fraction, grey, low, span, power, len(tiles), cell_means, hits)
    return ImageParts(image.shape, image.dtype, *ends, view, factor, tone_means, grain_tile)


def _clean_image(image: np.ndarray) -> tuple[np.ndarray, float]:
    """`image` as float32 without NaN and infinities, and their fraction; float64 is brought into float32's range."""
    if image.dtype.kind in "biu":
        return image.astype(np.float32, order="C"), 0.0
    is_finite = np.isfinite(image)
    n_finite = np.count_nonzero(is_finite)
    nonfinite_fraction = 1 - n_finite / image.size if image.size else 0.0
    values = image
    if n_finite < image.size:
        values = np.where(is_finite, image, np.median(image[is_finite]) if n_finite else 0)
    largest = max(float(values.max(initial=0)), -float(values.min(initial=0)))
    return np.ascontiguousarray(values * compute_scale(largest), dtype=np.float32), nonfinite_fraction


def compute_scale(largest: float) -> float:
    """The factor that brings pixels of magnitudes up to `largest` into float32's range."""
    return 1.0 if 1e-20 < largest < 1e30 or largest == 0 else 1 / largest
