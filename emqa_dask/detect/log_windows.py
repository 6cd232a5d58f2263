"""Detections of the Laplacian-of-Gaussian detector with settings that differ from window to window of an image."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from emqa_dask.detect import scales, tiles
from emqa_dask.detect.candidates import (
    add_boxes,
    cap_candidates,
    find_candidates_in_rectangle,
)
from emqa_dask.detect.prune import SEAM_OVERLAP, compute_shared_fractions, prune_largest_first
from emqa_dask.detect.scales import Maxima
from emqa_dask.pixel_types import convert_to_real
from emqa_dask.settings import Detect
from emqa_dask.settings.detect_windows import DetectWindow, check_image_size


class Pool(NamedTuple):
    """Maxima of all windows together, strongest first; `maxima.scale` counts the sigmas of all windows in a row."""

    maxima: Maxima
    window: np.ndarray  # (n,) number of the window with whose settings a maximum was found
    home: np.ndarray  # (n,) number of the window in which it lies


class WindowSearch(NamedTuple):
    """Searches of all windows."""

    settings: list[Detect]  # of each window
    number: np.ndarray  # (windows,) equal for windows of equal settings
    sigmas: np.ndarray  # of all windows in a row, px
    first_scale: np.ndarray  # (windows,) where the sigmas of a window begin

    def list_overlaps(self, pool: Pool) -> np.ndarray:
        """The overlap that the window of each maximum allows."""
        return np.array([settings.overlap for settings in self.settings])[pool.window]

    def prune(self, pool: Pool) -> Pool:
        """The maxima that share little area with a larger one, of whatever window."""
        sigma = self.sigmas[pool.maxima.scale]
        keep = prune_largest_first(
            pool.maxima.y, pool.maxima.x, sigma, self.list_overlaps(pool), self.number[pool.window]
        )
        return select_pool(pool, keep)


def detect_image_by_windows(
    image: np.ndarray, settings: Detect, windows: Sequence[DetectWindow], device: str = "cpu"
) -> pd.DataFrame:
    """Detections of one micrograph as rows of `log.detect_image`, with the settings of the window where each lies.

    `windows` cover the image (h, w), and what they do not say is as in `settings`. Intensity limits and, with "auto",
    the polarity are those of the whole image. Each window is searched with the pixels around it that its widest kernel
    covers, and owns the maxima whose centre lies in it. Pruning sees all of them together: an object at a border that
    both sides find counts once (`prune.SEAM_OVERLAP`), and one whose centre each side sees on the other side is kept.
    With equal settings in all windows the rows are those of `log.detect_image`. ValueError for an image of another size
    than the windows cover.
    """
    image = convert_to_real(np.asarray(image))
    check_image_size(windows, image.shape)
    percentiles = settings.low_percentile, settings.high_percentile
    limits = tiles.sample_intensity_limits(lambda y0, y1: image[y0:y1], image.shape, percentiles)
    search, pool = _search_windows(image, settings, windows, limits, device)
    keep, is_full = cap_candidates(pool.maxima, search.sigmas, settings)
    pool = select_pool(pool, keep)
    is_owned = pool.window == pool.home
    remaining = search.prune(select_pool(pool, is_owned))
    remaining = _add_orphans(remaining, select_pool(pool, ~is_owned), search)
    rows = _tabulate(remaining, search)
    is_capped = bool(is_full or len(rows) > settings.max_detections)
    rows = add_boxes(rows.head(settings.max_detections), image.shape)
    rows.attrs["is_capped"] = is_capped
    rows.attrs["too_many_blobs"] = bool(is_full)
    return rows


def select_pool(pool: Pool, keep: np.ndarray) -> Pool:
    """The maxima where `keep` (bool or indices) has them."""
    return Pool(scales.select_maxima(pool.maxima, keep), pool.window[keep], pool.home[keep])


def _search_windows(image, settings: Detect, windows: Sequence[DetectWindow], limits, device: str):
    """The search, and its pool: maxima in each window and, of other windows' settings, within their sigma beyond it."""
    own_settings = [dataclasses.replace(settings, **window.changes) for window in windows]
    numbers: dict[Detect, int] = {}
    number = np.array([numbers.setdefault(one, len(numbers)) for one in own_settings])
    has_seams = len(numbers) > 1
    homes = _paint_windows(windows, image.shape)
    parts = []
    owners = []
    sigmas: list[np.ndarray] = []
    first_scale: list[int] = []
    for k, (window, one) in enumerate(zip(windows, own_settings)):
        reach_px = math.ceil(one.max_sigma) if has_seams else 0
        candidates = find_candidates_in_rectangle(image, one, _grow(window, reach_px, image.shape), limits, device)
        maxima = scales.select_maxima(candidates.maxima, candidates.maxima.response > one.threshold)
        distance = _measure_distances(maxima, window)
        maxima = scales.select_maxima(maxima, distance <= candidates.sigmas[maxima.scale])
        first_scale.append(sum(map(len, sigmas)))
        sigmas.append(candidates.sigmas)
        parts.append(maxima._replace(scale=maxima.scale + first_scale[-1]))
        owners.append(np.full(len(maxima.y), k))
    every = scales.join_maxima(parts)
    order = scales.order_maxima(every)
    maxima = scales.select_maxima(every, order)
    window = np.concatenate(owners)[order]
    home = homes[maxima.y, maxima.x]
    # A maximum beyond its window is of use only where other settings hold.
    keep = (window == home) | (number[window] != number[home])
    pool = select_pool(Pool(maxima, window, home), keep)
    return WindowSearch(own_settings, number, np.concatenate(sigmas), np.array(first_scale)), pool


def _paint_windows(windows: Sequence[DetectWindow], shape: tuple[int, int]) -> np.ndarray:
    """The number of the window of each pixel (h, w)."""
    homes = np.zeros(shape, np.int32)
    for k, window in enumerate(windows):
        homes[window.y0 : window.y1, window.x0 : window.x1] = k
    return homes


def _grow(window: DetectWindow, reach_px: int, shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """Sides y0, x0, y1, x1 of `window` with `reach_px` around it, inside an image of `shape`."""
    y1 = min(window.y1 + reach_px, shape[0])
    x1 = min(window.x1 + reach_px, shape[1])
    return max(window.y0 - reach_px, 0), max(window.x0 - reach_px, 0), y1, x1


def _measure_distances(maxima: Maxima, window: DetectWindow) -> np.ndarray:
    """Distance, px, of each maximum to the nearest pixel of `window`; 0 inside."""
    dy = np.maximum(np.maximum(window.y0 - maxima.y, maxima.y - (window.y1 - 1)), 0)
    dx = np.maximum(np.maximum(window.x0 - maxima.x, maxima.x - (window.x1 - 1)), 0)
    return np.hypot(dy, dx)


def _add_orphans(remaining: Pool, outside_maxima: Pool, search: WindowSearch) -> Pool:
    """`remaining`, and objects at borders that no window owns.

    Such an object has a centre beyond the window in the scale space of the one side, and likewise in that of the other;
    a window alone that sees an object beyond its border has no say there.
    """
    if len(outside_maxima.maxima.y) == 0:
        return remaining
    first, second, shared = _find_overlaps(outside_maxima, outside_maxima, search)
    is_mutual = (shared > SEAM_OVERLAP) & (outside_maxima.window[second] == outside_maxima.home[first])
    is_orphan = np.zeros(len(outside_maxima.window), bool)
    is_orphan[first[is_mutual]] = True
    first, second, shared = _find_overlaps(outside_maxima, remaining, search)
    limit = np.minimum(search.list_overlaps(outside_maxima)[first], search.list_overlaps(remaining)[second])
    is_orphan[first[shared > np.minimum(limit, SEAM_OVERLAP)]] = False
    orphans = search.prune(select_pool(outside_maxima, is_orphan))
    maxima = scales.join_maxima([remaining.maxima, orphans.maxima])
    order = scales.order_maxima(maxima)
    window = np.append(remaining.window, orphans.window)
    return select_pool(Pool(maxima, window, np.append(remaining.home, orphans.home)), order)


def _find_overlaps(a: Pool, b: Pool, search: WindowSearch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (i, j) of near maxima of `a` and of `b`, and the share of the smaller disk's area that both have."""
    if not len(a.window) or not len(b.window):
        return np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(0)
    radius_a = math.sqrt(2) * search.sigmas[a.maxima.scale]
    radius_b = math.sqrt(2) * search.sigmas[b.maxima.scale]
    tree = cKDTree(np.column_stack([b.maxima.y, b.maxima.x]))
    neighbours = tree.query_ball_point(np.column_stack([a.maxima.y, a.maxima.x]), radius_a + radius_b.max())
    i = np.repeat(np.arange(len(a.window)), [len(one) for one in neighbours])
    j = np.concatenate([np.asarray(one, np.intp) for one in neighbours])
    distance = np.hypot(a.maxima.y[i] - b.maxima.y[j], a.maxima.x[i] - b.maxima.x[j])
    return i, j, compute_shared_fractions(distance, radius_a[i], radius_b[j])


def _tabulate(pool: Pool, search: WindowSearch) -> pd.DataFrame:
    """Table of the fitted tops of the maxima, highest first; between two scales of its window sigma is interpolated."""
    tables = []
    for k, settings in enumerate(search.settings):
        positions = np.flatnonzero(pool.window == k)
        last = search.first_scale[k + 1] if k + 1 < len(search.settings) else len(search.sigmas)
        own = scales.select_maxima(pool.maxima, positions)
        own = own._replace(scale=own.scale - search.first_scale[k])
        sigmas = search.sigmas[search.first_scale[k] : last]
        table = scales.tabulate_refined_maxima(own, sigmas, settings.log_scale)
        tables.append(table.set_index(positions[np.argsort(-own.top, kind="stable")]))
    table = pd.concat(tables).sort_index()
    order = np.argsort(-table["response"].to_numpy(), kind="stable")
    return table.iloc[order].reset_index(drop=True)
