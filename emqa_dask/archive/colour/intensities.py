"""Intensities of a colour map, read back from the colours of an image that a program painted with it."""

from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from emqa_dask.archive.colour.annotations import STRONG
from emqa_dask.archive.colour.maps import load_colour_maps

_N_SAMPLES = 4096  # pixels that are compared with every map
_FEW_STEP = 64  # one in so many of these pixels is compared first
_FEW_SLACK = 0.15  # by which the share of these may be lower than that of all
_FEW_ERROR_RATIO = 1.3  # by which the mean distance of these may be off
_DARK = 24  # of 255; below: a pixel fits every map that begins with black
_EXACT_TOLERANCE = 6.0  # distance of colours of 255; below: rounding
_LOSSY_TOLERANCE = 40.0  # the same for images with lossy compression
_MIN_EXACT = 0.85  # of the bright pixels that have to be on the map; the others may be annotations
_MIN_NEAR = 0.95  # the same for images with lossy compression
_MIN_SHADES = 0.97  # of the bright pixels, that have to be shades of one colour
_MIN_LEVELS = 8  # different intensities of coloured pixels; below: flat marks
_MAX_ERROR_RATIO = 0.35  # distance from the map / from grey; above: colours of another origin, as of noise
_RIVAL_RATIO = 1.5  # of the smallest distance; up to this, another map may be the right one
_RIVAL_ERROR = 0.25  # the same, of 255, for distances near 0
_MIN_AGREEMENT = 0.8  # correlation of the intensities by two maps; below: nothing tells which one is right
_MIN_TONES = 0.97  # of the pixels whose colour follows from their brightness, for a map that has no name


class PaintedImage(NamedTuple):
    """Intensities (h, w) of uint8, the name of the colour map, and a mask of the pixels whose colour is not of it."""

    intensities: np.ndarray
    name: str
    mask: np.ndarray


def read_intensities(rgb: np.ndarray, chroma: np.ndarray) -> PaintedImage | None:
    """The intensities of an image (h, w, 3) of uint8 that is painted with a known colour map; None for others."""
    pixels = _draw_pixels(rgb, chroma)
    if len(pixels) == 0:
        return None
    name = _find_map(pixels, _EXACT_TOLERANCE, _MIN_EXACT)
    if name:
        return _read_map(rgb, name, _EXACT_TOLERANCE)
    hue = _find_hue(pixels)
    if hue is not None:
        return _read_hue(rgb, hue)
    name = _find_map(pixels, _LOSSY_TOLERANCE, _MIN_NEAR)
    return _read_map(rgb, name, _LOSSY_TOLERANCE) if name else None


def is_toned(rgb: np.ndarray, chroma: np.ndarray) -> bool:
    """Whether the brightness of nearly all pixels tells their colour: a map without a name, or tinted paper."""
    pixels = _draw_pixels(rgb, chroma)
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
        and np.count_nonzero(counts > 1) >= _MIN_LEVELS
    )


def _draw_pixels(rgb: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    """(n, 3) of int64: pixels at even distances that are bright or coloured."""
    flat = rgb.reshape(-1, 3)
    step = max(1, len(flat) // _N_SAMPLES) | 1  # odd: not the same columns of every row
    pixels = flat[::step].astype(np.int64)
    return pixels[pixels.max(axis=1) > _DARK]


def _find_hue(pixels: np.ndarray) -> np.ndarray | None:
    """(3,) the one colour, at its brightest 1, that nearly all pixels are shades of; None where they are not."""
    strong = pixels[np.ptp(pixels, axis=1) > STRONG]
    if len(strong) < 0.5 * len(pixels):
        return None
    top = strong.max(axis=1)
    if len(np.unique(top)) < _MIN_LEVELS:
        return None
    hue = np.median(strong / top[:, None], axis=0)
    errors = np.abs(pixels - pixels.max(axis=1)[:, None] * hue).max(axis=1)
    return hue if np.mean(errors <= _EXACT_TOLERANCE) >= _MIN_SHADES else None


def _read_hue(rgb: np.ndarray, hue: np.ndarray) -> PaintedImage:
    """The strongest channel of each pixel."""
    top = rgb.max(axis=2)
    mask = np.zeros(top.shape, bool)
    for channel in range(3):
        shades = np.rint(np.arange(256) * hue[channel]).astype(np.int16)
        mask |= np.abs(rgb[..., channel].astype(np.int16) - shades[top]) > 2 * _EXACT_TOLERANCE
    return PaintedImage(top, "shades of #" + "".join(f"{round(255 * part):02x}" for part in hue), mask)


@cache
def _index_map(name: str) -> tuple[cKDTree, np.ndarray]:
    """Tree of the different colours of a map in the coordinates of _weigh(), and their intensities.

    The intensity of a flat step is its middle, and that of a colour that comes again later is the first one.
    """
    table = load_colour_maps()[name]
    starts = np.flatnonzero(np.append(True, np.any(table[1:] != table[:-1], axis=1)))
    middles = (starts + np.append(starts[1:], len(table)) - 1) // 2
    colours, first = np.unique(table[starts], axis=0, return_index=True)
    return cKDTree(_weigh(colours)), middles[first].astype(np.uint8)


def _weigh(colours: np.ndarray) -> np.ndarray:
    """(n, 3) whole numbers, whose distances weigh brightness more than hue, as lossy compression keeps it better.

    They are thousandths: distances of whole numbers are the same on every computer.
    """
    colours = colours.astype(np.int64)
    brightness = 299 * colours[:, 0] + 587 * colours[:, 1] + 114 * colours[:, 2]
    sides = [1000 * colours[:, channel] - brightness for channel in (0, 2)]
    return np.stack([2 * brightness, *sides], axis=1).astype(float)


def _find_map(pixels: np.ndarray, tolerance: float, min_share: float) -> str:
    """Name of the nearest colour map that nearly all pixels are of; "" for none.

    Also "" where another map is nearly as near and gives the intensities another order: red to yellow is the upper end
    of one map and, reversed, of another.
    """
    is_strong = np.ptp(pixels, axis=1) > STRONG
    if np.count_nonzero(is_strong) < 0.1 * len(pixels):
        return ""
    points = _weigh(pixels)
    names = _list_near_maps(points, tolerance, min_share)
    fits = [_fit_map(name, points, is_strong, tolerance) for name in names]
    best = min((fit for fit in fits if fit.share >= min_share), key=lambda fit: fit.error, default=None)
    if best is None:
        return ""
    greyness = np.minimum(np.hypot(points[:, 1], points[:, 2]) / 1000, 2 * tolerance).mean()
    if best.error > _MAX_ERROR_RATIO * greyness:
        return ""
    rivals = [fit for fit in fits if fit.error <= _RIVAL_RATIO * best.error + _RIVAL_ERROR]
    return best.name if all(_correlate(best, rival) >= _MIN_AGREEMENT for rival in rivals) else ""


def _list_near_maps(points: np.ndarray, tolerance: float, min_share: float) -> list[str]:
    """Names of the maps that a few of the pixels are near to: all others are too far to count, and take most time."""
    sample = points[::_FEW_STEP]
    coarse_fits = [
        _fit_map(name, sample, np.ones(len(sample), bool), tolerance, min_levels=1) for name in load_colour_maps()
    ]
    if max(fit.share for fit in coarse_fits) < min_share - _FEW_SLACK:
        return []
    max_error = _FEW_ERROR_RATIO * _RIVAL_RATIO * min(fit.error for fit in coarse_fits) + 4 * _RIVAL_ERROR
    return [fit.name for fit in coarse_fits if fit.error <= max_error]


class _Fit(NamedTuple):
    """How well the pixels fit a map: mean distance, share on the map (0 for flat colours), and their intensities."""

    name: str
    error: float
    share: float
    intensities: np.ndarray


def _fit_map(
    name: str, points: np.ndarray, is_strong: np.ndarray, tolerance: float, min_levels: int = _MIN_LEVELS
) -> _Fit:
    tree, intensities = _index_map(name)
    distances, nearest = tree.query(points)
    distances = distances / 1000
    is_on_map = distances <= tolerance
    n_levels = len(np.unique(intensities[nearest[is_on_map & is_strong]]))
    share = float(np.mean(is_on_map)) if n_levels >= min_levels else 0.0
    return _Fit(name, float(np.minimum(distances, 2 * tolerance).mean()), share, intensities[nearest].astype(float))


def _correlate(fit: _Fit, rival: _Fit) -> float:
    """Correlation of the intensities by two maps; 0 where one of them is constant."""
    if np.ptp(fit.intensities) == 0 or np.ptp(rival.intensities) == 0:
        return 0.0
    return float(np.corrcoef(fit.intensities, rival.intensities)[0, 1])


def _read_map(rgb: np.ndarray, name: str, tolerance: float) -> PaintedImage:
    """The nearest intensity of every colour that occurs."""
    codes = (rgb[..., 0].astype(np.uint32) << 16) | (rgb[..., 1].astype(np.uint32) << 8) | rgb[..., 2]
    occurs = np.zeros(2**24, bool)
    occurs[codes] = True
    colours = np.flatnonzero(occurs)
    tree, intensities = _index_map(name)
    distances, nearest = tree.query(_weigh(np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=1)))
    values = np.zeros(2**24, np.uint8)
    values[colours] = intensities[nearest]
    occurs[colours] = distances / 1000 > (2 if tolerance <= _EXACT_TOLERANCE else 3) * tolerance
    return PaintedImage(values[codes], name, occurs[codes])
