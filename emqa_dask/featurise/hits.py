"""Sparse counts and single hits in the middle of an image at full resolution."""

import cv2
import numpy as np

from emqa_dask.featurise.quantiles import compute_quantile

SIDE_PX = 1024  # of the middle that is looked at: bounds the cost
EMPTY_RANGE = 0.02  # of the grey range above the smallest value: JPEG lifts empty pixels a little
MAX_PEAKS = 20_000  # that are looked at: bounds the memory
_RING = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], np.uint8)


def cut_middle(pixels: np.ndarray) -> np.ndarray:
    """The middle 1024 px of `pixels` (h, w), a view of them."""
    h, w = pixels.shape
    y, x = min(h, SIDE_PX), min(w, SIDE_PX)
    return pixels[(h - y) // 2 : (h - y) // 2 + y, (w - x) // 2 : (w - x) // 2 + x]


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
    occupied_fraction = np.count_nonzero(is_occupied) / image.size
    if min(image.shape) < 16 or occupied_fraction in (0.0, 1.0):
        return {"empty_fraction": 1 - occupied_fraction, "occupancy_decorrelation": 0.0}
    covariance = sum(
        _compute_covariance(first, second, occupied_fraction)
        for first, second in (
            (is_occupied[:-4], is_occupied[4:]),
            (is_occupied[:, :-4], is_occupied[:, 4:]),
        )
    )
    decorrelation = 1 - covariance / (2 * occupied_fraction * (1 - occupied_fraction))
    return {"empty_fraction": 1 - occupied_fraction, "occupancy_decorrelation": decorrelation}


def _compute_covariance(first: np.ndarray, second: np.ndarray, mean: float) -> float:
    """Mean product of two masks of one shape, each less `mean`."""
    both, one, two = (np.count_nonzero(mask) / mask.size for mask in (first & second, first, second))
    return both - mean * (one + two) + mean**2


def count_impulses(image: np.ndarray) -> dict[str, float]:
    """Pixels that overtop all eight neighbours by far more than noise makes others do, and by 20 % of the range.

    `image` is (h, w) float32 with the grey range from 0 to 1.
    """
    if min(image.shape) < 8:
        return {"impulses_per_mpx": 0.0}
    excess = (image - cv2.dilate(image, _RING))[2:-2, 2:-2]
    ordered = np.sort(excess[::3, ::3], axis=None)
    centre, high = (float(ordered[round(fraction * (len(ordered) - 1))]) for fraction in (0.5, 0.985))
    y, x = np.nonzero(excess > np.float32(max(centre + 4 * (high - centre), 0.25)))
    n_alone = np.count_nonzero(_are_alone(image, y[:MAX_PEAKS] + 2, x[:MAX_PEAKS] + 2))
    return {"impulses_per_mpx": n_alone * 1e6 / excess.size}


def _are_alone(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Whether the neighbours of the pixels at `y`, `x` (n,) are like the ground farther out.

    Those of an atom or of a bright speck are raised too, those of a hit are not.
    """
    h, w = image.shape
    reach = np.arange(-3, 4)
    rows = np.clip(y[:, None] + reach, 0, h - 1)
    columns = np.clip(x[:, None] + reach, 0, w - 1)
    patch = image[rows[:, :, None], columns[:, None, :]]
    peak = patch[:, 3, 3]
    neighbour_sum = patch[:, 2:5, 2:5].sum((1, 2))
    surround = (patch.sum((1, 2)) - neighbour_sum) / 40
    neighbour_mean = (neighbour_sum - peak) / 8
    return neighbour_mean - surround < 0.12 * (peak - surround)
