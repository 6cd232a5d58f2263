"""Intensities of a colour map, read back from the colours of an image that a program painted with it."""

from typing import NamedTuple

import numpy as np

from emqa_dask.archive.colour.map_comparison import (
    MIN_LEVELS,
    MapComparison,
    find_strong,
    find_top,
    index_map,
    weigh_colours,
)

_N_SAMPLES = 4096  # pixels that are compared with every map
_DARK = 24  # of 255; below: a pixel fits every map that begins with black
_EXACT_TOLERANCE = 6.0  # distance of colours of 255; below: rounding
_LOSSY_TOLERANCE = 40.0  # the same for images with lossy compression
_MIN_EXACT = 0.85  # of the bright pixels that have to be on the map; the others may be annotations
_MIN_NEAR = 0.95  # the same for images with lossy compression
_MIN_SHADES = 0.97  # of the bright pixels, that have to be shades of one colour
_MIN_TONES = 0.97  # of the pixels whose colour follows from their brightness, for a map that has no name


class PaintedImage(NamedTuple):
    """Intensities (h, w) of uint8, the name of the colour map, and a mask of the pixels whose colour is not of it."""

    intensities: np.ndarray
    name: str
    mask: np.ndarray


def read_intensities(rgb: np.ndarray, pixels: np.ndarray) -> PaintedImage | None:
    """The intensities of an image (h, w, 3) of uint8 that is painted with a known colour map; None for others.

    pixels: draw_pixels() of the image.
    """
    if len(pixels) == 0:
        return None
    comparison = MapComparison(pixels)
    name = comparison.find_map(_EXACT_TOLERANCE, _MIN_EXACT)
    if name:
        return _read_map(rgb, name, _EXACT_TOLERANCE)
    hue = _find_hue(pixels)
    if hue is not None:
        return _read_hue(rgb, hue)
    name = comparison.find_map(_LOSSY_TOLERANCE, _MIN_NEAR)
    return _read_map(rgb, name, _LOSSY_TOLERANCE) if name else None


def is_toned(pixels: np.ndarray) -> bool:
    """Whether the brightness of nearly all of draw_pixels() tells their colour: a map without a name, tinted paper."""
    if len(pixels) == 0:
        return False
    brightness = (299 * pixels[:, 0] + 587 * pixels[:, 1] + 114 * pixels[:, 2]) // 4000  # in steps of 4
    counts = np.maximum(np.bincount(brightness, minlength=64), 1)
    residuals = []
    for channel in range(3):
        means = np.bincount(brightness, pixels[:, channel], minlength=64) / counts
        residuals.append(np.abs(pixels[:, channel] - means[brightness]))
    return bool(
        np.mean(np.max(residuals, axis=0) <= 2 * _EXACT_TOLERANCE) >= _MIN_TONES
        and counts.size
        and np.count_nonzero(counts > 1) >= MIN_LEVELS
    )


def draw_pixels(rgb: np.ndarray) -> np.ndarray:
    """(n, 3) of int64: pixels at even distances that are bright or coloured."""
    flat = rgb.reshape(-1, 3)
    step = max(1, len(flat) // _N_SAMPLES) | 1  # odd: not the same columns of every row
    pixels = flat[::step].astype(np.int64)
    return pixels[find_top(pixels) > _DARK]


def _find_hue(pixels: np.ndarray) -> np.ndarray | None:
    """(3,) the one colour, at its brightest 1, that nearly all pixels are shades of; None where they are not."""
    strong = pixels[find_strong(pixels)]
    if len(strong) < 0.5 * len(pixels):
        return None
    top = find_top(strong)
    if np.count_nonzero(np.bincount(top)) < MIN_LEVELS:
        return None
    hue = np.median(strong / top[:, None], axis=0)
    errors = find_top(np.abs(pixels - find_top(pixels)[:, None] * hue))
    return hue if np.mean(errors <= _EXACT_TOLERANCE) >= _MIN_SHADES else None


def _read_hue(rgb: np.ndarray, hue: np.ndarray) -> PaintedImage:
    """The strongest channel of each pixel."""
    top = rgb.max(axis=2)
    mask = np.zeros(top.shape, bool)
    for channel in range(3):
        shades = np.rint(np.arange(256) * hue[channel]).astype(np.int16)
        mask |= np.abs(rgb[..., channel].astype(np.int16) - shades[top]) > 2 * _EXACT_TOLERANCE
    return PaintedImage(top, "shades of #" + "".join(f"{round(255 * part):02x}" for part in hue), mask)


def _read_map(rgb: np.ndarray, name: str, tolerance: float) -> PaintedImage:
    """The nearest intensity of every colour that occurs."""
    codes = (rgb[..., 0].astype(np.uint32) << 16) | (rgb[..., 1].astype(np.uint32) << 8) | rgb[..., 2]
    occurs = np.zeros(2**24, bool)
    occurs[codes] = True
    colours = np.flatnonzero(occurs)
    tree, intensities = index_map(name)
    distances, nearest = tree.query(weigh_colours(np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=1)))
    values = np.zeros(2**24, np.uint8)
    values[colours] = intensities[nearest]
    occurs[colours] = distances / 1000 > (2 if tolerance <= _EXACT_TOLERANCE else 3) * tolerance
    return PaintedImage(values[codes], name, occurs[codes])
