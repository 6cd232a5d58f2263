"""Lattice translations of an image, from peaks of its autocorrelation."""

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.spatial import cKDTree

from emqa_dask.tune.band_filter import FilteredImage

MAX_TRANSLATION_SPACINGS = 7.0  # longest translation looked for, in units of the points' spacing
MIN_PEAK_DEVIATIONS = 8.0  # of an aperiodic image's autocorrelation, whose highest of 1000 values reaches 4
MIN_RELATIVE_HEIGHT = 0.75  # of the highest peak; lower peaks are pseudo-translations of a larger cell
N_TRANSLATIONS = 12  # translations used for a lattice, plus those of the same length as the last


def find_translations(filtered: FilteredImage, mask: NDArray | None) -> NDArray:
    """The shortest lattice translations (n, 2; y, x px, with their opposites) of the image in `mask`.

    `mask` is (h, w) bool, or None: everywhere. n is 0 without a significant peak of the autocorrelation.
    """
    correlation, y, x = _find_peaks(filtered, mask)
    if not len(y):
        return np.empty((0, 2))
    height = correlation[y, x]
    y, x = (axis[height >= MIN_RELATIVE_HEIGHT * height.max()] for axis in (y, x))
    reach = len(correlation) // 2
    peaks = np.stack(
        [y - reach + _locate_vertex(correlation, y, x, 1, 0), x - reach + _locate_vertex(correlation, y, x, 0, 1)], 1
    )
    peaks = _select_lattice(peaks, 1.0 + 0.1 * filtered.spacing_px)
    length = np.hypot(*peaks.T)
    max_length = np.sort(length)[min(N_TRANSLATIONS, len(length)) - 1]
    return peaks[length <= 1.03 * max_length + 0.1]


def _select_lattice(peaks: NDArray, tolerance_px: float) -> NDArray:
    """Those of `peaks` (n, 2) that belong to the lattice of the shortest one; the others belong to other grains.

    The second vector is the shortest one in another direction whose sum and difference with the first are peaks, too.
    """
    tree = cKDTree(peaks)
    order = np.lexsort((*np.round(peaks.T, 1), np.round(np.hypot(*peaks.T), 1)))
    first_vector = peaks[order[0]]
    for second_vector in peaks[order[1:]]:
        area = first_vector[0] * second_vector[1] - first_vector[1] * second_vector[0]
        if abs(area) < 0.3 * np.hypot(*first_vector) * np.hypot(*second_vector):
            continue
        if (tree.query([first_vector + second_vector, first_vector - second_vector])[0] < tolerance_px).all():
            steps = np.rint(peaks @ np.linalg.inv([first_vector, second_vector]))
            return peaks[np.hypot(*(peaks - steps @ [first_vector, second_vector]).T) < tolerance_px]
    return peaks


def find_nearest_peak_px(filtered: FilteredImage) -> float:
    """The shortest distance of a peak of the autocorrelation, px, lattice translation or not; NaN without any."""
    correlation, y, x = _find_peaks(filtered, None)
    reach = len(correlation) // 2
    return float(np.hypot(y - reach, x - reach).min()) if len(y) else float("nan")


def _find_peaks(filtered: FilteredImage, mask: NDArray | None) -> tuple[NDArray, NDArray, NDArray]:
    """The autocorrelation, and the rows and columns of its peaks that stand out of their ring by 8 standard deviations.

    The ring's mean is taken off first, so that an amorphous material's preferred distance is no lattice. The standard
    deviation is Bartlett's for an image without order.
    """
    correlation, reach, n_px = compute_autocorrelation(
        filtered.signal, int(MAX_TRANSLATION_SPACINGS * filtered.spacing_px), mask
    )
    lag = np.arange(-reach, reach + 1)
    radius = np.hypot(lag[:, None], lag[None, :])
    ring = np.rint(radius).astype(int)
    mean = ndimage.mean(correlation, ring, np.arange(ring.max() + 1))
    is_outer = radius > 0.6 * filtered.spacing_px
    deviation = np.sqrt((correlation[~is_outer] ** 2).sum() / n_px)
    width = 2 * int(max(1, 0.2 * filtered.spacing_px)) + 1
    peak = (correlation == ndimage.maximum_filter(correlation, width)) & is_outer & (radius < reach - 1)
    peak &= correlation - mean[ring] > MIN_PEAK_DEVIATIONS * deviation
    return correlation, *np.nonzero(peak)


def _locate_vertex(values: NDArray, y: NDArray, x: NDArray, dy: int, dx: int) -> NDArray:
    """Offset of the vertex of the parabola through three values around (y, x)."""
    previous = values[y - dy, x - dx]
    centre = values[y, x]
    following = values[y + dy, x + dx]
    bend = previous - 2 * centre + following
    return np.where(bend < 0, 0.5 * (previous - following) / np.where(bend < 0, bend, 1), 0.0)


def compute_autocorrelation(signal: NDArray, reach: int, mask: NDArray | None) -> tuple[NDArray, int, float]:
    """Autocorrelation of `signal` in `mask`, 1 at lag 0, for lags up to `reach` px or half the image.

    Returns the (2 reach + 1)^2 values, the reach, and the number of pixels. Lags at which less than 2 % of the pixels
    have a partner are 0.
    """
    height, width = signal.shape
    reach = max(2, min(reach, min(height, width) // 2))
    weight = np.ones(signal.shape, np.float32) if mask is None else mask.astype(np.float32)
    n_px = float(weight.sum())
    if n_px == 0:
        return np.zeros((2 * reach + 1, 2 * reach + 1)), reach, 1.0
    centred = (signal - float((signal * weight).sum()) / n_px) * weight
    shape = [fft.next_fast_len(n + reach + 1, real=True) for n in signal.shape]

    def correlate_lags(values):
        power = np.abs(fft.rfft2(values, shape)) ** 2
        return np.roll(fft.irfft2(power, shape), (reach, reach), (0, 1))[: 2 * reach + 1, : 2 * reach + 1]

    n_pixel_pairs = correlate_lags(weight)
    values = np.where(n_pixel_pairs > 0.02 * n_px, correlate_lags(centred) / np.maximum(n_pixel_pairs, 1), 0)
    # The FFT's rounding breaks the symmetry of exact opposites, and a peak must not lose its own.
    values = (values + values[::-1, ::-1]) / 2
    return values / max(float(values[reach, reach]), 1e-30), reach, n_px
