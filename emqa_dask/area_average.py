"""Smaller copies of images by the mean over the area of each new pixel, on the device that holds the images."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emqa_dask.backend import get_array_modules, get_skimage

MIN_COVERAGE = 1e-3  # px; OpenCV's INTER_AREA leaves parts of pixels below it out


def average_areas(images: Any, shape: tuple[int, int]) -> Any:
    """`images` (n, h, w) float32 as (n, *shape), no side larger than before: what OpenCV's INTER_AREA gives.

    Sides that are multiples of the new ones are averaged by cuCIM or scikit-image, others by products with weights.
    """
    h, w = images.shape[1:]
    if (h, w) == shape:
        return images
    if h % shape[0] == 0 and w % shape[1] == 0:
        blocks = (h // shape[0], w // shape[1])
        skimage = get_skimage(images)
        if skimage is not None:
            return skimage.transform.downscale_local_mean(images, (1, *blocks))
        return images.reshape(len(images), shape[0], blocks[0], shape[1], blocks[1]).mean(axis=(2, 4))
    xp, _ = get_array_modules(images)
    rows = xp.asarray(make_area_weights(h, shape[0]))
    columns = xp.asarray(make_area_weights(w, shape[1]).T.copy())
    return xp.matmul(rows, xp.matmul(images, columns))


@lru_cache(maxsize=16)
def make_area_weights(n_px: int, n_means: int) -> NDArray[np.float32]:
    """Weights (n_means, n_px) of `n_px` pixels in `n_means` <= n_px means over equal lengths."""
    length = n_px / n_means
    starts = np.arange(n_means)[:, None] * length
    pixels = np.arange(n_px)
    coverage = np.minimum(starts + length, pixels + 1) - np.maximum(starts, pixels)
    return np.where(coverage > MIN_COVERAGE, np.minimum(coverage, 1) / length, 0).astype(np.float32)
