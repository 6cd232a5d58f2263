"""Ink on micrographs: information banners, burned-in scale bars, long straight lines, stripes along the scan."""

from collections.abc import Iterator

import cv2
import numpy as np

from emqa_dask.featurise.pixel_loops import connect_runs, count_bar_pixels, count_in_bins, find_step_runs
from emqa_dask.featurise.tones import NO_SPAN
from emqa_dask.mask_runs import find_runs

VIEW_PX = 1024  # overlays are looked for on a view of at most this side: letters and bars survive it
VIEW_RANGE = (-0.5, 1.5)  # in grey ranges
MAX_RUNS = 150  # of one sign, the longest ones: pairs of them are compared
MIN_BOX_FRACTION = 0.0005  # of the view; smaller boxes hold no label
MAX_BOX_FRACTION = 0.3  # of the view; larger ones are the image's own ground
MIN_BOX_SIDE_PX = 6  # of the view; thinner ones are bars or single strokes
STRAIGHT_SIDE = 0.8  # of a side's length that is bright; a round object touches its bounding box in short arcs


def make_view(image: np.ndarray, low: float, high: float) -> tuple[np.ndarray, float]:
    """`image` (h, w) of at most 1024 px a side, `low` to 0, `high` to 1, clipped to -0.5...1.5; and the decimation."""
    (h, w), factor = compute_view_shape(image.shape)
    small = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA) if factor > 1 else image
    if high - low <= NO_SPAN:  # rounding of the means is no contrast
        return np.zeros((h, w), np.float32), factor
    view = (small - np.float32(low)) / np.float32(high - low)
    return np.clip(view, *VIEW_RANGE, out=view), factor


def compute_view_shape(shape: tuple[int, int]) -> tuple[tuple[int, int], float]:
    """The shape of the view of an image of `shape`, and by which factor it is smaller."""
    factor = max(1.0, max(shape) / VIEW_PX)
    h, w = (max(1, round(side / factor)) for side in shape)
    return (h, w), factor


def find_edge_runs(view: np.ndarray, step: float = 0.18) -> list[np.ndarray]:
    """Straight horizontal runs (n, 3: y, x0, x1) of at least 8 % of the width along which grey rises, and falls,
    downwards.

    A rise is over `step` grey ranges within two rows, averaged over 7 columns, so that noise does not cut a run. `view`
    is float32.
    """
    h, w = view.shape
    if min(h, w) < 16:
        return [np.zeros((0, 3), int)] * 2
    length = int(np.ceil(max(0.08 * w, 10)))
    runs_by_sign = []
    for sign in (1, -1):
        runs = find_step_runs(view, np.float32(step), length, sign)
        order = np.argsort(runs[:, 1] - runs[:, 2], kind="stable")[:MAX_RUNS]
        runs_by_sign.append(runs[order])
    return runs_by_sign


def measure_longest_line(runs: list[np.ndarray], width: int) -> float:
    """The largest share of `width` that one row's `runs` cover, 0 without any: marks cut a plot's axis in pieces."""
    return float(max(np.bincount(r[:, 0], r[:, 2] - r[:, 1], minlength=1).max() for r in runs) / max(width, 1))


def find_scale_bar(view: np.ndarray, factor: float, runs: list[np.ndarray]) -> dict[str, float]:
    """The likeliest burned-in bar: a flat, thin, axis-parallel rectangle between two opposite steps of equal extent.

    `runs` are those of find_edge_runs(). `scale_bar_contrast` is the bar's least step against its four sides in grey
    ranges (0: none found); the box is in pixels of the full image, half-open, NaN where there is none.
    """
    no_bar = {"scale_bar_contrast": 0.0, **dict.fromkeys((f"scale_bar_{k}" for k in ("y0", "x0", "y1", "x1")), np.nan)}
    h, w = view.shape
    if min(h, w) < 48:
        return no_bar
    rises, falls = runs
    best_score = 0.0
    box = None
    for tops, bottoms in ((rises, falls), (falls, rises)):
        gap = bottoms[None, :, 0] - tops[:, None, 0]
        is_match = (gap >= 1) & (gap <= 0.05 * h)
        is_match &= np.abs(tops[:, None, 1:] - bottoms[None, :, 1:]).max(axis=2, initial=0) <= 6
        for i, j in np.argwhere(is_match):
            x0 = max(tops[i, 1], bottoms[j, 1])
            x1 = min(tops[i, 2], bottoms[j, 2])
            y0 = int(tops[i, 0])
            y1 = int(bottoms[j, 0])
            contrast = _measure_bar_contrast(view, y0, x0, y1, x1)
            if contrast * (x1 - x0) > best_score:
                best_score = contrast * (x1 - x0)
                box = (y0, x0, y1, x1, contrast)
    if box is None:
        return no_bar
    return {"scale_bar_contrast": float(box[4])} | {
        f"scale_bar_{k}": float(v * factor) for k, v in zip(("y0", "x0", "y1", "x1"), box[:4])
    }


def _measure_bar_contrast(view: np.ndarray, y0: int, x0: int, y1: int, x1: int) -> float:
    h, w = view.shape
    y1 = max(y1, y0 + 1)
    length = x1 - x0
    thick = y1 - y0
    if x0 <= 2 or x1 >= w - 2 or y0 < 3 or y1 > h - 3 or length < 4 * thick or length > 0.6 * w:
        return 0.0
    margin = (x1 - x0) // 12 + 3
    core = view[(y0 + y1) // 2, x0 + margin : x1 - margin]
    level = float(np.median(core)) if core.size else 0.5
    if core.size < 6 or core.std() > 0.015 or 0.15 < level < 0.8:  # ink is white or black
        return 0.0
    step_above, step_below = (np.abs(view[y, x0:x1] - level) for y in (y0 - 3, min(y1 + 2, h - 1)))
    sides = view[y0:y1, max(x0 - 9, 0) : max(x0 - 4, 1)], view[y0:y1, x1 + 4 : x1 + 9]
    left, right = (np.abs(part - level) for part in sides)
    if min(np.quantile(step_above, 0.2), np.quantile(step_below, 0.2)) < 0.1 or not right.size:
        return 0.0
    return float(min(np.median(part) for part in (step_above, step_below, left, right)))


def measure_banner_rows(view: np.ndarray) -> int:
    """Rows of the view's information bar along the bottom: one ground level, ink on it, a sharp start; 0 without."""
    h, w = view.shape
    if h < 64 or w < 64:
        return 0
    part = view[h - int(0.3 * h) :]
    ground = _find_ground_level(part[-max(h // 14, 8) :])
    # Exact first: on a dark specimen a black bar differs from what is above it in little but its lack of noise.
    return max((_count_bar_rows(part, ground, tolerance, h) for tolerance in (0.008, 0.05)), default=0)


def _find_ground_level(rows: np.ndarray) -> float:
    """The commonest grey level of `rows` (n, w)."""
    levels = np.linspace(-0.52, 1.52, 101)
    counts = count_in_bins(rows.ravel(), np.ones(rows.size, np.int64), levels)
    ground_pixels = rows[np.abs(rows - float(levels[counts.argmax()]) - 0.0102) < 0.0103]
    # Sorted first, which takes numpy less time than to select the median.
    return float(np.median(np.sort(ground_pixels))) if ground_pixels.size else 0.0


def _count_bar_rows(part: np.ndarray, ground: float, tolerance: float, h: int) -> int:
    n_part_rows, w = part.shape
    n_ground, n_equal = count_bar_pixels(part, np.float32(ground), np.float32(tolerance), np.float32(0.004))
    ground_fraction = n_ground / w
    equal = n_equal / (w - 1)
    # Rows full of letters and the lines around the bar hold less ground: gaps of up to 6 rows are bridged.
    is_bar_row = cv2.dilate((ground_fraction >= 0.25).astype(np.uint8)[:, None], np.ones((7, 1), np.uint8))[
        :, 0
    ].astype(bool)
    other_rows = np.flatnonzero(~is_bar_row)
    rows = n_part_rows - 1 - int(other_rows[-1]) - 3 if len(other_rows) else n_part_rows
    if not max(8, 0.02 * h) <= rows <= 0.19 * h:
        return 0
    y0 = n_part_rows - rows
    rows_above = slice(max(y0 - 14, 0), max(y0 - 3, 1))
    bar_rows = slice(y0 + 2, n_part_rows - 1)
    ground_gain = np.median(ground_fraction[bar_rows]) - np.median(ground_fraction[rows_above])
    equality_gain = np.median(equal[bar_rows]) - np.median(equal[rows_above])
    is_ink = np.abs(part[bar_rows] - ground) > 0.35
    n_transitions = np.abs(np.diff(is_ink.view(np.int8), axis=1)).sum(axis=1)
    is_text = 0.003 < is_ink.mean() < 0.55 and np.quantile(n_transitions, 0.75) >= 8
    is_flat = ground_gain > 0.35 or (np.median(equal[bar_rows]) > 0.5 and (ground_gain > 0.25 or equality_gain > 0.25))
    return rows if is_text and is_flat else 0


def measure_acquired_share(view: np.ndarray, level: float, banner_rows: int) -> float:
    """Share of the pixels from `level` on that lie outside the banner and drawn boxes; 1 without such pixels.

    A label has a box of the brightest grey around its letters: its outline is a rectangle, three straight sides of
    which are left where a letter or the specimen touches the fourth.
    """
    is_bright = view >= level
    n_bright = int(np.count_nonzero(is_bright))
    if n_bright == 0:
        return 1.0
    boxes = [(slice(len(view) - banner_rows, None), slice(None))] if banner_rows else []
    for y, x, is_part in _find_large_regions(is_bright, max(64, MIN_BOX_FRACTION * view.size)):
        h, w = is_part.shape
        is_box_size = min(w, h) >= MIN_BOX_SIDE_PX and w * h <= MAX_BOX_FRACTION * view.size
        if is_box_size and _is_rectangle(is_part):
            boxes.append((slice(y, y + h), slice(x, x + w)))
    for box in boxes:
        is_bright[box] = False
    return float(np.count_nonzero(is_bright) / n_bright)


def _find_large_regions(mask: np.ndarray, min_px: float) -> Iterator[tuple[int, int, np.ndarray]]:
    """Top row, left column and mask in its bounding box of every 4-connected region of at least `min_px` pixels."""
    if np.count_nonzero(mask) < min_px:
        return
    runs = find_runs(mask)
    regions = connect_runs(runs)
    sizes = np.bincount(regions, runs[:, 2] - runs[:, 1])
    for number in np.flatnonzero(sizes >= min_px):
        y, start, stop = runs[regions == number].T
        is_part = np.zeros((y[-1] - y[0] + 1, stop.max() - start.min()), bool)
        for row, x0, x1 in zip(y - y[0], start - start.min(), stop - start.min(), strict=True):
            is_part[row, x0:x1] = True
        yield int(y[0]), int(start.min()), is_part


def _is_rectangle(is_part: np.ndarray) -> bool:
    """Whether three sides of a region's bounding box lie along the region, within 2 px of the box."""
    turns = (is_part, is_part[::-1], is_part.T, is_part.T[::-1])
    sides = sorted(max(float(line.mean()) for line in turned[:3]) for turned in turns)
    return sides[1] >= STRAIGHT_SIDE


def count_stripes(view: np.ndarray, skip_rows: int) -> dict[str, float]:
    """Rows at which at least three of eight neighbouring segments jump together: charging stripes along the scan.

    A jump is over six robust deviations of the segment's row-to-row changes and 6 % of the range; `skip_rows` at
    the bottom (a banner) are left out. The count is per 1000 rows; `stripe_bands` counts the eighths of the height
    that have such a row: overlays make theirs in one or two places, charging all over.
    """
    h, w = view.shape
    v = view[: h - skip_rows]
    if v.shape[0] < 16 or w < 32:
        return {"stripe_rows": 0.0, "stripe_bands": 0.0}
    means = cv2.resize(v, (8, v.shape[0]), interpolation=cv2.INTER_AREA)
    change = np.diff(means, axis=0)
    deviation = 1.4826 * np.median(np.abs(change - np.median(change, axis=0)), axis=0)
    jump = np.sign(change) * (np.abs(change) > np.maximum(6 * deviation, 0.06))
    rows = np.flatnonzero((np.abs(jump[:, :-2] + jump[:, 1:-1] + jump[:, 2:]) == 3).any(axis=1))
    bands = np.unique(rows * 8 // v.shape[0])
    return {"stripe_rows": float(len(rows) * 1000 / v.shape[0]), "stripe_bands": float(len(bands))}
