"""The scale space's maxima on a CPU in float32: separable OpenCV filters, large scales on a coarser grid.

Same semantics as `log.scale_maxima`, same truncated kernels; benchmarks/bench_log.py says how much faster. Scales of
`COARSEN` px and more are computed on every second pixel, from twice that on every fourth, and so on, and interpolated:
what a wide kernel leaves of an image has no detail that the coarser grid could not hold. Responses agree with the
exact path within 1e-4 of the intensity range (tests/detect/test_log_fast.py); so positions differ only in ties.
"""

import functools
import math
from collections.abc import Iterator

import cv2
import numpy as np

from emqa_dask.detect import scales
from emqa_dask.detect.scales import Maxima

COARSEN = 5.5  # px; smallest scale that is computed on every second pixel
SMOOTHING = 1.7  # px; Gaussian before 2 x 2 pixels become their mean: what aliases is below 1e-5
HALF_TAPS = 10  # half the kernel of both together; the Gaussian is cut at 5.3 sigma
NEIGHBOURS = 4  # coarse pixels on each side that an interpolated value is computed from


def scale_maxima(
    image: np.ndarray, sigmas: np.ndarray, threshold: float, polarity: str, steps: list[int] | None = None
) -> Maxima:
    """Local maxima of the scale space of `image` (h, w; float32, finite) above `threshold`, strongest first.

    Bright and dark maxima come from one scale space. Memory is about ten float32 images. `steps` are the scales' grid
    steps, where the image is a part of a larger one. An empty image gives none. A flat one is a plateau of 0.002 times
    its value (the kernels' cut): thresholds below that need an image that was normalised, where flat is 0.
    """
    sides = scales.signs(polarity)
    found = [scales.NOTHING]
    before, here = None, None
    for k, response in enumerate(responses(image, sigmas, steps) if image.size else ()):
        after = _layer(response, sides)
        if here is not None:
            found += _maxima(k - 1, before, here, after, threshold)
        before, here = here, after
    if here is not None:
        found += _maxima(len(sigmas) - 1, before, here, None, threshold)
    return scales.ordered(found)


def responses(image: np.ndarray, sigmas: np.ndarray, steps: list[int] | None = None) -> Iterator[np.ndarray]:
    """Yield the scale-normalised response (h, w; float32, contiguous) of `image` for each of `sigmas` in order."""
    steps = steps or [step_px(sigma, image.shape) for sigma in sigmas]
    grids = {1: image}
    if max(steps) > 1:
        # Reflection at the far edges lies on the coarse grids only if their step divides the size: else, lay it out.
        margin = halo_px(max(sigmas))
        after = [0 if n % max(steps) == 0 else margin + -(n + margin) % max(steps) for n in image.shape]
        coarse = cv2.copyMakeBorder(image, 0, after[0], 0, after[1], cv2.BORDER_REFLECT)
        for step in (2**k for k in range(1, max(steps).bit_length())):
            coarse = grids[step] = _every_second(coarse)
    for sigma, step in zip(sigmas, steps):
        smooth, second = _kernels(float(sigma), step)
        response = _separable(grids[step], second, smooth)
        response += _separable(grids[step], smooth, second)
        yield response if step == 1 else _interpolate(response, step, image.shape)


def step_px(sigma: float, shape: tuple[int, int]) -> int:
    """Grid step (1, 2, 4, ... px) at which `sigma` is computed; 1 in images that are small against its kernel."""
    if min(shape) < 8 * sigma:
        return 1
    return 2 ** max(0, math.floor(math.log2(sigma / COARSEN)) + 1)


def halo_px(sigma: float) -> int:
    """Distance (px) from which pixels no longer touch a response at `sigma`: kernel, smoothing and interpolation."""
    return math.ceil(4 * sigma) + 1 + (HALF_TAPS + NEIGHBOURS + 4) * step_px(sigma, (1 << 40, 1 << 40))


def _separable(image: np.ndarray, along_x: np.ndarray, along_y: np.ndarray) -> np.ndarray:
    return cv2.sepFilter2D(image, cv2.CV_32F, along_x, along_y, borderType=cv2.BORDER_REFLECT)


def _gaussian() -> np.ndarray:
    taps = np.exp(-0.5 * (np.arange(1 - HALF_TAPS, HALF_TAPS) / SMOOTHING) ** 2)
    return taps / taps.sum()


def _every_second(image: np.ndarray) -> np.ndarray:
    """`image` smoothed, at the centres of its 2 x 2 blocks, where a reflected grid meets itself."""
    taps = _gaussian().astype(np.float32)
    half = (image.shape[1] // 2, image.shape[0] // 2)
    return cv2.resize(_separable(image, taps, taps), half, interpolation=cv2.INTER_AREA)


@functools.lru_cache(maxsize=256)
def _kernels(sigma: float, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian and its negative, scale-normalised second derivative (float32), cut at 4 sigma as scipy.ndimage does.

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
    both = np.column_stack([target, target * (1 - (x / sigma) ** 2)])
    if step > 1:
        # The sums, which a flat image answers with, count far more than any single value.
        n = np.arange(-radius, radius + 1)
        smooth = np.exp(-0.5 * (n / sigma) ** 2) / norm
        sums = [smooth.sum(), (smooth * (1 - (n / sigma) ** 2)).sum()]
        design, both = np.vstack([design, 1e3 * design.sum(axis=0)]), np.vstack([both, 1e3 * np.array(sums)])
    taps = np.linalg.lstsq(design, both, rcond=None)[0].astype(np.float32) if step > 1 else both.astype(np.float32)
    return np.ascontiguousarray(taps[:, 0]), np.ascontiguousarray(taps[:, 1])


@functools.lru_cache(maxsize=16)
def _interpolators(step: int) -> list[tuple[int, np.ndarray]]:
    """For each pixel of a block: the anchor and the Lagrange weights (float32) of the coarse pixels around it."""
    kernels = []
    for pixel in range(step):
        offset = (pixel + 0.5) / step - 0.5
        first = math.floor(offset) - NEIGHBOURS + 1
        nodes = np.arange(first, first + 2 * NEIGHBOURS)
        others = [np.delete(nodes, k) for k in range(len(nodes))]
        weights = [np.prod((offset - o) / (node - o)) for node, o in zip(nodes, others)]
        kernels.append((-first, np.array(weights, np.float32)))
    return kernels


def _interpolate(coarse: np.ndarray, step: int, shape: tuple[int, int]) -> np.ndarray:
    """`coarse` on all pixels of an image of `shape`."""
    reflect = {"ddepth": cv2.CV_32F, "borderType": cv2.BORDER_REFLECT}
    kernels = _interpolators(step)
    wide = cv2.merge([cv2.filter2D(coarse, kernel=k[None], anchor=(a, 0), **reflect) for a, k in kernels])
    wide = wide.reshape(len(coarse), -1)
    fine = np.empty((len(coarse), step, wide.shape[1]), np.float32)
    for row, (anchor, kernel) in enumerate(kernels):
        fine[:, row] = cv2.filter2D(wide, kernel=kernel[:, None], anchor=(0, anchor), **reflect)
    return np.ascontiguousarray(fine.reshape(-1, wide.shape[1])[: shape[0], : shape[1]])


def _layer(response: np.ndarray, sides: tuple[int, ...]) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """A response and, for each side, the maximum (of the minimum for dark blobs) of its 3 x 3 surroundings."""
    spread = {1: cv2.dilate, -1: cv2.erode}
    return response, {sign: spread[sign](response, np.ones((3, 3), np.uint8)) for sign in sides}


def _maxima(k: int, before, here, after, threshold: float) -> list[Maxima]:
    """The maxima of scale `k`, one entry a side, given the layers around it (None beyond the ends)."""
    response, peaks = here
    found = []
    for sign, peak in peaks.items():
        is_peak = (
            (response >= peak) & (response > threshold) if sign > 0 else ((response <= peak) & (response < -threshold))
        )
        at = np.flatnonzero(is_peak)
        value = sign * response.ravel()[at]
        for beside in (before, after):
            if beside is not None:
                keep = value >= sign * beside[1][sign].ravel()[at]
                at, value = at[keep], value[keep]
        y, x = np.divmod(at, response.shape[1])
        found.append(scales.maxima(sign, y, x, np.full(len(y), k), value))
    return found
