"""Scale spaces of a batch of images on its device in float32, with large scales on coarser grids, as in `log_fast`.

A few calls filter all images at once. Layers on coarse grids are interpolated to all pixels, by the weights that
`surface` uses, so that a single comparison with the neighbours in place and scale gives all maxima: on a GPU that costs
less than following each maximum.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from emqa_dask.backend import get_array_modules, get_skimage
from emqa_dask.detect import batch_peaks, log_fast, scales
from emqa_dask.detect.filters import reflect_indices
from emqa_dask.detect.scales import Maxima, SearchRegion
from emqa_dask.detect.surface import TAPS, compute_lagrange_weights


def find_batch_maxima(
    images: Any,
    sigmas: np.ndarray,
    threshold: float,
    polarity: str,
    steps: list[int] | None = None,
    max_per_polarity: int | None = None,
    region: SearchRegion | None = None,
) -> list[Maxima]:
    """`log_fast.find_scale_maxima` of each of `images` (n, h, w; float32, finite), on their device.

    The mask of `region` is (n, h, w) on the device. All pixels are compared with their neighbours: some maxima by a
    hair on ridges, which the fast path passes by, are among them, as they are in the exact path. Memory is about
    60 bytes for each pixel, whatever the number of scales.
    """
    if images.size == 0 or len(sigmas) == 0:
        return [scales.NO_MAXIMA] * len(images)
    layers = compute_batch_layers(images, sigmas, steps)
    maxima, _ = batch_peaks.collect_batch_peaks(
        layers, images, scales.parse_polarity(polarity), threshold, max_per_polarity, region
    )
    return maxima


def compute_batch_layers(images: Any, sigmas: np.ndarray, steps: list[int] | None = None) -> Iterator[Any]:
    """Yield the scale-normalised response (n, h, w; float32) of `images` for each of `sigmas`, on all pixels.

    `steps`: the scales' grid steps, where the images are parts of larger ones.
    """
    shape = images.shape[1:]
    steps = steps or [log_fast.choose_grid_step(sigma, shape) for sigma in sigmas]
    grids = _make_grids(images, max(steps), log_fast.compute_halo(max(sigmas)))
    for sigma, step in zip(sigmas, steps):
        yield _interpolate(_filter_laplace(grids[step], float(sigma), step), step, shape)


def _make_grids(images: Any, largest_step: int, margin: int) -> dict[int, Any]:
    """`images` on every pixel, every second one, and so on, by step.

    Reflection at the far edges lies on the coarse grids only if their step divides the size: else, it is laid out, over
    `margin` px at least.
    """
    xp, _ = get_array_modules(images)
    grids = {1: images}
    coarse = images
    for axis in (1, 2):
        size = images.shape[axis]
        if size % largest_step:
            far_margin = margin + -(size + margin) % largest_step
            coarse = coarse.take(xp.asarray(reflect_indices(size, far_margin)[far_margin:]), axis=axis)
    for step in (2**k for k in range(1, largest_step.bit_length())):
        coarse = grids[step] = halve_batch(coarse)
    return grids


def halve_batch(images: Any) -> Any:
    """`images` (n, h, w) smoothed, at the centres of their 2 x 2 blocks, as by `log_fast`; a last odd line is left out.

    On a GPU this is cuCIM's `filters.gaussian` and `transform.downscale_local_mean`, or cupyx where cuCIM is missing.
    """
    _, ndi = get_array_modules(images)
    skimage = get_skimage(images)
    n, height, width = images.shape
    images = images[:, : height // 2 * 2, : width // 2 * 2]
    truncate = (log_fast.HALF_TAPS - 1) / log_fast.SMOOTHING
    if skimage is None:
        sigmas = (0, log_fast.SMOOTHING, log_fast.SMOOTHING)
        smooth = ndi.gaussian_filter(images, sigmas, mode="reflect", truncate=truncate)
        return smooth.reshape(n, height // 2, 2, width // 2, 2).mean(axis=(2, 4))
    smooth = skimage.filters.gaussian(
        images, log_fast.SMOOTHING, mode="reflect", preserve_range=True, truncate=truncate, channel_axis=0
    )
    return skimage.transform.downscale_local_mean(smooth, (1, 2, 2))


def _filter_laplace(grid: Any, sigma: float, step: int) -> Any:
    """Minus the sum of both second derivatives of the smoothed `grid` (n, h, w), with the kernels of `log_fast`."""
    xp, ndi = get_array_modules(grid)
    halves = log_fast.make_kernels(sigma, step)
    smooth, second = (xp.asarray(np.concatenate([half, half[-2::-1]])) for half in halves)
    response = ndi.correlate1d(ndi.correlate1d(grid, second, axis=1), smooth, axis=2)
    response += ndi.correlate1d(ndi.correlate1d(grid, smooth, axis=1), second, axis=2)
    return -response


def _interpolate(layer: Any, step: int, shape: tuple[int, int]) -> Any:
    """`layer` (n, h, w), which lies on every `step`-th pixel, on all pixels of images of `shape`."""
    if step == 1:
        return layer
    xp, ndi = get_array_modules(layer)
    weights, firsts = compute_lagrange_weights(step)
    for axis, size in ((1, shape[0]), (2, shape[1])):
        phases = []
        for pixel in range(step):
            kernel = np.zeros(TAPS + 1, np.float32)
            start = firsts[pixel] + TAPS // 2  # its middle tap lies on the coarse pixel that holds this one
            kernel[start : start + TAPS] = weights[pixel]
            phases.append(ndi.correlate1d(layer, xp.asarray(kernel), axis=axis))
        fine_shape = [n * step if k == axis else n for k, n in enumerate(layer.shape)]
        layer = xp.stack(phases, axis=axis + 1).reshape(fine_shape)
        layer = layer[:, :size] if axis == 1 else layer[:, :, :size]
    return layer
