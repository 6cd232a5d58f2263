"""Maxima of the scale space on a CPU in float32, with large scales on coarser grids.

Meaning and truncated kernels are those of `log_exact.find_scale_maxima`; benchmarks/bench_log.py measures the gain.
Scales of `COARSEN` px and more are computed on every second pixel, from twice that on every fourth, and so on: a wide
kernel removes all detail that the coarser grid cannot hold. Responses agree with the exact path within 1e-4 of the
intensity range (tests/detect/test_log_fast.py), so positions differ only in ties.
"""

import functools
import math
from collections import deque
from collections.abc import Iterator

import cv2
import numpy as np

from emqa_dask.detect import filters, image_halving, peaks, scales, surface
from emqa_dask.detect.peaks import Layer
from emqa_dask.detect.scales import Maxima, SearchRegion

COARSEN = 4.8  # px; smallest scale that is computed on every second pixel
SMOOTHING = 1.7  # px; Gaussian before 2 x 2 pixels become their mean: what aliases is below 1e-5
HALF_TAPS = 10  # half the kernel of both together; the Gaussian is cut at 5.3 sigma


def find_scale_maxima(
    image: np.ndarray,
    sigmas: np.ndarray,
    threshold: float | None,
    polarity: str,
    steps: list[int] | None = None,
    max_per_polarity: int | None = None,
    region: SearchRegion | None = None,
) -> Maxima:
    """Local maxima of the scale space of `image` (h, w; float32, finite) above `threshold`, strongest first.

    Bright and dark maxima come from one scale space. `threshold` None gives all. At most `max_per_polarity` of each
    polarity are kept, also while they are collected (None: all). Memory is about ten float32 images, whatever the
    number of scales. `steps`: the scales' grid steps, where the image is a part of a larger one. `region`: the pixels
    that may hold a maximum. An empty image gives none. The response of a flat one is 0.002 times its value (the
    kernels' truncation): at thresholds below that it is a plateau of maxima.
    """
    if image.size == 0 or len(sigmas) == 0:
        return scales.NO_MAXIMA
    floor = -math.inf if threshold is None else float(threshold)
    layers = compute_layers(image, sigmas, steps)
    signs = scales.parse_polarity(polarity)
    maxima, _ = peaks.collect_peaks(layers, image.shape, signs, floor, max_per_polarity, region)
    return maxima


def compute_layers(image: np.ndarray, sigmas: np.ndarray, steps: list[int] | None = None) -> Iterator[Layer]:
    """Yield the scale-normalised response of `image` (h, w; float32) for each of `sigmas` in order, on its grid.

    The memory of a layer is reused by the fourth one after it on the same grid.
    """
    steps = steps or [choose_grid_step(sigma, image.shape) for sigma in sigmas]
    grids = {1: image}
    if max(steps) > 1:
        # Reflection at the far edges lies on the coarse grids only if their step divides the size: else, lay it out.
        margin = compute_halo(max(sigmas))
        far_margins = [0 if n % max(steps) == 0 else margin + -(n + margin) % max(steps) for n in image.shape]
        coarse = cv2.copyMakeBorder(image, 0, far_margins[0], 0, far_margins[1], cv2.BORDER_REFLECT)
        for step in (2**k for k in range(1, max(steps).bit_length())):
            coarse = grids[step] = _halve_image(coarse)
    rings = {step: deque(maxlen=peaks.N_LAYERS_IN_MEMORY) for step in grids}
    for sigma, step in zip(sigmas, steps):
        free = rings[step][0] if len(rings[step]) == peaks.N_LAYERS_IN_MEMORY else None
        rings[step].append(filters.compute_laplacian(grids[step], *make_kernels(float(sigma), step), 1.0, free))
        yield Layer(rings[step][-1], step)


def choose_grid_step(sigma: float, shape: tuple[int, int]) -> int:
    """Grid step (1, 2, 4, ... px) at which `sigma` is computed; 1 in images that are small against its kernel."""
    if min(shape) < 8 * sigma:
        return 1
    return 2 ** max(0, math.floor(math.log2(sigma / COARSEN)) + 1)


def compute_halo(sigma: float) -> int:
    """Distance in px beyond which pixels do not influence a peak at `sigma`: kernel, smoothing and interpolation."""
    return math.ceil(4 * sigma) + 1 + (HALF_TAPS + surface.TAPS + 4) * choose_grid_step(sigma, (1 << 40, 1 << 40))


def _make_smoothing_kernel() -> np.ndarray:
    taps = np.exp(-0.5 * (np.arange(1 - HALF_TAPS, HALF_TAPS) / SMOOTHING) ** 2)
    return taps / taps.sum()


def _halve_image(image: np.ndarray) -> np.ndarray:
    """`image` smoothed, at the centres of its 2 x 2 blocks: there a reflected grid continues itself."""
    return image_halving.halve(image, np.convolve(_make_smoothing_kernel(), [0.5, 0.5])[:HALF_TAPS].astype(np.float32))


@functools.lru_cache(maxsize=256)
def make_kernels(sigma: float, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Halves of the Gaussian and of its scale-normalised second derivative (float32), cut at 4 sigma as scipy does.

    On a coarse grid the kernel is the one that, applied after the smoothing, comes closest to the kernel on all pixels
    (least squares), so that the cut, which lifts a flat image's response by 0.002 of its value, is there as well.
    """
    radius = int(4 * sigma + 0.5)
    norm = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2).sum()
    smoothing = np.ones(1)
    for k in range(step.bit_length() - 1):
        spread = np.zeros(2 * HALF_TAPS * 2**k - 2**k + 1)
        spread[:: 2**k] = np.convolve(_make_smoothing_kernel(), [0.5, 0.5])
        smoothing = np.convolve(smoothing, spread)
    n_side = radius // step + (0 if step == 1 else 3)
    reach = n_side * step + (len(smoothing) - 1) / 2
    x = np.arange(-reach, reach + 1)
    target = np.exp(-0.5 * (x / sigma) ** 2) / norm * np.clip(radius + 1 - abs(x), 0, 1)
    design = np.zeros((len(x), 2 * n_side + 1))
    for column in range(2 * n_side + 1):
        design[column * step : column * step + len(smoothing), column] = smoothing
    fit_columns = np.column_stack([target, target * ((x / sigma) ** 2 - 1)])
    if step > 1:
        # The sums are the response of a flat image: they weigh far more than any single value.
        n = np.arange(-radius, radius + 1)
        smooth = np.exp(-0.5 * (n / sigma) ** 2) / norm
        sums = [smooth.sum(), (smooth * ((n / sigma) ** 2 - 1)).sum()]
        design = np.vstack([design, 1e3 * design.sum(axis=0)])
        fit_columns = np.vstack([fit_columns, 1e3 * np.array(sums)])
        fit_columns = np.linalg.lstsq(design, fit_columns, rcond=None)[0]
    halves = (0.5 * (fit_columns + fit_columns[::-1]))[: n_side + 1].astype(np.float32)
    return np.ascontiguousarray(halves[:, 0]), np.ascontiguousarray(halves[:, 1])
