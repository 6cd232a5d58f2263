"""The scale space's maxima on a CPU in float32: large scales on coarser grids, peaks sought where the grids are.

Same semantics as `log_exact.scale_maxima`, same truncated kernels; benchmarks/bench_log.py says how much faster. Scales
of `COARSEN` px and more are computed on every second pixel, from twice that on every fourth, and so on: what a wide
kernel leaves of an image has no detail that the coarser grid could not hold. Responses agree with the exact path within
1e-4 of the intensity range (tests/detect/test_log_fast.py); so positions differ only in ties.
"""

import functools
import math
from collections import deque
from collections.abc import Iterator

import cv2
import numpy as np

from emqa_dask.detect import filters, peaks, scales, surface
from emqa_dask.detect.peaks import Layer
from emqa_dask.detect.scales import Maxima, Where

COARSEN = 4.8  # px; smallest scale that is computed on every second pixel
SMOOTHING = 1.7  # px; Gaussian before 2 x 2 pixels become their mean: what aliases is below 1e-5
HALF_TAPS = 10  # half the kernel of both together; the Gaussian is cut at 5.3 sigma


def scale_maxima(
    image: np.ndarray,
    sigmas: np.ndarray,
    threshold: float | None,
    polarity: str,
    steps: list[int] | None = None,
    most: int | None = None,
    where: Where | None = None,
) -> Maxima:
    """Local maxima of the scale space of `image` (h, w; float32, finite) above `threshold`, strongest first.

    Bright and dark maxima come from one scale space. None as `threshold` takes all; `most` of each polarity are kept,
    also while they are collected (None: all). Memory is about ten float32 images, whatever the number of scales.
    `steps` are the scales' grid steps, where the image is a part of a larger one; `where` says which pixels may hold a
    maximum. An empty image gives none. A flat one answers with 0.002 times its value (the kernels' cut): at thresholds
    below that it is a plateau of maxima.
    """
    if image.size == 0 or len(sigmas) == 0:
        return scales.NOTHING
    floor = -math.inf if threshold is None else float(threshold)
    return peaks.collect(layers(image, sigmas, steps), image.shape, scales.signs(polarity), floor, most, where)[0]


def layers(image: np.ndarray, sigmas: np.ndarray, steps: list[int] | None = None) -> Iterator[Layer]:
    """Yield the scale-normalised response of `image` (h, w; float32) for each of `sigmas` in order, on its grid.

    A layer's memory is used again for the fourth after it on the same grid.
    """
    steps = steps or [step_px(sigma, image.shape) for sigma in sigmas]
    grids = {1: image}
    if max(steps) > 1:
        # Reflection at the far edges lies on the coarse grids only if their step divides the size: else, lay it out.
        margin = halo_px(max(sigmas))
        after = [0 if n % max(steps) == 0 else margin + -(n + margin) % max(steps) for n in image.shape]
        coarse = cv2.copyMakeBorder(image, 0, after[0], 0, after[1], cv2.BORDER_REFLECT)
        for step in (2**k for k in range(1, max(steps).bit_length())):
            coarse = grids[step] = _every_second(coarse)
    rings = {step: deque(maxlen=peaks.ALIVE) for step in grids}
    for sigma, step in zip(sigmas, steps):
        free = rings[step][0] if len(rings[step]) == peaks.ALIVE else None
        rings[step].append(filters.laplace(grids[step], *_kernels(float(sigma), step), 1.0, free))
        yield Layer(rings[step][-1], step)


def step_px(sigma: float, shape: tuple[int, int]) -> int:
    """Grid step (1, 2, 4, ... px) at which `sigma` is computed; 1 in images that are small against its kernel."""
    if min(shape) < 8 * sigma:
        return 1
    return 2 ** max(0, math.floor(math.log2(sigma / COARSEN)) + 1)


def halo_px(sigma: float) -> int:
    """Distance (px) from which pixels no longer touch a peak at `sigma`: kernel, smoothing and interpolation."""
    return math.ceil(4 * sigma) + 1 + (HALF_TAPS + surface.TAPS + 4) * step_px(sigma, (1 << 40, 1 << 40))


def _gaussian() -> np.ndarray:
    taps = np.exp(-0.5 * (np.arange(1 - HALF_TAPS, HALF_TAPS) / SMOOTHING) ** 2)
    return taps / taps.sum()


def _every_second(image: np.ndarray) -> np.ndarray:
    """`image` smoothed, at the centres of its 2 x 2 blocks, where a reflected grid meets itself."""
    return filters.halve(image, np.convolve(_gaussian(), [0.5, 0.5])[:HALF_TAPS].astype(np.float32))


@functools.lru_cache(maxsize=256)
def _kernels(sigma: float, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Halves of the Gaussian and of its scale-normalised second derivative (float32), cut at 4 sigma as scipy does.

    On a coarse grid the kernel is the one that, applied after the smoothing, comes closest to the kernel on all pixels
    (least squares), so that the cut, which lifts a flat image's response by 0.002 of its value, is there as well.
    """
    radius = int(4 * sigma + 0.5)
    norm = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2).sum()
    smoothing = np.ones(1)
    for k in range(step.bit_length() - 1):
        spread = np.zeros(2 * HALF_TAPS * 2**k - 2**k + 1)
        spread[:: 2**k] = np.convolve(_gaussian(), [0.5, 0.5])
        smoothing = np.convolve(smoothing, spread)
    n_side = radius // step + (0 if step == 1 else 3)
    reach = n_side * step + (len(smoothing) - 1) / 2
    x = np.arange(-reach, reach + 1)
    target = np.exp(-0.5 * (x / sigma) ** 2) / norm * np.clip(radius + 1 - abs(x), 0, 1)
    design = np.zeros((len(x), 2 * n_side + 1))
    for column in range(2 * n_side + 1):
        design[column * step : column * step + len(smoothing), column] = smoothing
    both = np.column_stack([target, target * ((x / sigma) ** 2 - 1)])
    if step > 1:
        # The sums, which a flat image answers with, count far more than any single value.
        n = np.arange(-radius, radius + 1)
        smooth = np.exp(-0.5 * (n / sigma) ** 2) / norm
        sums = [smooth.sum(), (smooth * ((n / sigma) ** 2 - 1)).sum()]
        design = np.vstack([design, 1e3 * design.sum(axis=0)])
        both = np.vstack([both, 1e3 * np.array(sums)])
        both = np.linalg.lstsq(design, both, rcond=None)[0]
    halves = (0.5 * (both + both[::-1]))[: n_side + 1].astype(np.float32)
    return np.ascontiguousarray(halves[:, 0]), np.ascontiguousarray(halves[:, 1])
