"""Sparse counts and single hits in the middle of an image at full resolution."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from emqa_dask.backend import get_array_modules
from emqa_dask.featurise.pixel_loops import find_peaks, sample_excess
from emqa_dask.featurise.quantiles import compute_quantile

SIDE_PX = 1024  # of the middle that is looked at: bounds the cost
MIN_SIDE_PX = 16  # of images whose pixels are compared
LAG_PX = 4  # between the pixels of a pair: beyond the blur of a camera
EMPTY_RANGE = 0.02  # of the grey range above the smallest value: JPEG lifts empty pixels a little
MAX_PEAKS = 20_000  # that are looked at: bounds the memory


def cut_middle(pixels: Any) -> Any:
    """The middle 1024 px of `pixels` (..., h, w), a view of them."""
    h, w = pixels.shape[-2:]
    y, x = min(h, SIDE_PX), min(w, SIDE_PX)
    return pixels[..., (h - y) // 2 : (h - y) // 2 + y, (w - x) // 2 : (w - x) // 2 + x]


def count_statistics(image: np.ndarray) -> dict[str, float]:
    """Sparsity of the occupied pixels of an image (h, w) at full resolution, as element maps of few counts have it.

    `empty_fraction`: pixels at the minimum or within 2 % of the range (to the 99.5 percentile) above it.
    `occupancy_decorrelation`: 1 - autocorrelation of the occupied pixels at a lag of 4 px along both axes: near 1 for
    sparse counts, near 0 for dark ground between solid objects, 0 where all pixels or none are empty.
    """
    if not image.size:
        return {"empty_fraction": 1.0, "occupancy_decorrelation": 0.0}
    low = image.min()
    # JPEG lifts empty pixels a little; a hit must not lift the limit with the range.
    high = compute_quantile(image[::4, ::4], 0.995)
    is_occupied = image > low + EMPTY_RANGE * (high - low)
    counts = [np.count_nonzero(mask) for mask in list_occupancy_masks(is_occupied)]
    return summarise_occupancy(counts, image.shape)


def list_occupancy_masks(is_occupied: Any) -> list[Any]:
    """Masks (..., h, w) whose True pixels are counted: occupied ones, then both, the first, the second of each pair.

    Pairs are LAG_PX apart along y, then along x.
    """
    masks = [is_occupied]
    for first, second in (
        (is_occupied[..., :-LAG_PX, :], is_occupied[..., LAG_PX:, :]),
        (is_occupied[..., :-LAG_PX], is_occupied[..., LAG_PX:]),
    ):
        masks += [first & second, first, second]
    return masks


def summarise_occupancy(counts: Sequence[int], shape: tuple[int, int]) -> dict[str, float]:
    """The statistics of count_statistics() of an image of `shape` from the counts of list_occupancy_masks()."""
    h, w = shape
    mean = counts[0] / (h * w)
    if min(shape) < MIN_SIDE_PX or mean in (0.0, 1.0):
        return {"empty_fraction": 1 - mean, "occupancy_decorrelation": 0.0}
    covariance = 0.0
    for k, size in ((1, (h - LAG_PX) * w), (4, h * (w - LAG_PX))):
        both, first, second = (counts[k + i] / size for i in range(3))
        covariance += both - mean * (first + second) + mean**2
    decorrelation = 1 - covariance / (2 * mean * (1 - mean))
    return {"empty_fraction": 1 - mean, "occupancy_decorrelation": decorrelation}


def count_impulses(image: np.ndarray) -> dict[str, float]:
    """Pixels that overtop all eight neighbours by far more than noise makes others do, and by 20 % of the range.

    `image` is (h, w) float32 with the grey range from 0 to 1.
    """
    if min(image.shape) < 8:
        return {"impulses_per_mpx": 0.0}
    ordered = np.sort(sample_excess(image, 3), axis=None)
    centre, high = (float(ordered[round(fraction * (len(ordered) - 1))]) for fraction in (0.5, 0.985))
    y, x = find_peaks(image, np.float32(max(centre + 4 * (high - centre), 0.25)), MAX_PEAKS).T
    is_alone = find_single_hits(image[None], np.zeros(len(y), int), y, x)
    h, w = image.shape
    return {"impulses_per_mpx": np.count_nonzero(is_alone) * 1e6 / ((h - 4) * (w - 4))}


def find_single_hits(images: Any, number: Any, y: Any, x: Any) -> Any:
    """Whether the pixels at `y`, `x` (m,) of images[number] (n, h, w) have neighbours like the ground farther out.

    Those of an atom or of a bright speck are raised too, those of a hit are not.
    """
    xp, _ = get_array_modules(images)
    h, w = images.shape[1:]
    reach = xp.arange(-3, 4)
    rows = xp.clip(y[:, None] + reach, 0, h - 1)
    columns = xp.clip(x[:, None] + reach, 0, w - 1)
    patch = images[number[:, None, None], rows[:, :, None], columns[:, None, :]]
    peak = patch[:, 3, 3]
    neighbour_sum = patch[:, 2:5, 2:5].sum(axis=(1, 2))
    surround = (patch.sum(axis=(1, 2)) - neighbour_sum) / 40
    neighbour_mean = (neighbour_sum - peak) / 8
    return neighbour_mean - surround < 0.12 * (peak - surround)
