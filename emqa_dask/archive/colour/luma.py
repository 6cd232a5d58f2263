"""Brightness and strength of colours: luma, chroma, and whether an image is grey."""

import math

import cv2
import numpy as np

COLOURED = 0.08  # of the full range, between the largest and smallest channel; above: a pixel has colour
_BLOCK_VALUES = 2**22  # converted at a time: copies as floats are eight times the pixels


def split_channels(rgb: np.ndarray) -> tuple[np.ndarray, ...]:
    """The three channels (h, w) of (h, w, 3); contiguous for uint8 and uint16, with which everything is faster."""
    if rgb.dtype in (np.uint8, np.uint16) and rgb.dtype.isnative and rgb.size:
        return tuple(cv2.split(np.ascontiguousarray(rgb)))
    return rgb[..., 0], rgb[..., 1], rgb[..., 2]


def is_grey(rgb: np.ndarray) -> bool:
    """Whether the three channels of (h, w, 3) are equal."""
    start = rgb[:1]
    if not (np.array_equal(start[..., 0], start[..., 1]) and np.array_equal(start[..., 0], start[..., 2])):
        return False
    red, green, blue = split_channels(rgb)
    return np.array_equal(red, green) and np.array_equal(red, blue)


def convert_to_luma(rgb: np.ndarray) -> np.ndarray:
    """(h, w, 3) of any real dtype -> (h, w) of the same dtype: the channel where all are equal, else ITU-R BT.601 luma.

    Integers are rounded to nearest. The weights 0.299, 0.587, 0.114 sum to 1, so equal channels stay exact.
    """
    if is_grey(rgb):
        return np.ascontiguousarray(rgb[..., 0])
    out = np.empty(rgb.shape[:2], dtype=rgb.dtype)
    step = max(1, _BLOCK_VALUES // max(rgb.shape[1], 1))
    for y in range(0, rgb.shape[0], step):
        out[y : y + step] = _compute_block_luma(rgb[y : y + step])
    return out


def _compute_block_luma(rgb: np.ndarray) -> np.ndarray:
    if rgb.dtype.kind in "iu" and rgb.dtype.itemsize <= 4:  # whole numbers: every processor rounds them alike
        whole = np.uint32 if rgb.dtype.kind == "u" and rgb.dtype.itemsize <= 2 else np.int64  # without overflow
        sums = np.full(rgb.shape[:2], 500, whole)
        for channel, weight in zip(split_channels(rgb), (299, 587, 114), strict=True):
            sums += np.multiply(channel, whole(weight), dtype=whole)
        return sums // whole(1000)
    with np.errstate(invalid="ignore", over="ignore"):
        block = rgb.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    return np.rint(block) if rgb.dtype.kind in "iu" else block


def compute_chroma(rgb: np.ndarray) -> np.ndarray:
    """(h, w) largest minus smallest channel: of the dtype for unsigned integers, else float64."""
    red, green, blue = split_channels(rgb)
    high = np.maximum(np.maximum(red, green), blue)
    low = np.minimum(np.minimum(red, green), blue)
    with np.errstate(invalid="ignore", over="ignore"):  # infinite pixels
        return high - low if rgb.dtype.kind == "u" else high.astype(np.float64) - low


def count_coloured(chroma: np.ndarray, dtype: np.dtype) -> int:
    """Number of pixels whose channels differ by over 8 % of the full range (that of `dtype`, or 1 for floats)."""
    limit = COLOURED * (float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0)
    if chroma.dtype.kind == "u":
        limit = math.floor(limit)  # the same for whole numbers, without a copy as floats
    return int(np.count_nonzero(chroma > limit))
