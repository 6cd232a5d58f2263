"""The parts of a batch of images from passes over all pixels on the device that holds them; small arrays come back.

One function for numpy and cupy arrays. The values are those of image_parts.split_image() but for rounding.
"""

from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emqa_dask.area_average import average_areas
from emqa_dask.backend import get_array_modules, to_host
from emqa_dask.featurise import hits, overlays
from emqa_dask.featurise.image_parts import (
    MAX_OVER,
    TILE_RANGE,
    ImageParts,
    compute_sample_step,
    compute_scale,
    compute_unit,
    split_image,
)
from emqa_dask.featurise.periodogram import compute_mean_periodogram, place_tiles
from emqa_dask.featurise.quantiles import interpolate_quantile
from emqa_dask.featurise.region_map import compute_window_powers_of_batch
from emqa_dask.featurise.signature import TONE_PX, cut_grain_tile
from emqa_dask.featurise.tones import NO_SPAN, GreyLevels, find_grey_range, rank_levels

MIN_SIDE_PX = 128  # smaller images are computed on the host: a device has nothing to gain


def split_images(images: Any, dtype: np.dtype | None = None) -> list[ImageParts | float]:
    """split_image() of each of `images` (n, h, w) of any integer, float or bool dtype, on the host or on a device.

    `dtype` is that of the images as they were acquired, where the device holds them in another.
    """
    dtype = dtype or images.dtype
    n, h, w = images.shape
    if min(h, w) < MIN_SIDE_PX:
        return [split_image(image.astype(dtype, copy=False)) for image in to_host(images)]
    xp, _ = get_array_modules(images)
    pixels, nonfinite_fractions = _clean_images(images)
    greys = _rank_samples(pixels)
    low, span = np.array([find_grey_range(grey) for grey in greys]).T
    unit = np.array([compute_unit(value) for value in span])
    floor = _upload_values(xp, low)
    tone_means = to_host(average_areas(pixels - floor, (TONE_PX, TONE_PX))) + low[:, None, None]
    grain_tiles = to_host(cut_grain_tile(pixels))
    counts = _count_occupied(hits.cut_middle(pixels))
    # Divided only after they were averaged, as on the host: statistics that count equal pixels then agree.
    raised = xp.clip(pixels, _upload_values(xp, low - span), _upload_values(xp, low + MAX_OVER * span)) - floor
    units = _upload_values(xp, unit)
    n_impulses = _count_impulses(hits.cut_middle(raised) * units)
    t, corners = place_tiles((h, w))
    tiles = (xp.clip(raised[:, y : y + t, x : x + t] * units, *TILE_RANGE) for y, x in corners)
    powers = to_host(compute_mean_periodogram(tiles))
    cell_means = compute_window_powers_of_batch(raised, units, TILE_RANGE)
    view_shape, factor = overlays.compute_view_shape((h, w))
    spans = _upload_values(xp, np.maximum(span, NO_SPAN))
    views = to_host(xp.clip(average_areas(raised, view_shape) / spans, *overlays.VIEW_RANGE))
    y, x = (min(side, hits.SIDE_PX) for side in (h, w))
    parts: list[ImageParts | float] = []
    for k in range(n):
        if nonfinite_fractions[k] == 1:
            parts.append(1.0)
            continue
        impulses = {"impulses_per_mpx": float(n_impulses[k] * 1e6 / ((y - 4) * (x - 4)))}
        statistics = hits.summarise_occupancy(counts[:, k].tolist(), (y, x)) | impulses
        tones = (float(nonfinite_fractions[k]), greys[k], float(low[k]), float(span[k]))
        arrays = (powers[k], len(corners), cell_means[k], statistics, views[k], factor, tone_means[k], grain_tiles[k])
        parts.append(ImageParts((h, w), dtype, *tones, *arrays))
    return parts


def _upload_values(xp: Any, values: NDArray) -> Any:
    """One number for each image, (n,), as float32 (n, 1, 1) on the device."""
    return xp.asarray(np.asarray(values, np.float32)[:, None, None])


def _clean_images(images: Any) -> tuple[Any, NDArray]:
    """`images` (n, h, w) as float32 without NaN and infinities, and their fractions (n,)."""
    n, h, w = images.shape
    if images.dtype.kind in "biu":
        return images.astype(np.float32), np.zeros(n)
    xp, _ = get_array_modules(images)
    is_finite = xp.isfinite(images)
    n_finite = to_host(is_finite.sum(axis=(1, 2)))
    values = images
    if (n_finite < h * w).any():
        fills = np.zeros(n, images.dtype)
        for k in np.flatnonzero((n_finite < h * w) & (n_finite > 0)):
            fills[k] = float(xp.median(images[int(k)][is_finite[int(k)]]))
        values = xp.where(is_finite, images, xp.asarray(fills[:, None, None]))
    scales = np.array([compute_scale(largest) for largest in to_host(abs(values).max(axis=(1, 2))).tolist()])
    if (scales != 1).any():
        values = values * xp.asarray(scales[:, None, None])
    return values.astype(np.float32), 1 - n_finite / (h * w)


def _rank_samples(pixels: Any) -> list[GreyLevels]:
    """The grey levels of the sample of each of `pixels` (n, h, w)."""
    xp, _ = get_array_modules(pixels)
    step = compute_sample_step(pixels.shape[1:])
    sample = pixels[:, ::step, ::step].reshape(len(pixels), -1)
    return [rank_levels(ordered) for ordered in to_host(xp.sort(sample, axis=1))]


def _count_occupied(images: Any) -> NDArray:
    """Pixels (7, n) of hits.list_occupancy_masks() of each of `images` (n, h, w)."""
    xp, _ = get_array_modules(images)
    low = images.min(axis=(1, 2))
    sample = xp.sort(images[:, ::4, ::4].reshape(len(images), -1), axis=1)
    limit = low + hits.EMPTY_RANGE * (interpolate_quantile(sample, 0.995) - low)
    masks = hits.list_occupancy_masks(images > limit[:, None, None])
    return to_host(xp.stack([mask.sum(axis=(1, 2)) for mask in masks]))


def _count_impulses(images: Any) -> NDArray:
    """Single hits (n,) of each of `images` (n, h, w), as hits.count_impulses() counts them."""
    xp, _ = get_array_modules(images)
    n, h, w = images.shape
    offsets = [(dy, dx) for dy in (1, 2, 3) for dx in (1, 2, 3) if (dy, dx) != (2, 2)]
    neighbours = reduce(xp.maximum, (images[:, dy : dy + h - 4, dx : dx + w - 4] for dy, dx in offsets))
    excess = images[:, 2:-2, 2:-2] - neighbours
    ordered = xp.sort(excess[:, ::3, ::3].reshape(n, -1), axis=1)
    last = ordered.shape[1] - 1
    centre, high = (ordered[:, round(fraction * last)].astype(np.float64) for fraction in (0.5, 0.985))
    limit = xp.maximum(centre + 4 * (high - centre), 0.25).astype(np.float32)
    number, y, x = xp.nonzero(excess > limit[:, None, None])
    if not len(number):
        return np.zeros(n, np.int64)
    rank = xp.arange(len(number)) - xp.searchsorted(number, xp.arange(n))[number]
    is_counted = rank < hits.MAX_PEAKS
    number, y, x = (values[is_counted] for values in (number, y, x))
    is_single = hits.find_single_hits(images, number, y + 2, x + 2)
    return to_host(xp.bincount(number[is_single], minlength=n))
