"""Thumbnails: a small grey JPEG of any micrograph."""

from typing import Any

import cv2
import numpy as np

from emqa_dask.area_average import average_areas
from emqa_dask.backend import get_array_modules

JPEG_QUALITY = 80
EXACTLY_AVERAGED_DTYPES = {
    np.dtype(name) for name in ("uint8", "uint16", "int16")
}  # cv2.resize averages these without rounding noise


def make_thumbnail(image: np.ndarray, longest_px: int = 256) -> bytes:
    """JPEG of `image` (y, x), any dtype, downsampled by area to at most `longest_px`, never enlarged.

    The 0.5th to 99.5th percentile of the downsampled image become black to white. Pixels that are not finite are
    black, a constant image is mid-grey, complex pixels show their magnitude.
    """
    return encode_thumbnail(_downsample(np.abs(image) if image.dtype.kind == "c" else image, longest_px))


def encode_thumbnail(grey: np.ndarray) -> bytes:
    """JPEG of `grey` (h, w) float64, not finite where it shall be black."""
    finite = np.isfinite(grey)
    low, high = np.percentile(grey[finite], (0.5, 99.5)) if finite.any() else (0.0, 0.0)
    if high <= low and finite.any():  # few pixels differ: show them rather than nothing
        low = grey[finite].min()
        high = grey[finite].max()
    span = high - low
    stretched = np.clip((grey - low) / span, 0, 1) * 255 if span > 0 else np.full(grey.shape, 128.0)
    stretched = np.where(finite, stretched, 0)
    ok, jpeg = cv2.imencode(".jpg", np.rint(stretched).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not ok:
        raise ValueError(f"no JPEG of {grey.shape[0]} x {grey.shape[1]} px")
    return jpeg.tobytes()


def _compute_shape(shape: tuple[int, int], longest_px: int) -> tuple[int, int]:
    factor = min(1.0, longest_px / max(shape))
    h, w = (max(1, round(n * factor)) for n in shape)
    return h, w


def _downsample(image: np.ndarray, longest_px: int) -> np.ndarray:
    """`image`, scaled and shifted, as float64, downsampled by area to `longest_px`; NaN where no pixel is finite."""
    size = _compute_shape(image.shape, longest_px)[::-1]
    native = image.dtype.newbyteorder("=")
    if native in EXACTLY_AVERAGED_DTYPES:
        return cv2.resize(np.ascontiguousarray(image, native), size, interpolation=cv2.INTER_AREA).astype(np.float64)
    # OpenCV averages with single-precision weights: less the minimum, rounding is relative to the contrast.
    floats = image.astype(np.float32 if image.dtype.itemsize == 4 and image.dtype.kind == "f" else np.float64)
    finite = np.isfinite(floats)
    floats[~finite] = 0
    floats *= 0.25  # so that no difference of two finite pixels overflows
    floats -= floats.min(where=finite, initial=np.inf) if finite.any() else 0
    floats[~finite] = 0
    total = cv2.resize(floats, size, interpolation=cv2.INTER_AREA).astype(np.float64)
    if finite.all():
        return total
    weight = cv2.resize(finite.astype(np.float32), size, interpolation=cv2.INTER_AREA).astype(np.float64)
    return np.divide(total, weight, out=np.full(weight.shape, np.nan), where=weight > 1e-6)


def downsample_batch(images: Any, longest_px: int) -> Any:
    """`images` (n, y, x) averaged to at most `longest_px` a side, not finite where they are, on their device.

    Their JPEGs are those of make_thumbnail() within 2 of 255 grey levels.
    """
    xp, _ = get_array_modules(images)
    shape = _compute_shape(images.shape[1:], longest_px)
    if images.dtype.newbyteorder("=") in EXACTLY_AVERAGED_DTYPES:
        return xp.rint(average_areas(images.astype(np.float32), shape))
    images = abs(images) if images.dtype.kind == "c" else images
    floats = images.astype(np.float32 if images.dtype.itemsize == 4 and images.dtype.kind == "f" else np.float64)
    finite = xp.isfinite(floats)
    floats = xp.where(finite, floats * 0.25, np.inf)  # so that no difference of two finite pixels overflows
    floats = xp.where(finite, floats - floats.min(axis=(1, 2))[:, None, None], 0)
    weight = average_areas(finite.astype(np.float32), shape)
    return xp.where(weight > 1e-6, average_areas(floats, shape) / xp.maximum(weight, np.float32(1e-6)), np.nan)
