"""Burnt-in scale bars of any kind: filled, outlined, with end marks, broken by their text, or rows of ticks."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

LEVELS = (0.88, 0.7, 0.5)  # of the grey range; ink is brighter than one of them, or darker than its complement
MIN_LENGTH = 0.03  # of the image width
MAX_LENGTH = 0.75  # of the image width; longer lines are frames
MAX_THICKNESS = 0.055  # of the image height
MIN_CONTRAST = 0.12  # grey ranges between a bar and what is above and below
MAX_BARS = 40  # that are kept of an image, the clearest ones
MAX_LINE_PX = 4  # thickness of bars with end marks and of broken ones: they are drawn as lines
N_TICKS = 11  # of a bar that Hitachi's microscopes draw: ten equal parts
TICK_TOLERANCE_PX = 2.6  # between the distances of neighbouring ticks: both are rounded to pixels


@dataclass(frozen=True)
class Bar:
    """A horizontal bar in pixels of the view that it was found on, half-open."""

    y0: float
    x0: float
    y1: float
    x1: float
    sign: int  # 1: brighter than what is around it, -1: darker
    contrast: float  # grey ranges
    level: float = 1.0  # of its ink: grey ranges above the darkest, or below the brightest
    kind: str = "filled"  # or "marks" (end marks), "broken" (by its text), "ticks"
    mark_px: float = 0.0  # thickness of the end marks: the length ends in their middle

    @property
    def length_px(self) -> float:
        """The length that the text states."""
        return self.x1 - self.x0 - self.mark_px


def find_bars(view: NDArray[np.float32]) -> list[Bar]:
    """Bars in `view` (h, w; 0 to 1 is the grey range), the clearest first; most of what looks like one is none."""
    h, w = view.shape
    if min(h, w) < 48:
        return []
    bars: list[Bar] = []
    ticks: list[Bar] = []
    for sign in (1, -1):
        ink = view if sign > 0 else 1 - view
        for level in LEVELS:
            mask = (ink > level).astype(np.uint8)
            bars += _find_runs(ink, mask, sign)
            ticks += _find_tick_rows(mask, sign)
    bars = _drop_repetitions(bars)
    return [*_drop_repetitions(ticks), *_join_broken(bars), *bars]


def _find_runs(ink: NDArray[np.float32], mask: NDArray[np.uint8], sign: int) -> list[Bar]:
    """Rectangles of `mask` that are long, thin, and stand out in `ink` above and below."""
    h, w = mask.shape
    shortest = max(int(MIN_LENGTH * w), 12)
    thickest = max(int(MAX_THICKNESS * h), 6)
    closed = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((1, 3), np.uint8))
    runs = cv2.morphologyEx(closed, cv2.MORPH_OPEN, np.ones((1, shortest), np.uint8))
    thick = cv2.morphologyEx(runs, cv2.MORPH_OPEN, np.ones((thickest + 1, 1), np.uint8))
    n, _, boxes = cv2.connectedComponentsWithStats(runs - thick, connectivity=4)[:3]
    bars = []
    for x0, y0, width, height, area in boxes[1:n].tolist():
        if (
            height > thickest
            or width < max(2.5 * height, shortest)
            or width > MAX_LENGTH * w
            or area < 0.8 * width * height
        ):
            continue
        bar = _measure_bar(ink, mask, Bar(y0, x0, y0 + height, x0 + width, sign, 0.0))
        if bar.contrast >= MIN_CONTRAST:
            bars.append(bar)
    return sorted(bars, key=lambda bar: -bar.contrast)[:MAX_BARS]


def _measure_bar(ink: NDArray[np.float32], mask: NDArray[np.uint8], bar: Bar) -> Bar:
    """`bar` with its contrast, its ends at half the step, and its end marks."""
    h, w = ink.shape
    y0, y1 = int(bar.y0), int(bar.y1)
    x0, x1 = int(bar.x0), int(bar.x1)
    inner = slice(x0 + (x1 - x0) // 10 + 1, x1 - (x1 - x0) // 10 - 1)
    core = ink[(y0 + y1 - 1) // 2, inner]
    if not core.size or core.std() > 0.08:
        return bar
    level = float(np.median(core))
    steps = []
    for y in (y0 - 2, y1 + 1):
        if 0 <= y < h:
            steps.append(level - float(np.quantile(ink[y, inner], 0.7)))
    if not steps or min(steps) < MIN_CONTRAST:
        return bar
    profile = np.median(ink[y0:y1], axis=0)
    middle = (x0 + x1) // 2
    left = find_end(profile[::-1], w - middle - 1, w - x0 - 1, level)
    right = find_end(profile, middle, x1 - 1, level)
    mark = measure_marks(mask, y0, y1, x0, x1) if y1 - y0 <= MAX_LINE_PX else 0.0
    kind = "marks" if mark else "filled"
    return replace(bar, x0=w - left, x1=right, contrast=min(steps), level=level, kind=kind, mark_px=mark)


def find_end(profile: NDArray[np.float32], middle: int, last: int, level: float) -> float:
    """Position at which `profile` falls to halfway between `level` and what follows `last`; subpixel.

    The search starts in the `middle` of the bar: noise beside it can reach the threshold of a mask.
    """
    ground = profile[last + 2 : last + 7]
    half = (level + float(np.median(ground))) / 2 if ground.size else level / 2
    lower = np.flatnonzero(profile[middle : last + 7] < half)
    if not lower.size or lower[0] == 0:
        return float(min(last + 1, len(profile)))
    k = middle + int(lower[0])
    upper = float(profile[k - 1])
    return k - 0.5 + (upper - half) / max(upper - float(profile[k]), 1e-6)


def measure_marks(mask: NDArray[np.uint8], y0: int, y1: int, x0: int, x1: int) -> float:
    """Thickness in px of marks at both ends of a bar that stand out above or below it; 0 without."""
    reach = max(3, 2 * (y1 - y0))
    thickness = []
    for start, step in ((x0 - 1, 1), (x1, -1)):
        columns = np.clip(start + step * np.arange(8), 0, mask.shape[1] - 1)
        parts = mask[max(y0 - reach, 0) : max(y0 - 1, 0), columns], mask[y1 + 1 : y1 + reach, columns]
        sides = [part.mean(axis=0) > 0.6 for part in parts if part.size]
        is_mark = np.any(sides, axis=0) if sides else np.zeros(8, bool)
        thickness.append(int(is_mark.sum()) if is_mark[:3].any() and is_mark.sum() <= 5 else 0)
    return float(np.mean(thickness)) if min(thickness) else 0.0


def _find_tick_rows(mask: NDArray[np.uint8], sign: int) -> list[Bar]:
    """Rows of N_TICKS small upright marks at equal distances."""
    h, w = mask.shape
    _, _, *stats = cv2.connectedComponentsWithStats(mask, connectivity=8)
    boxes, centres = (part[1:] for part in stats)
    is_tick = (boxes[:, 2] <= max(0.012 * w, 5)) & (boxes[:, 3] <= 0.05 * h) & (boxes[:, 3] >= 2)
    is_tick &= boxes[:, 3] * 1.5 >= boxes[:, 2]
    x = centres[is_tick, 0]
    boxes = boxes[is_tick]
    rows = []
    for edges in (boxes[:, 1], boxes[:, 1] + boxes[:, 3]):  # long and short marks share one edge
        counts = np.bincount(edges, minlength=2)
        for y in np.flatnonzero((counts[:-1] + counts[1:] >= N_TICKS) & (counts[:-1] + counts[1:] <= 60)):
            group = np.flatnonzero((edges == y) | (edges == y + 1))
            positions = _find_equidistant(np.sort(x[group]), 0.01 * w)
            if positions is not None:
                top = float(boxes[group, 1].min())
                bottom = float((boxes[group, 1] + boxes[group, 3]).max())
                rows.append(Bar(top, positions[0] - 0.5, bottom, positions[1] + 0.5, sign, 1.0, 1.0, "ticks", 1.0))
    return rows


def _find_equidistant(x: NDArray[np.float64], min_step: float) -> tuple[float, float] | None:
    """First and last position of N_TICKS neighbours in `x` at equal distances of at least `min_step`; None without."""
    distances = np.diff(x)
    windows = np.lib.stride_tricks.sliding_window_view(distances, N_TICKS - 1)
    spread = windows.max(axis=1) - windows.min(axis=1)
    starts = np.flatnonzero((spread <= TICK_TOLERANCE_PX) & (windows.min(axis=1) > min_step))
    if len(starts) != 1:  # a longer row is a ruler
        return None
    return float(x[starts[0]]), float(x[starts[0] + N_TICKS - 1])


def _join_broken(bars: list[Bar]) -> list[Bar]:
    """Bars that consist of two equal thin ones in a row, with room for a text in between."""
    joined = []
    thin = [bar for bar in bars if bar.y1 - bar.y0 <= MAX_LINE_PX]
    for a in thin:
        for b in thin:
            gap = b.x0 - a.x1
            lengths = sorted((a.x1 - a.x0, b.x1 - b.x0))
            is_pair = a.sign == b.sign and abs(a.y0 - b.y0) <= 1 and abs(a.y1 - b.y1) <= 1 and gap > 8
            if is_pair and lengths[0] > 0.75 * lengths[1] and gap < 3 * lengths[1]:
                joined.append(replace(a, x1=b.x1, contrast=min(a.contrast, b.contrast), kind="broken"))
    return joined


def _drop_repetitions(bars: list[Bar]) -> list[Bar]:
    """`bars` without those that cover the same place as a clearer one."""
    selection: list[Bar] = []
    # Of similar ones the first: that of the highest level, whose ends are the sharpest.
    for bar in sorted(bars, key=lambda bar: -round(bar.contrast, 1)):
        is_new = all(bar.sign != other.sign or not _is_same_place(bar, other) for other in selection)
        if is_new:
            selection.append(bar)
    return selection[:MAX_BARS]


def _is_same_place(a: Bar, b: Bar) -> bool:
    shared = min(a.x1, b.x1) - max(a.x0, b.x0)
    is_same_row = min(a.y1, b.y1) - max(a.y0, b.y0) > 0.5 * min(a.y1 - a.y0, b.y1 - b.y0)
    return is_same_row and shared > 0.8 * max(a.x1 - a.x0, b.x1 - b.x0)
