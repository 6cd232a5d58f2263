"""Peaks of a scale space whose layers may lie on coarser grids than the image; places and scales between the pixels.

A peak is a pixel that none of its 26 neighbours in (scale, row, column) exceeds, plateaus included, as in
`skimage.feature.peak_local_max`. Layers on coarse grids are not interpolated to all pixels: only the values that are
needed are, where such a layer may have a peak and where it neighbours one.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from emqa_dask.detect import scales
from emqa_dask.detect.peak_search import search_rows
from emqa_dask.detect.scales import Maxima, SearchRegion
from emqa_dask.detect.surface import compute_lagrange_weights

CHUNK_PX = 1 << 16  # peaks of a layer that are collected at a time, before any is dropped; more where a row is longer
N_LAYERS_IN_MEMORY = 4  # three that are compared, and the next one


class Layer(NamedTuple):
    """One scale of a scale space, on every `step`-th pixel; coarse pixels sit in the middle of `step` x `step`."""

    grid: np.ndarray  # float32 or float64, C-contiguous
    step: int


class Peaks(NamedTuple):
    """n peaks of one layer and sign, row by row: float64 arrays."""

    y: np.ndarray
    x: np.ndarray
    value: np.ndarray  # at the pixel, times the sign
    dy: np.ndarray  # to the top of the surface, px, -0.5...0.5
    dx: np.ndarray
    dscale: np.ndarray  # the same, in scales
    top: np.ndarray  # height of the surface, times the sign


def collect_peaks(
    layers: Iterable[Layer],
    shape: tuple[int, int],
    signs: tuple[int, ...],
    floor: float,
    max_per_polarity: int | None = None,
    region: SearchRegion | None = None,
) -> tuple[Maxima, dict[int, int]]:
    """Peaks above `floor` of a scale space, strongest first, and the number that was found for each of `signs`.

    `layers` come in the order of their scales. At most `max_per_polarity` peaks of each sign are kept, also while they
    are collected, so memory is three layers and about 200 bytes for each of these; None keeps all. Peaks outside
    `region` are dropped, but count in the second result, as do duplicates, which coarse grids give.
    """
    strongest = scales.NO_MAXIMA
    fresh: list[Maxima] = []
    n_fresh = 0
    n_peaks = dict.fromkeys(signs, 0)
    for k, previous_layer, layer, next_layer in _iterate_neighbouring_layers(layers):
        for sign in signs:
            for peaks in search_layer(previous_layer, layer, next_layer, shape, sign, floor):
                fit = (peaks.dscale, peaks.dy, peaks.dx, peaks.top)
                part = scales.make_maxima(sign, peaks.y, peaks.x, np.full(len(peaks.y), k), peaks.value, fit)
                fresh.append(scales.select_maxima(part, scales.is_in_region(region, part.y, part.x)))
                n_fresh = n_fresh + len(fresh[-1].y)
                n_peaks[sign] = n_peaks[sign] + len(peaks.y)
                if max_per_polarity is not None and n_fresh > max(max_per_polarity, CHUNK_PX):
                    strongest = scales.keep_strongest([strongest, *fresh], max_per_polarity)
                    fresh = []
                    n_fresh = 0
    return scales.keep_strongest([strongest, *fresh], max_per_polarity), n_peaks


def _iterate_neighbouring_layers(layers: Iterable[Layer]) -> Iterator[tuple[int, Layer | None, Layer, Layer | None]]:
    """Yield every layer's index, the layer before, itself, and the layer after; None at the ends."""
    previous_layer = None
    layer = None
    for k, next_layer in enumerate(itertools.chain(layers, [None])):
        if layer is not None:
            yield k - 1, previous_layer, layer, next_layer
        previous_layer = layer
        layer = next_layer


def search_layer(
    previous_layer: Layer | None,
    layer: Layer,
    next_layer: Layer | None,
    shape: tuple[int, int],
    sign: int,
    floor: float,
) -> Iterator[Peaks]:
    """Yield the peaks of `layer` above `floor`, of `sign` times the values, of as many rows at a time as have room.

    `previous_layer` and `next_layer` are the neighbouring scales; `shape` is that of the image. The number of peaks in
    a part is at most `CHUNK_PX` or a row. On a coarse grid a peak may come more than once (`scales.keep_strongest`
    keeps one). The tops are those of quadratic surfaces through the 27 values around a peak; see
    `surface.refine_cubes`.
    """
    none = Layer(np.empty((1, 1), layer.grid.dtype), 0)
    grids, steps = zip(previous_layer or none, layer, next_layer or none)
    weights, firsts = zip(*(compute_lagrange_weights(max(step, 1)) for step in steps))
    n_columns = min(max(CHUNK_PX, layer.grid.shape[1]), layer.grid.size)
    columns = np.empty((len(Peaks._fields), n_columns))
    typed_sign = layer.grid.dtype.type(sign)
    row = 0
    while row < len(layer.grid):
        n, row = search_rows(grids, steps, weights, firsts, *shape, row, typed_sign, floor, columns)
        if n:
            yield Peaks(*columns[:, :n].copy())
