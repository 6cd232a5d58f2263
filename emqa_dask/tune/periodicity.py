"""Local periodicity of a lattice image: its lattice translations, and how well each place repeats under them."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.spatial import cKDTree

MAX_TRANSLATION_SPACINGS = 7.0  # longest translation looked for, in units of the points' spacing
MIN_PEAK_DEVIATIONS = (
    8.0  # standard deviations of an aperiodic image's autocorrelation; the highest of 1000 values reaches 4
)
MIN_RELATIVE_HEIGHT = 0.75  # of the highest peak: a translation, lower ones are pseudo-translations of a larger cell
N_TRANSLATIONS = 12  # translations used for a lattice, plus those of the same length as the last
MAX_LATTICES = 4  # grains of different orientation that are told apart
HALF_ORDER = 0.45  # of the ordered level: midway to an aperiodic place, which repeats by chance to 0...0.1


class FilteredImage(NamedTuple):
    signal: NDArray  # (h, w) float32: the image between 0.1 and 1 spacing, divided by its local contrast
    noise: NDArray  # (h, w) float32: variance in `signal` that white noise of the image's own level gives
    texture: (
        NDArray  # (h, w) float32: contrast finer than half a spacing, less noise, in the image's standard deviation
    )
    spacing_px: float


class Periodicity(NamedTuple):
    order: NDArray  # (ceil(h / step), ceil(w / step)) float32: 1 repeats perfectly, about 0 does not
    step: int  # px of the image to a sample of `order`
    n_lattices: int
    window_px: float  # standard deviation of the Gaussian window in which repetition is measured
    snr: float  # median variance of the structure over that of the noise in `Band.signal`


def filter_band(image: NDArray, spacing_px: float) -> FilteredImage:
    """`image` (h, w, finite) without noise finer than a column and background coarser than the spacing.

    The noise level is Immerkaer's (Comput. Vis. Image Underst. 64 (1996) 300), locally; noise that a detector has
    blurred counts as structure. Gain and offset of the image drop out.
    """
    pixels = np.asarray(image, np.float32) if image.dtype != np.float64 else image
    pixels = ((pixels - pixels.mean(dtype=np.float64)) / max(float(pixels.std(dtype=np.float64)), 1e-30)).astype(
        np.float32
    )
    fine = max(0.6, 0.1 * spacing_px)
    smooth = blur_image(pixels, fine)
    signal = smooth - blur_image(pixels, spacing_px)
    kernel = np.outer([1, -2, 1], [1, -2, 1]).astype(np.float32)
    rough = cv2.filter2D(pixels, -1, kernel, borderType=cv2.BORDER_REFLECT_101) ** 2 / 36
    noise = blur_image(rough, 2 * spacing_px) / (4 * np.pi * fine * fine)
    # Half a spacing, so that a step (a particle's edge) does not count as texture far from it.
    detail = blur_image((smooth - blur_image(pixels, max(2 * fine, 0.4 * spacing_px))) ** 2, 0.5 * spacing_px)
    contrast = np.sqrt(blur_image(signal * signal, spacing_px))
    contrast += max(0.1 * float(np.median(contrast)), 1e-6)
    return FilteredImage(signal / contrast, noise / contrast**2, np.sqrt(np.maximum(detail - 2 * noise, 0)), spacing_px)


def measure_periodicity(found: FilteredImage) -> Periodicity | None:
    """How well every place of `found` repeats under the lattice translations around it; None where there are none.

    The value at a place is the mean, over the better two thirds of the translations (a place at a boundary has no
    neighbours on one side), of the covariance with the translated image in a Gaussian window, over the larger of the
    two variances without noise. Several lattices (grains) are looked for one after the other, each where the earlier
    ones do not repeat; the best counts.
    """
    spacing = found.spacing_px
    shifts = find_translations(found, None)
    if not len(shifts):
        return None
    snr = compute_snr(found)
    # A noisy image needs a wider window for the same certainty.
    window = spacing * float(np.clip(0.5 * snr**-0.5, 0.5, 1.5))
    step = max(1, int(window // 1.75))
    order = measure_repetition(found, shifts, window, step)
    ordered = order > HALF_ORDER * compute_ordered_level(order)
    # The first translations were blurred by whatever has no order; now only the ordered part speaks.
    refined = find_translations(found, _enlarge_mask(ordered, found.signal.shape))
    if len(refined):
        order = measure_repetition(found, refined, window, step)
    n_lattices = 1
    while n_lattices < MAX_LATTICES:
        grain = _measure_grain(found, order, window, step)
        if grain is None:
            break
        order = np.maximum(order, grain)
        n_lattices = n_lattices + 1
    return Periodicity(order, step, n_lattices, window, snr)


def compute_snr(found: FilteredImage) -> float:
    """Median variance of the structure over that of white noise, in `found.signal`; at most 1e6."""
    excess = float(np.median(blur_image(found.signal**2, 2 * found.spacing_px) - found.noise))
    return max(excess, 1e-3) / max(float(np.median(found.noise)), 1e-6)


def _measure_grain(found: FilteredImage, order: NDArray, window: float, step: int) -> NDArray | None:
    """The repetition under another lattice, if there is one where `order` is low and most of that place follows it."""
    spacing = found.spacing_px
    limit = HALF_ORDER * compute_ordered_level(order)
    size = 2 * int(spacing / step) + 1
    rest = ndimage.binary_opening(order < limit, np.ones((size, size)))
    if rest.sum() * step**2 < 100 * spacing**2:
        return None
    shifts = find_translations(found, _enlarge_mask(rest, found.signal.shape))
    if not len(shifts):
        return None
    grain = measure_repetition(found, shifts, window, step)
    return grain if (grain[rest] > limit).mean() > 0.3 else None


def compute_ordered_level(order: NDArray) -> float:
    """What `order` is where the lattice is intact: the median of what is at least half ordered, measured by the most
    ordered hundredth, so that a crystal may cover as little as a fiftieth of the image."""
    top = float(np.quantile(order, 0.99))
    return float(np.median(order[order > HALF_ORDER * top])) if top > 0 else 0.0


def find_translations(found: FilteredImage, where: NDArray | None) -> NDArray:
    """The shortest lattice translations (n, 2; y, x px, with their opposites) of the image `where` (h, w, bool; None:
    everywhere); n = 0 where no peak of the autocorrelation stands out."""
    correlation, y, x = _find_peaks(found, where)
    if not len(y):
        return np.empty((0, 2))
    height = correlation[y, x]
    y, x = (axis[height >= MIN_RELATIVE_HEIGHT * height.max()] for axis in (y, x))
    reach = len(correlation) // 2
    fine = np.stack(
        [y - reach + _locate_vertex(correlation, y, x, 1, 0), x - reach + _locate_vertex(correlation, y, x, 0, 1)], 1
    )
    fine = _select_lattice(fine, 1.0 + 0.1 * found.spacing_px)
    length = np.hypot(*fine.T)
    last = np.sort(length)[min(N_TRANSLATIONS, len(length)) - 1]
    return fine[length <= 1.03 * last + 0.1]


def _select_lattice(peaks: NDArray, tolerance_px: float) -> NDArray:
    """Those of `peaks` (n, 2) that belong to the lattice of the shortest one: grains show theirs all at once.

    The second vector is the shortest one in another direction whose sum and difference with the first are peaks, too.
    """
    tree = cKDTree(peaks)
    turn = np.lexsort((*np.round(peaks.T, 1), np.round(np.hypot(*peaks.T), 1)))
    first = peaks[turn[0]]
    for second in peaks[turn[1:]]:
        area = first[0] * second[1] - first[1] * second[0]
        if abs(area) < 0.3 * np.hypot(*first) * np.hypot(*second):
            continue
        if (tree.query([first + second, first - second])[0] < tolerance_px).all():
            steps = np.rint(peaks @ np.linalg.inv([first, second]))
            return peaks[np.hypot(*(peaks - steps @ [first, second]).T) < tolerance_px]
    return peaks


def find_nearest_peak_px(found: FilteredImage) -> float:
    """The shortest distance at which the image resembles itself, a lattice translation or not; NaN without any."""
    correlation, y, x = _find_peaks(found, None)
    reach = len(correlation) // 2
    return float(np.hypot(y - reach, x - reach).min()) if len(y) else float("nan")


def _find_peaks(found: FilteredImage, where: NDArray | None) -> tuple[NDArray, NDArray, NDArray]:
    """The autocorrelation, and the rows and columns of its peaks that stand out of their ring by 8 standard deviations.

    The ring's mean is taken off first, so that an amorphous material's preferred distance is no lattice. The standard
    deviation is Bartlett's for an image without order.
    """
    correlation, reach, n_px = compute_autocorrelation(
        found.signal, int(MAX_TRANSLATION_SPACINGS * found.spacing_px), where
    )
    lag = np.arange(-reach, reach + 1)
    radius = np.hypot(lag[:, None], lag[None, :])
    ring = np.rint(radius).astype(int)
    mean = ndimage.mean(correlation, ring, np.arange(ring.max() + 1))
    beyond = radius > 0.6 * found.spacing_px
    deviation = np.sqrt((correlation[~beyond] ** 2).sum() / n_px)
    width = 2 * int(max(1, 0.2 * found.spacing_px)) + 1
    peak = (correlation == ndimage.maximum_filter(correlation, width)) & beyond & (radius < reach - 1)
    peak &= correlation - mean[ring] > MIN_PEAK_DEVIATIONS * deviation
    return correlation, *np.nonzero(peak)


def _locate_vertex(values: NDArray, y: NDArray, x: NDArray, dy: int, dx: int) -> NDArray:
    """Offset of the vertex of the parabola through three values around (y, x)."""
    before = values[y - dy, x - dx]
    here = values[y, x]
    after = values[y + dy, x + dx]
    bend = before - 2 * here + after
    return np.where(bend < 0, 0.5 * (before - after) / np.where(bend < 0, bend, 1), 0.0)


def compute_autocorrelation(signal: NDArray, reach: int, where: NDArray | None) -> tuple[NDArray, int, float]:
    """Autocorrelation of `signal` `where` it counts, 1 at lag 0, for lags up to `reach` px or half the image.

    Returns the (2 reach + 1)^2 values, the reach, and the number of pixels. Lags at which less than 2 % of the pixels
    have a partner are 0.
    """
    height, width = signal.shape
    reach = max(2, min(reach, min(height, width) // 2))
    weight = np.ones(signal.shape, np.float32) if where is None else where.astype(np.float32)
    n_px = float(weight.sum())
    if n_px == 0:
        return np.zeros((2 * reach + 1, 2 * reach + 1)), reach, 1.0
    centred = (signal - float((signal * weight).sum()) / n_px) * weight
    shape = [fft.next_fast_len(n + reach + 1, real=True) for n in signal.shape]

    def lags(values):
        power = np.abs(fft.rfft2(values, shape)) ** 2
        return np.roll(fft.irfft2(power, shape), (reach, reach), (0, 1))[: 2 * reach + 1, : 2 * reach + 1]

    pairs = lags(weight)
    values = np.where(pairs > 0.02 * n_px, lags(centred) / np.maximum(pairs, 1), 0)
    # The FFT's rounding breaks the symmetry of exact opposites, and a peak must not lose its own.
    values = (values + values[::-1, ::-1]) / 2
    return values / max(float(values[reach, reach]), 1e-30), reach, n_px


def measure_repetition(found: FilteredImage, shifts: NDArray, window_px: float, step: int) -> NDArray:
    """`measure`'s value for `shifts` (n, 2), sampled every `step` px, float32; translations out of the image are left
    out, and a place from which all lead out counts as 0."""
    signal = found.signal
    noise = found.noise
    height, width = signal.shape
    small = (-(-width // step), -(-height // step))

    def windowed(values):
        coarse = values if step == 1 else cv2.resize(values, small, interpolation=cv2.INTER_AREA)
        return blur_image(coarse, window_px / step)

    def shifted(values, shift):
        size = values.shape[::-1]
        move = np.float32([[1, 0, -shift[1] * size[0] / width], [0, 1, -shift[0] * size[1] / height]])
        return cv2.warpAffine(values, move, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)

    mean = windowed(signal)
    total = windowed(signal * signal)
    total -= mean * mean
    variance = np.maximum(total - windowed(noise), 0.05 * total)
    variance += max(0.1 * float(np.median(variance)), 1e-12)
    inside = np.ones_like(mean)
    values = np.empty((len(shifts), *mean.shape), np.float32)
    for k, shift in enumerate(shifts):
        shared = windowed(signal * shifted(signal, shift)) - mean * shifted(mean, shift)
        values[k] = shared / np.maximum(variance, shifted(variance, shift))
        values[k][shifted(inside, shift) < 0.999] = -np.inf
    n_best = max(2, 2 * len(shifts) // 3)
    best = -np.partition(-values, n_best - 1, axis=0)[:n_best]
    known = np.isfinite(best)
    return (np.where(known, best, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)).astype(np.float32)


def blur_image(values: NDArray, sigma_px: float) -> NDArray:
    """`values` under a Gaussian of `sigma_px`, mirrored at the edges, float32."""
    return cv2.GaussianBlur(np.asarray(values, np.float32), (0, 0), sigma_px, borderType=cv2.BORDER_REFLECT_101)


def _enlarge_mask(values: NDArray, shape: tuple[int, int]) -> NDArray:
    return cv2.resize(values.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)
