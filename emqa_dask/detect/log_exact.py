"""Maxima of the scale space with scikit-image's arithmetic: by numba on the host, by (xp, ndi) on other devices."""

import math
from collections import deque
from typing import Any

import numpy as np

from emqa_dask.backend import get_array_modules, to_host
from emqa_dask.detect import filters, peaks, scales, surface
from emqa_dask.detect.peaks import Layer
from emqa_dask.detect.scales import Maxima, SearchRegion


def find_scale_maxima(
    image: Any,
    sigmas: np.ndarray,
    threshold: float | None,
    polarity: str,
    threshold_rel: float | None = None,
    max_per_polarity: int | None = None,
    region: SearchRegion | None = None,
) -> Maxima:
    """Local maxima (3 x 3 x 3, plateaus whole) of the scale space of a float `image`, on its device, strongest first.

    `sigmas` have the image's dtype. `threshold` (None: the lowest value) and `threshold_rel` (of the highest value)
    are those of `skimage.feature.blob_log`. Three scales are in memory at a time, and of each polarity at most
    `max_per_polarity` maxima, also while they are collected (None: all). `region`: the pixels that may hold a maximum.
    An image without pixels gives none.
    """
    xp, _ = get_array_modules(image)
    signs = scales.parse_polarity(polarity)
    if image.size == 0 or len(sigmas) == 0:
        return scales.NO_MAXIMA
    # As numpy compares an array with a number: in the array's dtype.
    floor = -math.inf if threshold is None else float(image.dtype.type(threshold))
    collect = _collect_on_host if xp is np else _collect_on_device
    maxima, n_peaks, lowest = collect(image, sigmas, signs, floor, max_per_polarity, region)
    n_values = image.size * len(sigmas)
    maxima_by_sign = []
    for sign in signs:
        part = scales.select_maxima(maxima, maxima.polarity == sign)
        limit = lowest[sign] if threshold is None else floor
        if threshold_rel is not None and len(part.response):
            highest = image.dtype.type(part.response.max())
            limit = max(limit, float(threshold_rel * highest))
        # Where every value is a maximum the scale space is constant, and nothing is a blob; a single value has no
        # neighbours, and scikit-image only compares it with the threshold.
        keep = (part.response > limit) & (n_values == 1 or n_peaks[sign] < n_values)
        maxima_by_sign.append(scales.select_maxima(part, keep))
    return scales.sort_maxima(maxima_by_sign)


def _collect_on_host(image, sigmas, signs, floor, max_per_polarity, region) -> tuple[Maxima, dict, dict]:
    """Maxima above `floor`; per sign their number, also outside `region`, and the lowest value if floor is -inf."""
    lowest = dict.fromkeys(signs, math.inf)

    def compute_layers():
        ring = deque(maxlen=peaks.N_LAYERS_IN_MEMORY)
        for sigma in sigmas:
            free = ring[0] if len(ring) == peaks.N_LAYERS_IN_MEMORY else None
            response = filters.gaussian_laplace(image, sigma, free)
            ring.append(response)
            if floor == -math.inf:
                for sign in signs:
                    lowest[sign] = min(lowest[sign], float(response.min() if sign > 0 else -response.max()))
            yield Layer(response, 1)

    maxima, n_peaks = peaks.collect_peaks(compute_layers(), image.shape, signs, floor, max_per_polarity, region)
    return maxima, n_peaks, lowest


def _collect_on_device(image, sigmas, signs, floor, max_per_polarity, region) -> tuple[Maxima, dict, dict]:
    """As _collect_on_host() on (xp, ndi); the maxima are moved once, as one table."""
    xp, ndi = get_array_modules(image)
    lowest = dict.fromkeys(signs, math.inf)
    n_peaks = dict.fromkeys(signs, 0)
    tables = {sign: [] for sign in signs}

    def compute_layer(k: int) -> tuple[Any, dict[int, Any]]:
        # The scale stays a numpy scalar of the image's dtype: a kernel from a rounded sigma^2 is scikit-image's, too.
        response = -ndi.gaussian_laplace(image, sigmas[k]) * float(sigmas[k] ** 2)
        return response, {sign: ndi.maximum_filter(sign * response, size=3, mode="nearest") for sign in signs}

    previous_layer = None
    layer = compute_layer(0)
    for k in range(len(sigmas)):
        next_layer = compute_layer(k + 1) if k + 1 < len(sigmas) else None
        for sign in signs:
            y, x = xp.nonzero(_find_peaks(sign, previous_layer, layer, next_layer, floor))
            if floor == -math.inf:
                lowest[sign] = min(lowest[sign], float((sign * layer[0]).min()))
            n_peaks[sign] += len(y)
            keep = scales.is_in_region(region, y, x)
            y, x = y[keep], x[keep]
            stack = [None if one is None else sign * one[0] for one in (previous_layer, layer, next_layer)]
            rows = _gather_neighbourhoods(xp, stack, y, x, k)
            tables[sign] = _keep_strongest(xp, [*tables[sign], rows], max_per_polarity)
        previous_layer = layer
        layer = next_layer
    return _move_to_host(xp, tables, image.shape, max_per_polarity), n_peaks, lowest


def _find_peaks(sign: int, previous_layer, layer, next_layer, floor: float):
    """Mask of the pixels of `layer` above `floor` that no neighbour in place and scale exceeds, times `sign`.

    Layers are pairs of the response and its maximum filter for each sign.
    """
    value = sign * layer[0]
    is_peak = (value == layer[1][sign]) & (value > floor)
    for neighbour in (previous_layer, next_layer):
        if neighbour is not None:
            is_peak &= value >= neighbour[1][sign]
    return is_peak


def _move_to_host(xp, tables: dict[int, list], shape: tuple[int, int], max_per_polarity: int | None) -> Maxima:
    """The maxima in tables of _gather_neighbourhoods() for each sign, by one transfer."""
    rows = to_host(xp.concatenate([part for parts in tables.values() for part in parts]))
    counts = [sum(len(part) for part in parts) for parts in tables.values()]
    groups = np.split(rows, np.cumsum(counts)[:-1])
    return scales.keep_strongest(
        [_make_maxima(sign, group, shape) for sign, group in zip(tables, groups)], max_per_polarity
    )


def _gather_neighbourhoods(xp, stack: list, y, x, k: int):
    """y, x, k, whether both scales beside it exist, and the 27 values around each of n maxima: (n, 31) float64.

    On the device. Pixels at the edge and scales at the ends are repeated beyond them.
    """
    middle = stack[1]
    has_both = stack[0] is not None and stack[2] is not None
    step = xp.arange(-1, 2)
    rows = xp.clip(y[:, None, None] + step[:, None], 0, middle.shape[0] - 1)
    columns = xp.clip(x[:, None, None] + step, 0, middle.shape[1] - 1)
    values = [(middle if layer is None else layer)[rows, columns].reshape(len(y), 9) for layer in stack]
    place = xp.stack([y, x, xp.full(y.shape, k), xp.full(y.shape, int(has_both))], axis=1)
    return xp.concatenate([part.astype(np.float64) for part in (place, *values)], axis=1)


def _keep_strongest(xp, tables: list, max_rows: int | None) -> list:
    """`tables`, or one of the `max_rows` rows that scales.sort_maxima() puts first when they hold more."""
    if max_rows is None or sum(map(len, tables)) <= max_rows:
        return tables
    rows = xp.concatenate(tables)
    order = xp.lexsort(xp.stack([rows[:, 2], rows[:, 1], rows[:, 0], -rows[:, 4 + 13]]))
    return [rows[order[:max_rows]]]


def _make_maxima(sign: int, rows: np.ndarray, shape: tuple[int, int]) -> Maxima:
    """Maxima from rows of _gather_neighbourhoods() on the host."""
    y, x, k = rows[:, :3].T
    has_scales = rows[:, 3]
    cubes = rows[:, 4:].reshape(-1, 3, 3, 3)
    has_both = np.column_stack([has_scales > 0, (y > 0) & (y < shape[0] - 1), (x > 0) & (x < shape[1] - 1)])
    return scales.make_maxima(sign, y, x, k, cubes[:, 1, 1, 1], surface.refine_cubes(cubes, has_both))
