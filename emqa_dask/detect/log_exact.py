"""The scale space's maxima with scikit-image's arithmetic: on the host by numba, on other devices on (xp, ndi)."""

import math
from collections import deque
from typing import Any

import numpy as np

from emqa_dask.backend import backend, to_host
from emqa_dask.detect import filters, peaks, scales, surface
from emqa_dask.detect.peaks import Layer
from emqa_dask.detect.scales import Maxima, Where


def scale_maxima(
    image: Any,
    sigmas: np.ndarray,
    threshold: float | None,
    polarity: str,
    threshold_rel: float | None = None,
    most: int | None = None,
    where: Where | None = None,
) -> Maxima:
    """Local maxima (3 x 3 x 3, plateaus whole) of the scale space of a float `image`, on its device, strongest first.

    `sigmas` are of the image's dtype. `threshold` (None: the lowest value) and `threshold_rel` (of the highest value)
    are those of `skimage.feature.blob_log`. Three scales are in memory at a time, and of each polarity at most `most`
    maxima, also while they are collected (None: all); `where` says which pixels may hold one. An image without pixels
    gives none.
    """
    xp, _ = backend(image)
    sides = scales.signs(polarity)
    if image.size == 0 or len(sigmas) == 0:
        return scales.NOTHING
    # As numpy compares an array with a number: in the array's dtype.
    floor = -math.inf if threshold is None else float(image.dtype.type(threshold))
    collect = _on_host if xp is np else _on_device
    found, n_met, lowest = collect(image, sigmas, sides, floor, most, where)
    n_values = image.size * len(sigmas)
    kept = []
    for sign in sides:
        part = scales.chosen(found, found.polarity == sign)
        limit = lowest[sign] if threshold is None else floor
        if threshold_rel is not None and len(part.response):
            highest = image.dtype.type(part.response.max())
            limit = max(limit, float(threshold_rel * highest))
        # Where every value is a maximum the scale space is constant, and nothing is a blob; a single value has no
        # surroundings, and scikit-image only asks whether it passes the threshold.
        keep = (part.response > limit) & (n_values == 1 or n_met[sign] < n_values)
        kept.append(scales.chosen(part, keep))
    return scales.ordered(kept)


def _on_host(image, sigmas, sides, floor, most, where) -> tuple[Maxima, dict, dict]:
    lowest = dict.fromkeys(sides, math.inf)

    def layers():
        ring = deque(maxlen=peaks.ALIVE)
        for sigma in sigmas:
            response = filters.gaussian_laplace(image, sigma, ring[0] if len(ring) == peaks.ALIVE else None)
            ring.append(response)
            if floor == -math.inf:
                for sign in sides:
                    lowest[sign] = min(lowest[sign], float(response.min() if sign > 0 else -response.max()))
            yield Layer(response, 1)

    found, n_met = peaks.collect(layers(), image.shape, sides, floor, most, where)
    return found, n_met, lowest


def _on_device(image, sigmas, sides, floor, most, where) -> tuple[Maxima, dict, dict]:
    """The same on (xp, ndi); what was found is moved once, as one table."""
    xp, ndi = backend(image)
    lowest = dict.fromkeys(sides, math.inf)
    n_met = dict.fromkeys(sides, 0)
    tables = {sign: [] for sign in sides}

    def layer(k: int) -> tuple[Any, dict[int, Any]]:
        # The scale stays a numpy scalar of the image's dtype: a kernel from a rounded sigma^2 is scikit-image's, too.
        response = -ndi.gaussian_laplace(image, sigmas[k]) * float(sigmas[k] ** 2)
        return response, {sign: ndi.maximum_filter(sign * response, size=3, mode="nearest") for sign in sides}

    before = None
    here = layer(0)
    for k in range(len(sigmas)):
        after = layer(k + 1) if k + 1 < len(sigmas) else None
        for sign in sides:
            value = sign * here[0]
            is_peak = (value == here[1][sign]) & (value > floor)
            for beside in (before, after):
                if beside is not None:
                    is_peak &= value >= beside[1][sign]
            if floor == -math.inf:
                lowest[sign] = min(lowest[sign], float(value.min()))
            y, x = xp.nonzero(is_peak)
            n_met[sign] += len(y)
            keep = scales.within(where, y, x)
            y, x = y[keep], x[keep]
            stack = [layer if layer is None else sign * layer[0] for layer in (before, here, after)]
            tables[sign] = _strongest(xp, [*tables[sign], _surroundings(xp, stack, y, x, k)], most)
        before = here
        here = after
    one = to_host(xp.concatenate([part for sign in sides for part in tables[sign]]))
    counts = [sum(len(part) for part in tables[sign]) for sign in sides]
    found = [_maxima(sign, part, image.shape) for sign, part in zip(sides, np.split(one, np.cumsum(counts)[:-1]))]
    return scales.strongest(found, most), n_met, lowest


def _surroundings(xp, stack: list, y, x, k: int):
    """Rows of y, x, k, has_both scales, and the 27 values around each of n maxima: (n, 31) float64, on the device.

    Beyond an edge stands the pixel at the edge, beyond the ends of the scales the scale itself.
    """
    here = stack[1]
    has_both = stack[0] is not None and stack[2] is not None
    step = xp.arange(-1, 2)
    rows = xp.clip(y[:, None, None] + step[:, None], 0, here.shape[0] - 1)
    columns = xp.clip(x[:, None, None] + step, 0, here.shape[1] - 1)
    values = [(here if layer is None else layer)[rows, columns].reshape(len(y), 9) for layer in stack]
    place = xp.stack([y, x, xp.full(y.shape, k), xp.full(y.shape, int(has_both))], axis=1)
    return xp.concatenate([part.astype(np.float64) for part in (place, *values)], axis=1)


def _strongest(xp, tables: list, most: int | None) -> list:
    """`tables` as they are; when they hold over `most` rows, one of the `most` that scales.ordered() puts first."""
    if most is None or sum(map(len, tables)) <= most:
        return tables
    rows = xp.concatenate(tables)
    order = xp.lexsort(xp.stack([rows[:, 2], rows[:, 1], rows[:, 0], -rows[:, 4 + 13]]))
    return [rows[order[:most]]]


def _maxima(sign: int, rows: np.ndarray, shape: tuple[int, int]) -> Maxima:
    """Rows of _surroundings(), on the host, as maxima."""
    y, x, k, has_scales = rows[:, :4].T
    cubes = rows[:, 4:].reshape(-1, 3, 3, 3)
    has_both = np.column_stack([has_scales > 0, (y > 0) & (y < shape[0] - 1), (x > 0) & (x < shape[1] - 1)])
    return scales.maxima(sign, y, x, k, cubes[:, 1, 1, 1], surface.refined(cubes, has_both))
