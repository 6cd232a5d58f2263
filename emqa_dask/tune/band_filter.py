"""Images filtered to the sizes between a column and a lattice spacing, with their noise and texture."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray


class FilteredImage(NamedTuple):
    """An image between the sizes of a column and of a lattice spacing."""

    signal: NDArray  # (h, w) float32: the image between 0.1 and 1 spacing, divided by its local contrast
    noise: NDArray  # (h, w) float32: variance in `signal` that white noise of the image's own level gives
    texture: (
        NDArray  # (h, w) float32: contrast finer than half a spacing, less noise, in the image's standard deviation
    )
    spacing_px: float


def filter_band(image: NDArray, spacing_px: float) -> FilteredImage:
    """`image` (h, w, finite) without noise finer than a column and background coarser than the spacing.

    The noise level is Immerkaer's (Comput. Vis. Image Underst. 64 (1996) 300), locally; noise that a detector has
    blurred counts as structure. Gain and offset of the image drop out.
    """
    pixels = np.asarray(image, np.float32) if image.dtype != np.float64 else image
    pixels = ((pixels - pixels.mean(dtype=np.float64)) / max(float(pixels.std(dtype=np.float64)), 1e-30)).astype(
        np.float32
    )
    fine_sigma_px = max(0.6, 0.1 * spacing_px)
    smooth = blur_image(pixels, fine_sigma_px)
    signal = smooth - blur_image(pixels, spacing_px)
    kernel = np.outer([1, -2, 1], [1, -2, 1]).astype(np.float32)
    rough = cv2.filter2D(pixels, -1, kernel, borderType=cv2.BORDER_REFLECT_101) ** 2 / 36
    noise = blur_image(rough, 2 * spacing_px) / (4 * np.pi * fine_sigma_px * fine_sigma_px)
    # Half a spacing, so that a step (a particle's edge) does not count as texture far from it.
    detail = blur_image((smooth - blur_image(pixels, max(2 * fine_sigma_px, 0.4 * spacing_px))) ** 2, 0.5 * spacing_px)
    contrast = np.sqrt(blur_image(signal * signal, spacing_px))
    contrast += max(0.1 * float(np.median(contrast)), 1e-6)
    return FilteredImage(signal / contrast, noise / contrast**2, np.sqrt(np.maximum(detail - 2 * noise, 0)), spacing_px)


def compute_snr(filtered: FilteredImage) -> float:
    """Median variance of the structure over that of white noise, in `filtered.signal`; at most 1e6."""
    excess = float(np.median(blur_image(filtered.signal**2, 2 * filtered.spacing_px) - filtered.noise))
    return max(excess, 1e-3) / max(float(np.median(filtered.noise)), 1e-6)


def blur_image(values: NDArray, sigma_px: float) -> NDArray:
    """`values` under a Gaussian of `sigma_px`, mirrored at the edges, float32."""
    return cv2.GaussianBlur(np.asarray(values, np.float32), (0, 0), sigma_px, borderType=cv2.BORDER_REFLECT_101)
