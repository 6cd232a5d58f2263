"""Local periodicity of a lattice image: how well each place repeats under the lattice translations."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from emqa_dask.tune.band_filter import FilteredImage, blur_image, compute_snr
from emqa_dask.tune.translations import find_translations

MAX_LATTICES = 4  # grains of different orientation that are told apart
HALF_ORDER = 0.45  # of the ordered level: half way to an aperiodic place, which repeats by chance to 0...0.1


class Periodicity(NamedTuple):
    """Order of every place of an image."""

    order: NDArray  # (ceil(h / step), ceil(w / step)) float32: 1 repeats perfectly, about 0 does not
    step: int  # px of the image to a sample of `order`
    n_lattices: int
    window_px: float  # standard deviation of the Gaussian window in which repetition is measured
    snr: float  # median variance of the structure over that of the noise in `Band.signal`


def measure_periodicity(filtered: FilteredImage) -> Periodicity | None:
    """Order of every place: how well it repeats under the lattice translations around it. None without translations.

    The value at a place is the mean, over the better two thirds of the translations (a place at a boundary has no
    neighbours on one side), of the covariance with the translated image in a Gaussian window, over the larger of the
    two variances without noise. Several lattices (grains) are looked for one after the other, each where the earlier
    ones do not repeat; the best counts.
    """
    spacing = filtered.spacing_px
    shifts = find_translations(filtered, None)
    if not len(shifts):
        return None
    snr = compute_snr(filtered)
    # A noisy image needs a wider window for the same certainty.
    window = spacing * float(np.clip(0.5 * snr**-0.5, 0.5, 1.5))
    step = max(1, int(window // 1.75))
    order = measure_repetition(filtered, shifts, window, step)
    is_ordered = order > HALF_ORDER * compute_ordered_level(order)
    # Disordered regions have blurred the first translations; now only the ordered part is used.
    refined_shifts = find_translations(filtered, _enlarge_mask(is_ordered, filtered.signal.shape))
    if len(refined_shifts):
        order = measure_repetition(filtered, refined_shifts, window, step)
    n_lattices = 1
    while n_lattices < MAX_LATTICES:
        grain = _measure_grain(filtered, order, window, step)
        if grain is None:
            break
        order = np.maximum(order, grain)
        n_lattices += 1
    return Periodicity(order, step, n_lattices, window, snr)


def _measure_grain(filtered: FilteredImage, order: NDArray, window: float, step: int) -> NDArray | None:
    """Order under another lattice, if one exists where `order` is low and most of that region follows it; else None."""
    spacing = filtered.spacing_px
    limit = HALF_ORDER * compute_ordered_level(order)
    size = 2 * int(spacing / step) + 1
    is_unordered = ndimage.binary_opening(order < limit, np.ones((size, size)))
    if is_unordered.sum() * step**2 < 100 * spacing**2:
        return None
    shifts = find_translations(filtered, _enlarge_mask(is_unordered, filtered.signal.shape))
    if not len(shifts):
        return None
    grain = measure_repetition(filtered, shifts, window, step)
    return grain if (grain[is_unordered] > limit).mean() > 0.3 else None


def compute_ordered_level(order: NDArray) -> float:
    """Order where the lattice is intact: the median of places with at least half the order of the best hundredth.

    So a crystal may cover as little as a fiftieth of the image.
    """
    top = float(np.quantile(order, 0.99))
    return float(np.median(order[order > HALF_ORDER * top])) if top > 0 else 0.0


def measure_repetition(filtered: FilteredImage, shifts: NDArray, window_px: float, step: int) -> NDArray:
    """Order under the translations `shifts` (n, 2), sampled every `step` px, float32; see `measure_periodicity`.

    Translations that lead out of the image are left out. A place from which all lead out has order 0.
    """
    signal = filtered.signal
    noise = filtered.noise
    height, width = signal.shape
    small = (-(-width // step), -(-height // step))

    def average_in_window(image):
        coarse = image if step == 1 else cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        return blur_image(coarse, window_px / step)

    def shift_image(image, shift):
        size = image.shape[::-1]
        move = np.float32([[1, 0, -shift[1] * size[0] / width], [0, 1, -shift[0] * size[1] / height]])
        return cv2.warpAffine(image, move, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)

    mean = average_in_window(signal)
    total = average_in_window(signal * signal)
    total -= mean * mean
    variance = np.maximum(total - average_in_window(noise), 0.05 * total)
    variance += max(0.1 * float(np.median(variance)), 1e-12)
    coverage = np.ones_like(mean)
    repetitions = np.empty((len(shifts), *mean.shape), np.float32)
    for k, shift in enumerate(shifts):
        shared = average_in_window(signal * shift_image(signal, shift)) - mean * shift_image(mean, shift)
        repetitions[k] = shared / np.maximum(variance, shift_image(variance, shift))
        repetitions[k][shift_image(coverage, shift) < 0.999] = -np.inf
    n_best = max(2, 2 * len(shifts) // 3)
    best = -np.partition(-repetitions, n_best - 1, axis=0)[:n_best]
    is_known = np.isfinite(best)
    return (np.where(is_known, best, 0).sum(axis=0) / np.maximum(is_known.sum(axis=0), 1)).astype(np.float32)


def _enlarge_mask(values: NDArray, shape: tuple[int, int]) -> NDArray:
    return cv2.resize(values.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)
