"""Robust intensity scale: two percentiles of an image become 0 and 1, whatever its gain, offset and dtype."""

from typing import NamedTuple

import numpy as np

from emqa_dask.pixel_types import convert_to_real
from emqa_dask.value_counts import count_values

# Normalised values are clipped here, one range beyond each percentile.
FLOOR = -1.0
CEILING = 2.0
SAMPLE_PX = 1 << 20  # percentiles are taken from at most about this many pixels, on a regular grid


class IntensityLimits(NamedTuple):
    """Intensities of an image, in its own units."""

    low: float  # becomes 0
    high: float  # becomes 1
    median: float  # takes the place of pixels that are not finite


def normalise(
    image: np.ndarray, low_percentile: float, high_percentile: float, limits: IntensityLimits | None = None
) -> np.ndarray:
    """`image` (h, w) of any real dtype as float32, `low_percentile` at 0 and `high_percentile` at 1.

    Values are clipped to [-1, 2]: objects up to a full range beyond the percentiles keep their shape, and a single hot
    pixel of 10^4 ranges (an x-ray) does not outshine everything within a kernel's reach. NaN and infinite pixels become
    the image's median (`find_finite` gives their mask). An image without contrast, and one without a finite pixel,
    gives zeros; an empty image gives an empty one. `limits` are the intensities of a larger whole that the image is a
    part of (see `compute_intensity_limits`). Raises ValueError unless `image` is two-dimensional and real.
    """
    image = convert_to_real(image)
    if image.size == 0:
        return np.zeros(image.shape, np.float32)
    low, high, median = compute_intensity_limits(image, low_percentile, high_percentile) if limits is None else limits
    if not high > low:
        return np.zeros(image.shape, np.float32)
    is_ok = find_finite(image)
    with np.errstate(over="ignore", invalid="ignore"):  # infinite pixels, and values beyond float32, end at the bounds
        if image.dtype.itemsize > 4 or image.dtype in (np.int32, np.uint32):
            # float32 cannot hold these dtypes' digits under a large offset: round after the subtraction.
            out = ((image - np.float64(low)) / (high - low)).astype(np.float32)
        else:
            out = image.astype(np.float32)
            out -= np.float32(low)
            out /= np.float32(high - low)
    np.clip(out, FLOOR, CEILING, out=out)
    if is_ok is not None:
        out[~is_ok] = min(max((median - low) / (high - low), FLOOR), CEILING)
    return out


def find_finite(image: np.ndarray) -> np.ndarray | None:
    """Mask of the finite pixels of `image`; None when all are."""
    if image.dtype.kind != "f":
        return None
    is_finite = np.isfinite(image)
    return None if is_finite.all() else is_finite


def compute_intensity_limits(image: np.ndarray, low_percentile: float, high_percentile: float) -> IntensityLimits:
    """The intensities at two percentiles, and the median, of the finite pixels of `image` (h, w).

    Where the percentiles coincide (nearly all pixels equal), the extremes are taken instead. No finite pixel gives
    zeros. Images above `SAMPLE_PX` pixels are sampled on a regular grid: the percentile of a percentile is then
    uncertain by about 0.01 %.
    """
    image = convert_to_real(image)
    step = max(1, int(np.ceil(np.sqrt(image.size / SAMPLE_PX))))
    sample = image[:: min(step, len(image) or 1), :: min(step, image.shape[1] or 1)].ravel()
    if sample.dtype.kind == "f":
        sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return IntensityLimits(0.0, 0.0, 0.0)
    low, high, median = _compute_percentiles(sample, low_percentile, high_percentile, 50)
    if not high > low:
        finite = image if image.dtype.kind != "f" else image[np.isfinite(image)]
        low, high = float(finite.min()), float(finite.max())
    return IntensityLimits(low, high, median)


def _compute_percentiles(values: np.ndarray, *percentiles: float) -> list[float]:
    """Percentiles by linear interpolation, as numpy's; 8 and 16 bit integers through their histogram."""
    if values.dtype in (np.uint8, np.uint16):
        ranks = np.array(percentiles) / 100 * (len(values) - 1)
        cumulated = np.cumsum(count_values(np.ascontiguousarray(values), 0))
        lower_values, upper_values = (np.searchsorted(cumulated, f(ranks), side="right") for f in (np.floor, np.ceil))
        return [float(v) for v in lower_values + (upper_values - lower_values) * (ranks - np.floor(ranks))]
    if values.dtype.kind != "f":
        values = values.astype(np.float64)
    return [float(v) for v in np.percentile(values, percentiles)]
