"""Colours of other spaces as red, green and blue: CMYK, CIELab, YCbCr."""

import numpy as np


def convert_cmyk(cmyk: np.ndarray) -> np.ndarray:
    """(h, w, 4) inks of an unsigned dtype, 0 for no ink -> (h, w, 3); black ink alone gives grey exactly."""
    top = np.uint64(np.iinfo(cmyk.dtype).max)
    paper = top - cmyk[..., :3].astype(np.uint64)
    light = top - cmyk[..., 3:4].astype(np.uint64)
    return ((paper * light + top // np.uint64(2)) // top).astype(cmyk.dtype)


def convert_lab(lab: np.ndarray, is_signed: bool) -> np.ndarray:
    """(h, w, 3) CIELab of uint8 or uint16 -> (h, w, 3) whose luma is L, and equal channels where a = b = 0.

    is_signed: a and b are two's complement (TIFF's CIELab), else their zero is in the middle (ICCLab). The colours are
    not those of a screen: L is the intensity, and a and b say where there is colour.
    """
    dtype = lab.dtype
    half = 1 << (8 * dtype.itemsize - 1)
    lightness = lab[..., 0].astype(np.int64)
    offset = 0 if is_signed else half
    sides = lab[..., 1:].view(f"int{8 * dtype.itemsize}") if is_signed else lab[..., 1:]
    a = sides[..., 0].astype(np.int64) - offset
    b = sides[..., 1].astype(np.int64) - offset
    red = 2 * a + b
    blue = -2 * b
    green = -(299 * red + 114 * blue) // 587  # keeps 0.299 red + 0.587 green + 0.114 blue at 0
    return np.clip(lightness[..., None] + np.stack([red, green, blue], axis=-1), 0, 2 * half - 1).astype(dtype)


def convert_ycbcr(ycbcr: np.ndarray) -> np.ndarray:
    """(h, w, 3) of ITU-R BT.601 with full range, uint8 -> (h, w, 3) of red, green and blue."""
    y = ycbcr[..., 0].astype(np.int64) * 1000
    cb = ycbcr[..., 1].astype(np.int64) - 128
    cr = ycbcr[..., 2].astype(np.int64) - 128
    rgb = np.stack([y + 1402 * cr, y - 344 * cb - 714 * cr, y + 1772 * cb], axis=-1)
    return np.clip((rgb + 500) // 1000, 0, 255).astype(ycbcr.dtype)
