"""Gaussian noise that is added to an image, in units of the image's own range of grey values."""

import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RANGE_PERCENTILES = (0.01, 99.99)  # of the clean image; a few hot pixels do not count


class GaussianNoise(NamedTuple):
    """How much noise; the same seed gives the same noise."""

    level: float = 0.0  # standard deviation, as a fraction of the image's range of grey values
    seed: int = 0


NO_NOISE = GaussianNoise()


def add_gaussian_noise(image: NDArray, noise: GaussianNoise, name: str) -> NDArray:
    """`image` (h, w) with noise, float32; `image` itself at level 0. Images of other names get other noise.

    The range is that between two percentiles of the finite pixels. An image without finite pixels gets none.
    """
    is_finite = np.isfinite(image)
    if noise.level == 0 or not is_finite.any():
        return image
    low, high = np.percentile(image[is_finite].astype(np.float64), RANGE_PERCENTILES)
    rng = np.random.default_rng([noise.seed, zlib.crc32(name.encode()), round(1e6 * noise.level)])
    grain = rng.standard_normal(image.shape, dtype=np.float32)
    return image.astype(np.float32) + np.float32(noise.level * (high - low)) * grain
