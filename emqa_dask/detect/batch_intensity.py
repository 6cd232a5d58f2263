"""Intensity limits and normalisation of a batch of images, on the device that holds it; values as by `normalise`."""

from typing import Any

import numpy as np

from emqa_dask.backend import get_array_modules
from emqa_dask.detect.normalise import CEILING, FLOOR, SAMPLE_PX, IntensityLimits

MEDIAN = 50  # percentile


def compute_batch_limits(images: Any, low_percentile: float, high_percentile: float) -> IntensityLimits:
    """`normalise.compute_intensity_limits` of each of `images` (n, h, w; real, not empty): arrays (n,) of float64."""
    xp, _ = get_array_modules(images)
    step = max(1, int(np.ceil(np.sqrt(images[0].size / SAMPLE_PX))))
    sample = images[:, :: min(step, images.shape[1]), :: min(step, images.shape[2])].reshape(len(images), -1)
    percentiles = xp.asarray(np.array([low_percentile, high_percentile, MEDIAN], np.float64))
    if images.dtype in (np.uint8, np.uint16):
        low, high, median = _interpolate_histogram(sample, percentiles).T
    else:
        low, high, median = _interpolate_sorted(sample, percentiles).T
    if bool((low >= high).any()):
        lowest, highest = _find_extremes(images)
        has_contrast = high > low
        low = xp.where(has_contrast, low, lowest)
        high = xp.where(has_contrast, high, highest)
    return IntensityLimits(low, high, median)


def _interpolate_histogram(sample: Any, percentiles: Any) -> Any:
    """Percentiles (n, p) of `sample` (n, k; uint8 or uint16) by linear interpolation."""
    xp, _ = get_array_modules(sample)
    n_bins = np.iinfo(sample.dtype).max + 1
    bins = sample.astype(np.int64) + n_bins * xp.arange(len(sample))[:, None]
    counts = xp.bincount(bins.ravel(), minlength=n_bins * len(sample)).reshape(len(sample), 1, n_bins)
    cumulated = xp.cumsum(counts, axis=2)
    ranks = percentiles / 100 * (sample.shape[1] - 1)
    lower_values, upper_values = (
        (cumulated <= rounded[:, None]).sum(axis=2) for rounded in (xp.floor(ranks), xp.ceil(ranks))
    )
    return lower_values + (upper_values - lower_values) * (ranks - xp.floor(ranks))


def _interpolate_sorted(sample: Any, percentiles: Any) -> Any:
    """Percentiles (n, p) of the finite values of `sample` (n, k) as numpy interpolates them; 0 where there are none."""
    xp, _ = get_array_modules(sample)
    if sample.dtype.kind == "f":
        is_finite = xp.isfinite(sample)
        n_values = is_finite.sum(axis=1)[:, None]
        ordered = xp.sort(xp.where(is_finite, sample, sample.dtype.type(np.nan)), axis=1)  # NaN comes last
    else:
        n_values = xp.full((len(sample), 1), sample.shape[1])
        ordered = xp.sort(sample.astype(np.float64), axis=1)
    ranks = percentiles / 100 * xp.maximum(n_values - 1, 0)
    lower_values, upper_values = (
        xp.take_along_axis(ordered, rounded.astype(np.int64), axis=1) for rounded in (xp.floor(ranks), xp.ceil(ranks))
    )
    fraction = ranks - xp.floor(ranks)
    difference = upper_values - lower_values
    # numpy counts from the nearer of both values.
    values = xp.where(fraction >= 0.5, upper_values - difference * (1 - fraction), lower_values + difference * fraction)
    return xp.where(n_values > 0, values, 0.0)


def _find_extremes(images: Any) -> tuple[Any, Any]:
    """The lowest and highest finite value (n,) of each of `images`, as float64; 0 where none is finite."""
    xp, _ = get_array_modules(images)
    if images.dtype.kind != "f":
        return images.min(axis=(1, 2)).astype(np.float64), images.max(axis=(1, 2)).astype(np.float64)
    is_finite = xp.isfinite(images)
    has_values = is_finite.any(axis=(1, 2))
    lowest = xp.where(is_finite, images, images.dtype.type(np.inf)).min(axis=(1, 2)).astype(np.float64)
    highest = xp.where(is_finite, images, images.dtype.type(-np.inf)).max(axis=(1, 2)).astype(np.float64)
    return xp.where(has_values, lowest, 0.0), xp.where(has_values, highest, 0.0)


def centre_batch(images: Any, limits: IntensityLimits) -> tuple[Any, Any]:
    """`images` (n, h, w) on the normalised scale less 0.5, and the mask of their finite pixels; None for integers.

    Pixels are (n, h, w) float32, those of `candidates.centre_intensities`. `limits` holds numbers or arrays (n,).
    """
    xp, _ = get_array_modules(images)
    low, high, median = (xp.asarray(value, dtype=np.float64).reshape(-1, 1, 1) for value in limits)
    has_contrast = high > low
    with np.errstate(all="ignore"):  # infinite pixels, and values beyond float32, end at the bounds
        span = xp.where(has_contrast, high - low, 1.0)
        if images.dtype.itemsize > 4 or images.dtype in (np.int32, np.uint32):
            pixels = ((images - low) / span).astype(np.float32)
        else:
            pixels = images.astype(np.float32)
            pixels -= low.astype(np.float32)
            pixels /= span.astype(np.float32)
        pixels = xp.clip(pixels, FLOOR, CEILING)
        fill = xp.clip((median - low) / span, FLOOR, CEILING).astype(np.float32)
    is_finite = None
    if images.dtype.kind == "f":
        is_finite = xp.isfinite(images)
        pixels = xp.where(is_finite, pixels, fill)
    return xp.where(has_contrast, pixels, np.float32(0)) - np.float32(0.5), is_finite
