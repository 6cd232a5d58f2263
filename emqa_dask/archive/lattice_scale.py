"""The pixel size of an image of a crystal whose lattice spacing is known, from the peaks of its power spectrum."""

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SIDE_PX = 1024  # of the part of the image that is evaluated, at most
MIN_SIDE_PX = 128
SPACING_PX = (3.0, 64.0)  # spacings that are looked for: below, pixels are too coarse; above, shapes have peaks too
MIN_PEAK_RATIO = 30.0  # peak to median power at its frequency; noise reaches 12 in spectra of 1024 px
MIN_SHARE = 0.15  # of the highest peak: the innermost one, of the largest spacing, is not always the highest
MAX_WIDTH_PX = 3.0  # mean radius of a peak in the spectrum: lattices give spots, shapes give rings and streaks
AGREEMENT = 0.03  # relative difference of the spacings of the innermost peaks of one lattice


def measure_spacing_px(image: NDArray) -> float:
    """The largest spacing of lattice planes in `image` (h, w), px; NaN without clear peaks in its power spectrum."""
    side = min(*image.shape, SIDE_PX)
    if side < MIN_SIDE_PX:
        return math.nan
    y, x = ((n - side) // 2 for n in image.shape)
    part = np.nan_to_num(np.asarray(image[y : y + side, x : x + side], np.float32), posinf=0, neginf=0)
    ratio, radius = _compute_peak_ratio(part)
    is_peak = (ndimage.maximum_filter(ratio, 5, mode="nearest") == ratio) & (ratio >= MIN_PEAK_RATIO)
    is_peak &= (radius >= side / SPACING_PX[1]) & (radius <= side / SPACING_PX[0])
    rows, columns = np.nonzero(is_peak)
    strengths = ratio[rows, columns]
    is_strong = strengths >= MIN_SHARE * strengths.max(initial=0)
    radii = [_refine_radius(ratio, r, c, side) for r, c in zip(rows[is_strong], columns[is_strong], strict=True)]
    radii = sorted(r for r in radii if r > 0)
    if not radii:
        return math.nan
    inner = [r for r in radii if r <= radii[0] * (1 + AGREEMENT)]
    return side / float(np.mean(inner))


def _compute_peak_ratio(part: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Power over the median power at the same frequency, of half the plane, and the radius in px of the spectrum."""
    side = len(part)
    window = np.hanning(side).astype(np.float32)
    power = np.abs(np.fft.rfft2((part - part.mean()) * window[:, None] * window)) ** 2
    power = np.fft.fftshift(power, axes=0)
    radius = np.hypot(np.arange(side)[:, None] - side // 2, np.arange(power.shape[1]))
    rings = radius.astype(int)
    order = np.argsort(rings, axis=None, kind="stable")
    starts = np.searchsorted(rings.ravel()[order], np.arange(rings.max() + 2))
    sorted_power = power.ravel()[order]
    pairs = pairwise(starts)
    medians = np.array([np.median(sorted_power[a:b]) if b > a else np.inf for a, b in pairs])
    return (power / np.maximum(medians[rings], 1e-30)).astype(np.float32), radius


def _refine_radius(ratio: NDArray[np.float32], row: int, column: int, side: int) -> float:
    """Radius of the centre of mass of a peak, px of the spectrum; NaN for one that is no spot."""
    box, y, x = _cut_box(ratio, row, column, 6)
    is_high = box >= 0.25 * ratio[row, column]
    if np.hypot(y - row, x - column)[is_high].mean() > MAX_WIDTH_PX:
        return math.nan
    box, y, x = _cut_box(ratio, row, column, 2)
    total = float(box.sum())
    return math.hypot(float((box * y).sum()) / total - side // 2, float((box * x).sum()) / total)


def _cut_box(ratio: NDArray[np.float32], row: int, column: int, reach: int) -> tuple[NDArray, NDArray, NDArray]:
    """Values within `reach` of a peak, with their rows and columns."""
    y0, x0 = max(row - reach, 0), max(column - reach, 0)
    box = ratio[y0 : row + reach + 1, x0 : column + reach + 1]
    y, x = np.indices(box.shape)
    return box, y + y0, x + x0
