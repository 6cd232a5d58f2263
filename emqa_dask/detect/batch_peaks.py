"""Peaks of the scale spaces of a batch of images on its device, as `peaks` finds them; one table leaves the device."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from emqa_dask.backend import get_array_modules, to_host
from emqa_dask.detect import scales
from emqa_dask.detect.scales import Maxima, SearchRegion


class _Layer(NamedTuple):
    """One scale of the batch: the response (n, h, w), and for each sign the highest of 3 x 3 values times it."""

    response: Any
    highest: dict[int, Any]


class _Peaks(NamedTuple):
    """m peaks on the device."""

    image: Any  # (m,) int64: position in the batch
    sign: Any  # (m,) int64
    y: Any  # (m,) int64
    x: Any  # (m,) int64
    scale: Any  # (m,) int64
    response: Any  # (m,), times the sign


def collect_batch_peaks(
    layers: Iterable[Any],
    images: Any,
    signs: tuple[int, ...],
    floor: float,
    max_per_polarity: int | None = None,
    region: SearchRegion | None = None,
) -> tuple[list[Maxima], dict[int, int]]:
    """`peaks.collect_peaks` for each of `images` (n, h, w), and the number of peaks of each of `signs` in all of them.

    `layers` are (n, h, w), one or more, one for each scale, on all pixels. Peaks outside `region`, whose mask is
    (n, h, w), are dropped and not counted. Of each image and sign the `max_per_polarity` strongest are kept, also while
    they are collected.
    """
    max_rows = None if max_per_polarity is None else max_per_polarity * len(images) * len(signs)
    is_inside = _make_inner_mask(region, images)
    n_peaks: dict[int, Any] = dict.fromkeys(signs, 0)
    parts: list[tuple[_Peaks, Any]] = []
    n_scales = 0
    for neighbours in _iterate_neighbouring_layers(layers, signs):
        is_peak_by_sign = [_find_peaks(sign, neighbours, floor) for sign in signs]
        if is_inside is not None:
            is_peak_by_sign = [is_peak & is_inside for is_peak in is_peak_by_sign]
        for sign, is_peak in zip(signs, is_peak_by_sign):
            n_peaks[sign] = n_peaks[sign] + is_peak.sum()
        peaks = _list_peaks(is_peak_by_sign, neighbours[1].response, signs, n_scales)
        if max_rows is not None and len(peaks.y) > max_rows:
            peaks = _select_peaks(peaks, _rank_peaks(peaks, max_per_polarity))
        parts.append((peaks, _gather_neighbourhoods(peaks, neighbours)))
        if max_rows is not None and sum(len(peaks.y) for peaks, _ in parts) > max_rows:
            parts = [_keep_strongest(parts, max_per_polarity)]
        n_scales = n_scales + 1
    maxima = _tabulate(*_concatenate(parts), images.shape, n_scales)
    maxima = [scales.keep_strongest([part], max_per_polarity) for part in maxima]
    return maxima, {sign: int(n) for sign, n in n_peaks.items()}


def _iterate_neighbouring_layers(layers: Iterable[Any], signs: tuple[int, ...]) -> Iterator[list[_Layer | None]]:
    """Yield the layer before, the layer itself, and the layer after, for each; None at the ends."""
    neighbours: list[_Layer | None] = [None, None, None]
    for k, response in enumerate(itertools.chain(layers, [None])):
        layer = None
        if response is not None:
            xp, ndi = get_array_modules(response)
            response = xp.ascontiguousarray(response)
            highest = {s: ndi.maximum_filter(s * response, size=(1, 3, 3), mode="nearest") for s in signs}
            layer = _Layer(response, highest)
        neighbours = [*neighbours[1:], layer]
        if k > 0:
            yield neighbours


def _make_inner_mask(region: SearchRegion | None, images: Any) -> Any:
    """Mask (n or 1, h, w) of the pixels of `region` of `images`; None for all."""
    if region is None:
        return None
    xp, _ = get_array_modules(images)
    y, x = (xp.arange(size) for size in images.shape[1:])
    is_row_inside = (y >= region.y0) & (y < region.y1)
    is_inside = is_row_inside[None, :, None] & (x >= region.x0) & (x < region.x1)
    return is_inside if region.mask is None else is_inside & region.mask


def _find_peaks(sign: int, neighbours: list, floor: float) -> Any:
    """Mask of the pixels of the middle layer above `floor` that no neighbour in place and scale exceeds."""
    value = sign * neighbours[1].response
    is_peak = value > floor
    for layer in neighbours:
        if layer is not None:
            is_peak &= value >= layer.highest[sign]
    return is_peak


def _list_peaks(is_peak_by_sign: list, response: Any, signs: tuple[int, ...], k: int) -> _Peaks:
    """The peaks of scale `k` with this response."""
    xp, _ = get_array_modules(response)
    row, *place = xp.nonzero(xp.stack(is_peak_by_sign))
    sign = xp.asarray(np.array(signs))[row]
    return _Peaks(place[0], sign, place[1], place[2], xp.full(row.shape, k), sign * response[tuple(place)])


def _gather_neighbourhoods(peaks: _Peaks, neighbours: list) -> Any:
    """Values (m, 27), times the sign, in place and scale around each of `peaks` of the middle layer.

    Beyond edges and ends values are repeated.
    """
    response = neighbours[1].response
    xp, _ = get_array_modules(response)
    height, width = response.shape[1:]
    step = xp.arange(-1, 2)
    rows = xp.clip(peaks.y[:, None, None] + step[:, None], 0, height - 1)
    columns = xp.clip(peaks.x[:, None, None] + step, 0, width - 1)
    pixels = ((peaks.image[:, None, None] * height + rows) * width + columns).reshape(len(rows), 9)
    values = [(neighbours[1] if layer is None else layer).response.take(pixels) for layer in neighbours]
    return peaks.sign[:, None].astype(response.dtype) * xp.concatenate(values, axis=1)


def _select_peaks(peaks: _Peaks, keep: Any) -> _Peaks:
    return _Peaks(*(column[keep] for column in peaks))


def _concatenate(parts: list[tuple[_Peaks, Any]]) -> tuple[_Peaks, Any]:
    """All peaks of `parts`, and the values around them."""
    xp, _ = get_array_modules(parts[0][1])
    columns = zip(*(peaks for peaks, _ in parts))
    return _Peaks(*(xp.concatenate(column) for column in columns)), xp.concatenate([values for _, values in parts])


def _keep_strongest(parts: list[tuple[_Peaks, Any]], max_per_polarity: int) -> tuple[_Peaks, Any]:
    peaks, values = _concatenate(parts)
    keep = _rank_peaks(peaks, max_per_polarity)
    return _select_peaks(peaks, keep), values[keep]


def _rank_peaks(peaks: _Peaks, max_per_polarity: int) -> Any:
    """Indices of the peaks of each image and sign that `scales.sort_maxima` puts first, at most `max_per_polarity`."""
    xp, _ = get_array_modules(peaks.response)
    group = 2 * peaks.image + (peaks.sign > 0)
    keys = [peaks.scale, peaks.x, peaks.y, -peaks.response, group]
    order = xp.lexsort(xp.stack([key.astype(np.float64) for key in keys]))
    group = group[order]
    rank = xp.arange(len(group)) - xp.searchsorted(group, group)
    return order[rank < max_per_polarity]


def _tabulate(peaks: _Peaks, values: Any, shape: tuple[int, int, int], n_scales: int) -> list[Maxima]:
    """The peaks of each image of a batch of `shape`, in the order of rows, by one transfer."""
    xp, _ = get_array_modules(values)
    places = zip((peaks.scale, peaks.y, peaks.x), (n_scales, *shape[1:]))
    has_both = [(n > 0) & (n < size - 1) for n, size in places]
    fit = refine_batch_cubes(values.astype(np.float64).reshape(-1, 3, 3, 3), has_both)
    rows = to_host(xp.stack([column.astype(np.float64) for column in (*peaks, *fit)], axis=1))
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    groups = np.split(rows, np.searchsorted(rows[:, 0], np.arange(1, shape[0])))
    return [_make_maxima(_Peaks(*group.T[:6]), group.T[6:]) for group in groups]


def _make_maxima(peaks: _Peaks, fit: np.ndarray) -> Maxima:
    """Maxima of one image from `peaks` on the host and dscale, dy, dx, top (4, m)."""
    maxima = scales.make_maxima(1, peaks.y, peaks.x, peaks.scale, peaks.response, fit)
    return maxima._replace(polarity=peaks.sign.astype(np.int8))


def refine_batch_cubes(cubes: Any, has_both: list) -> list:
    """`surface.refine_cubes` on the device of `cubes` (m, 3, 3, 3: scale, y, x; float64): dscale, dy, dx, height.

    `has_both`: three masks (m,), True where there are neighbours on both sides in scale, y and x.
    """
    xp, _ = get_array_modules(cubes)
    centre = cubes[:, 1, 1, 1]
    gradient = []
    hessian = {}
    for axis in range(3):
        low, high = (cubes[(slice(None), *(side if n == axis else 1 for n in range(3)))] for side in (0, 2))
        gradient.append(xp.where(has_both[axis], 0.5 * (high - low), 0.0))
        hessian[axis, axis] = xp.where(has_both[axis], high + low - 2 * centre, -1.0)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        ends = [[i if n == a else j if n == b else 1 for n in range(3)] for i, j in ((2, 2), (2, 0), (0, 2), (0, 0))]
        corners = [cubes[(slice(None), *end)] for end in ends]
        mixed = 0.25 * (corners[0] - corners[1] - corners[2] + corners[3])
        hessian[a, b] = xp.where(has_both[a] & has_both[b], mixed, 0.0)
    return _locate_tops(xp, centre, gradient, hessian)


def _locate_tops(xp: Any, centre: Any, gradient: list, hessian: dict) -> list:
    """Offsets along three axes, at most half, and height of the tops of quadratic surfaces; see refine_batch_cubes."""
    g0, g1, g2 = gradient
    h00, h11, h22 = (hessian[n, n] for n in range(3))
    h01, h02, h12 = (hessian[pair] for pair in ((0, 1), (0, 2), (1, 2)))
    m0 = h11 * h22 - h12 * h12
    m1 = h02 * h12 - h01 * h22
    m2 = h01 * h12 - h02 * h11
    m12 = h01 * h02 - h00 * h12
    det = h00 * m0 + h01 * m1 + h02 * m2
    is_top = (h00 < 0) & (h00 * h11 - h01 * h01 > 0) & (det < 0)
    safe_det = xp.where(is_top, det, -1.0)
    steps = [
        -(m0 * g0 + m1 * g1 + m2 * g2) / safe_det,
        -(m1 * g0 + (h00 * h22 - h02 * h02) * g1 + m12 * g2) / safe_det,
        -(m2 * g0 + m12 * g1 + (h00 * h11 - h01 * h01) * g2) / safe_det,
    ]
    # Where the surface has no top, each axis has its own parabola.
    offsets = []
    for step, g, h in zip(steps, gradient, (h00, h11, h22)):
        own = xp.where(h < 0, -g / xp.where(h < 0, h, -1.0), 0.0)
        offsets.append(xp.clip(xp.where(is_top, step, own), -0.5, 0.5))
    d0, d1, d2 = offsets
    mixed = xp.where(is_top, h01 * d0 * d1 + h02 * d0 * d2 + h12 * d1 * d2, 0.0)
    top = centre + g0 * d0 + g1 * d1 + g2 * d2 + 0.5 * (h00 * d0 * d0 + h11 * d1 * d1 + h22 * d2 * d2)
    return [*offsets, xp.maximum(top + mixed, centre)]
