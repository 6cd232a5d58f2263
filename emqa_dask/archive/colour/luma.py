"""Brightness and strength of colours: luma, chroma, and whether an image is grey."""

import numpy as np

COLOURED = 0.08  # of the full range, between the largest and smallest channel; above: a pixel has colour
_BLOCK_VALUES = 2**22  # converted at a time: copies as floats are eight times the pixels


def is_grey(rgb: np.ndarray) -> bool:
    """Whether the three channels of (h, w, 3) are equal."""
    return np.array_equal(rgb[..., 0], rgb[..., 1]) and np.array_equal(rgb[..., 0], rgb[..., 2])


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
        sums = rgb[..., 0] * np.int64(299) + rgb[..., 1] * np.int64(587) + rgb[..., 2] * np.int64(114)
        return (sums + 500) // 1000
    with np.errstate(invalid="ignore", over="ignore"):
        block = rgb.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    return np.rint(block) if rgb.dtype.kind in "iu" else block


def compute_chroma(rgb: np.ndarray) -> np.ndarray:
    """(h, w) largest minus smallest channel: of the dtype for unsigned integers, else float64."""
    high = np.maximum(np.maximum(rgb[..., 0], rgb[..., 1]), rgb[..., 2])
    low = np.minimum(np.minimum(rgb[..., 0], rgb[..., 1]), rgb[..., 2])
    with np.errstate(invalid="ignore", over="ignore"):  # infinite pixels
        return high - low if rgb.dtype.kind == "u" else high.astype(np.float64) - low


def count_coloured(rgb: np.ndarray) -> int:
    """Number of pixels of (h, w, 3) whose channels differ by over 8 % of the full range (dtype's, or 1 for floats)."""
    full_scale = float(np.iinfo(rgb.dtype).max) if rgb.dtype.kind in "iu" else 1.0
    return int(np.count_nonzero(compute_chroma(rgb) > COLOURED * full_scale))
