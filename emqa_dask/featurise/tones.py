"""Grey levels of an image's sample and what they tell: contrast, saturation, number of levels."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emqa_dask.featurise.pixel_loops import count_in_bins
from emqa_dask.value_counts import count_values

N_BINS = 256  # of the histogram between the 0.5 and the 99.5 percentile
NO_SPAN = 1e-30  # grey range from which on an image counts as constant


class GreyLevels(NamedTuple):
    """The pixels of a sample by their grey level."""

    levels: NDArray[np.float32]  # (m,) ascending; equal ones may repeat
    ends: NDArray[np.int64]  # (m,) number of pixels up to and with each level; the last one is n

    @property
    def n(self) -> int:
        return int(self.ends[-1])

    def find_quantile(self, fraction: float) -> float:
        """The level at the nearest rank to `fraction` of the pixels."""
        return float(self.levels[np.searchsorted(self.ends, round(fraction * (self.n - 1)), side="right")])

    def count_below(self, value: float) -> int:
        """Number of pixels darker than `value`."""
        # In the array's own dtype: a float64 key would make searchsorted convert the whole array.
        k = int(np.searchsorted(self.levels, np.float32(value)))
        return int(self.ends[k - 1]) if k else 0


def count_levels(sample: NDArray) -> GreyLevels:
    """The grey levels of the finite pixels of `sample`, at least one, of any shape; float64 is rounded to float32."""
    if sample.dtype.kind == "b" or (sample.dtype.kind in "iu" and sample.dtype.itemsize <= 2):
        first = 0 if sample.dtype.kind == "b" else int(np.iinfo(sample.dtype).min)
        counts = count_values(np.ascontiguousarray(sample, sample.dtype.newbyteorder("=")).ravel(), first)
        place = np.flatnonzero(counts)
        return GreyLevels((place + first).astype(np.float32), np.cumsum(counts[place]))
    return rank_levels(np.sort(sample.astype(np.float32, copy=False), axis=None))


def rank_levels(ordered: NDArray[np.float32]) -> GreyLevels:
    """The grey levels of ascending pixels (n,)."""
    return GreyLevels(ordered, np.arange(1, len(ordered) + 1))


def find_grey_range(grey: GreyLevels) -> tuple[float, float]:
    """Lower end and span of the grey range: the 0.5 to 99.5 percentile, or all where these are equal."""
    low = grey.find_quantile(0.005)
    span = grey.find_quantile(0.995) - low
    if span <= NO_SPAN:
        low = float(grey.levels[0])
        span = float(grey.levels[-1]) - low
    return low, span


def compute_tones(grey: GreyLevels, dtype: np.dtype, low: float, span: float) -> dict[str, float]:
    """Statistics of grey levels of pixels of `dtype`; `low` and `span` are the grey range."""
    min_value = float(grey.levels[0])
    if span <= NO_SPAN:
        return {
            "contrast": 0.0,
            "entropy_bits": 0.0,
            "n_levels": 1.0,
            "top_level": _share_of_range(min_value, dtype),
            "mode_fraction": 1.0,
            "saturated_fraction": 0.0,
            "saturated_density_ratio": 0.0,
            "floor_fraction": 1.0,
            "skewness": 0.0,
        }
    n = grey.n
    counts = np.diff(grey.ends, prepend=0)
    clipped = np.clip(grey.levels, low, low + span)
    histogram = count_in_bins(clipped, counts, np.linspace(low, low + span, N_BINS + 1)) / n
    filled = histogram[histogram > 0]
    end, _, width = find_bright_end(grey, dtype)
    second, third = (grey.count_below(end - k * width) for k in (1, 4))
    top_band = (n - second) / n
    band_fraction = (second - third) / n
    return {
        "contrast": span / max(abs(low) + abs(low + span), NO_SPAN),
        "entropy_bits": float(-(filled * np.log2(filled)).sum()),
        "n_levels": _count_distinct_levels(grey),
        "top_level": _share_of_range(grey.find_quantile(0.999), dtype),
        "mode_fraction": float(np.convolve(histogram, np.ones(3)).max()),
        "saturated_fraction": float(top_band),
        "saturated_density_ratio": float(top_band / max(band_fraction / 3, 1e-4)),
        "floor_fraction": grey.count_below(min_value + width) / n,
        "skewness": _compute_skewness((clipped - np.float32(low)) / np.float32(span), counts),
    }


def find_bright_end(grey: GreyLevels, dtype: np.dtype) -> tuple[float, float, float]:
    """(end, start, width) of the grey values that count as saturated: the last 1.2 % of the range, up to `end`.

    Detectors clip at one value; JPEG spreads it by a few levels. The pile is the density there over the one below it.
    """
    end = max(float(grey.levels[-1]), 250.0) if dtype == np.uint8 else float(grey.levels[-1])
    width = 0.012 * float(grey.levels[-1] - grey.levels[0])
    return end, end - width, width


def _count_distinct_levels(grey: GreyLevels) -> float:
    """Number of distinct levels from the 0.1 to the 99.9 percentile."""
    start = np.searchsorted(grey.levels, np.float32(grey.find_quantile(0.001)))
    stop = np.searchsorted(grey.levels, np.float32(grey.find_quantile(0.999)), side="right")
    return float(1 + np.count_nonzero(np.diff(grey.levels[start:stop])))


def _compute_skewness(values: NDArray, counts: NDArray) -> float:
    """Skewness of `values` (m,) that occur `counts` (m,) times; 0 where they hardly differ."""
    n = counts.sum()
    centred = values - (values @ counts) / n
    squares = centred * centred
    deviation = float(squares @ counts / n) ** 0.5
    return float((squares * centred) @ counts / n) / deviation**3 if deviation > 1e-6 else 0.0


def _share_of_range(value: float, dtype: np.dtype) -> float:
    return value / np.iinfo(dtype).max if dtype.kind in "iu" else np.nan
