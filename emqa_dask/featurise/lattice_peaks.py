"""Peaks of a lattice in the power spectrum of an image: the part of the power that they have."""

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

SIDE_PX = 512  # at most of this side, from the middle: peaks of a lattice are sharp enough
MIN_SIDE_PX = 64
MIN_FREQUENCY_CPP = 1 / 60  # columns are nearer to each other
MIN_RATIO = 40.0  # of a peak to the median of its ring: 1e6 exponential values reach 20
MIN_SINE = 0.35  # of the angle between two peaks: lines in one direction are no lattice
REACH = 1  # frequencies around a peak that count to it: the Hann window's width


def measure_lattice_fraction(image: NDArray) -> float:
    """Part of the power, between MIN_FREQUENCY_CPP and 0.5 cycles/px, that is in sharp peaks of a 2D lattice.

    `image` is (h, w), finite. 0 without two peaks in different directions, and for images below MIN_SIDE_PX.
    """
    h, w = (min(SIDE_PX, n) for n in image.shape)
    if min(h, w) < MIN_SIDE_PX:
        return 0.0
    y0, x0 = ((n - m) // 2 for n, m in zip(image.shape, (h, w)))
    pixels = np.asarray(image[y0 : y0 + h, x0 : x0 + w], np.float32)
    window = np.hanning(h)[:, None] * np.hanning(w)[None]
    power = np.abs(fft.fft2((pixels - pixels.mean()) * window, workers=1)) ** 2
    frequency_y = fft.fftfreq(h)[:, None]
    frequency_x = fft.fftfreq(w)[None]
    frequency = np.hypot(frequency_y, frequency_x)
    is_counted = (frequency >= MIN_FREQUENCY_CPP) & (frequency <= 0.5)
    total = float(power[is_counted].sum())
    if total <= 0:
        return 0.0
    ratio = power / _compute_ring_medians(power, frequency, max(h, w))
    is_peak = is_counted & (ratio >= MIN_RATIO) & (power == ndimage.maximum_filter(power, 5))
    y, x = np.nonzero(is_peak)
    if len(y) < 2 or not _has_two_directions(frequency_y[y, 0], frequency_x[0, x], power[y, x]):
        return 0.0
    is_in_peak = ndimage.binary_dilation(is_peak, np.ones((2 * REACH + 1, 2 * REACH + 1), bool)) & is_counted
    return float(power[is_in_peak].sum()) / total


def _compute_ring_medians(power: NDArray, frequency: NDArray, n_rings: int) -> NDArray:
    """Median power of the ring of each frequency, of the shape of `power`."""
    rings = np.minimum((frequency * n_rings / 2).astype(int), n_rings)
    medians = ndimage.median(power, rings, np.arange(rings.max() + 1))
    return np.maximum(medians, 1e-12 * power.max())[rings]


def _has_two_directions(y: NDArray, x: NDArray, power: NDArray) -> bool:
    """Whether a peak lies in another direction than the strongest one."""
    first = int(np.argmax(power))
    sines = np.abs(y * x[first] - x * y[first]) / np.maximum(np.hypot(y, x) * np.hypot(y[first], x[first]), 1e-12)
    return bool((sines >= MIN_SINE).any())
