"""Comparison of the colours of an image with all known colour maps: which one it is painted with."""

from functools import cache, cached_property
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from emqa_dask.archive.colour.annotations import STRONG
from emqa_dask.archive.colour.maps import load_colour_maps

_FEW_STEP = 64  # one in so many of these pixels is compared first
_N_PARTS = 8  # of the pixels; their colours are compared in turn until too many are not on the map
_FEW_SLACK = 0.15  # by which the share of these may be lower than that of all
_FEW_ERROR_RATIO = 1.3  # by which the mean distance of these may be off
_MAX_ERROR_RATIO = 0.35  # distance from the map / from grey; above: colours of another origin, as of noise
_RIVAL_RATIO = 1.5  # of the smallest distance; up to this, another map may be the right one
_RIVAL_ERROR = 0.25  # the same, of 255, for distances near 0
_MIN_AGREEMENT = 0.8  # correlation of the intensities by two maps; below: nothing tells which one is right
MIN_LEVELS = 8  # different intensities of coloured pixels; below: flat marks


class MapFit(NamedTuple):
    """How well pixels fit a map: mean distance, share on the map (0 for flat colours), and their intensities."""

    name: str
    error: float
    share: float
    intensities: np.ndarray


class _Colours(NamedTuple):
    """The different colours of pixels: their points, which of them each pixel has, and the number of pixels of each."""

    points: np.ndarray
    places: np.ndarray
    counts: np.ndarray


class MapComparison:
    """Distances of pixels (n, 3) from the known colour maps; those of a few pixels tell the maps worth comparing."""

    def __init__(self, pixels: np.ndarray):
        self.pixels = pixels
        self.points = weigh_colours(pixels)
        self.is_strong = find_strong(pixels)
        self.is_coloured = bool(np.count_nonzero(self.is_strong) >= 0.1 * len(pixels))
        self.sample_distances = _measure_distances(self.points[::_FEW_STEP]) if self.is_coloured else np.zeros((0, 0))
        self.nearest: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # distances and intensities of all pixels, by map

    @cached_property
    def colours(self) -> _Colours:
        codes = self.pixels[:, 0] << 16 | self.pixels[:, 1] << 8 | self.pixels[:, 2]
        results = np.unique(codes, return_index=True, return_inverse=True, return_counts=True)
        return _Colours(self.points[results[1]], *results[2:])

    def find_map(self, tolerance: float, min_share: float) -> str:
        """Name of the map that at least `min_share` of the pixels are on; "" where none or several may be it."""
        if not self.is_coloured:
            return ""
        names = self._list_near_maps(tolerance, min_share)
        if not any(self._may_fit(name, tolerance, min_share) for name in names):
            return ""
        fits = [self._fit_map(name, tolerance) for name in names]
        best = min((fit for fit in fits if fit.share >= min_share), key=lambda fit: fit.error, default=None)
        if best is None:
            return ""
        greyness = np.minimum(np.hypot(self.points[:, 1], self.points[:, 2]) / 1000, 2 * tolerance).mean()
        if best.error > _MAX_ERROR_RATIO * greyness:
            return ""
        rivals = [fit for fit in fits if fit.error <= _RIVAL_RATIO * best.error + _RIVAL_ERROR]
        return best.name if all(_correlate(best, rival) >= _MIN_AGREEMENT for rival in rivals) else ""

    def _list_near_maps(self, tolerance: float, min_share: float) -> list[str]:
        """Names of the maps that a few of the pixels are near to: all others are too far to count."""
        if np.mean(self.sample_distances <= tolerance, axis=1).max() < min_share - _FEW_SLACK:
            return []
        errors = np.minimum(self.sample_distances, 2 * tolerance).mean(axis=1)
        max_error = _FEW_ERROR_RATIO * _RIVAL_RATIO * errors.min() + 4 * _RIVAL_ERROR
        return [name for name, error in zip(load_colour_maps(), errors, strict=True) if error <= max_error]

    def _may_fit(self, name: str, tolerance: float, min_share: float) -> bool:
        """Whether `min_share` of the pixels are on the map or nearly so; most maps are ruled out by some of them."""
        if name in self.nearest:
            return True
        tree = index_map(name)[0]
        n_on_map = len(self.points)
        for start in range(_N_PARTS):
            # Farther points are at an infinite distance, which takes less time to find.
            part = self.colours.points[start::_N_PARTS]
            distances = tree.query(part, distance_upper_bound=1000 * tolerance + 1)[0] / 1000
            n_on_map -= self.colours.counts[start::_N_PARTS][distances > tolerance].sum()
            if n_on_map / len(self.points) < min_share:
                return False
        return True

    def _fit_map(self, name: str, tolerance: float) -> MapFit:
        if name not in self.nearest:
            tree, intensities = index_map(name)
            distances, nearest = tree.query(self.colours.points)
            self.nearest[name] = (distances / 1000)[self.colours.places], intensities[nearest][self.colours.places]
        distances, levels = self.nearest[name]
        is_on_map = distances <= tolerance
        n_levels = np.count_nonzero(np.bincount(levels[is_on_map & self.is_strong]))
        share = float(np.mean(is_on_map)) if n_levels >= MIN_LEVELS else 0.0
        return MapFit(name, float(np.minimum(distances, 2 * tolerance).mean()), share, levels.astype(float))


def find_top(colours: np.ndarray) -> np.ndarray:
    """(n,) largest channel of (n, 3)."""
    return np.maximum(np.maximum(colours[:, 0], colours[:, 1]), colours[:, 2])


def find_strong(colours: np.ndarray) -> np.ndarray:
    """(n,) which of the colours (n, 3) have a high chroma."""
    return find_top(colours) + find_top(-colours) > STRONG


def _measure_distances(points: np.ndarray) -> np.ndarray:
    """(maps, n) distance of each point from the nearest colour of each map."""
    coordinates = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    squares = np.sum(points**2, axis=1)
    # All numbers are whole and below 2**53: the sums are exact.
    nearest = [np.min(coordinates @ terms, axis=1) for terms in _list_map_terms()]
    return np.sqrt(np.stack(nearest) + squares) / 1000


@cache
def _list_map_terms() -> list[np.ndarray]:
    """(4, colours) of each map: -2 c and c², whose product with (p, 1) is the squared distance from p, less p²."""
    tables = [weigh_colours(np.unique(table, axis=0)) for table in load_colour_maps().values()]
    return [np.concatenate([-2 * colours, np.sum(colours**2, axis=1, keepdims=True)], axis=1).T for colours in tables]


@cache
def index_map(name: str) -> tuple[cKDTree, np.ndarray]:
    """Tree of the different colours of a map in the coordinates of weigh_colours(), and their intensities.

    The intensity of a flat step is its middle, and that of a colour that comes again later is the first one.
    """
    table = load_colour_maps()[name]
    starts = np.flatnonzero(np.append(True, np.any(table[1:] != table[:-1], axis=1)))
    middles = (starts + np.append(starts[1:], len(table)) - 1) // 2
    colours, first = np.unique(table[starts], axis=0, return_index=True)
    return cKDTree(weigh_colours(colours)), middles[first].astype(np.uint8)


def weigh_colours(colours: np.ndarray) -> np.ndarray:
    """(n, 3) whole numbers, whose distances weigh brightness more than hue, as lossy compression keeps it better.

    They are thousandths: distances of whole numbers are the same on every computer.
    """
    colours = colours.astype(np.int64)
    brightness = 299 * colours[:, 0] + 587 * colours[:, 1] + 114 * colours[:, 2]
    sides = [1000 * colours[:, channel] - brightness for channel in (0, 2)]
    return np.stack([2 * brightness, *sides], axis=1).astype(float)


def _correlate(fit: MapFit, rival: MapFit) -> float:
    """Correlation of the intensities by two maps; 0 where one of them is constant."""
    if np.ptp(fit.intensities) == 0 or np.ptp(rival.intensities) == 0:
        return 0.0
    return float(np.corrcoef(fit.intensities, rival.intensities)[0, 1])
