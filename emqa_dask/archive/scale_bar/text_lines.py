"""Short lines of text near a scale bar: letters of one ink, as high as each other, side by side."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from emqa_dask.archive.scale_bar.bars import Bar

LEVELS = (0.85, 0.6, 0.4)  # of the grey range; letters are brighter than one of them, or darker than its complement
INK_STEPS = (0.12, 0.5)  # grey ranges, and of the bar's contrast: how much less bright than its bar a letter can be
MAX_INK_BARS = 3  # the clearest ones, whose ink is looked for
MIN_INK_CONTRAST = 0.15  # of such a bar, grey ranges
MIN_ERASED = 0.07  # of the image width: shorter bars can be strokes of large letters
MIN_HEIGHT_PX = 5
MAX_HEIGHT = 0.13  # of the image height
MAX_ASPECT = 9.0  # of a line
GAPS = (0.75, 1.3)  # between letters of one line, in heights of the larger: tight, and for typewriters' spaces
MAX_LETTERS = 400  # of one mask near the bars; more are texture
LETTER_REACH = (3.0, 10.0)  # heights of a letter, across and along a bar, within which it can belong to the bar
REACH = 0.16  # of the longer side: how far from a bar its text is looked for
MARGINS = (0.15, 0.3)  # of the line's height, above and below, and on both sides, that are cut out with it


class Line(NamedTuple):
    """The box of a line of text in pixels of the view, half-open, and the sign of its ink."""

    y0: int
    x0: int
    y1: int
    x1: int
    sign: int  # 1: brighter than what is around it, -1: darker

    @property
    def height(self) -> int:
        return self.y1 - self.y0


def find_lines(view: NDArray[np.float32], bars: Sequence[Bar]) -> list[Line]:
    """Lines of text in `view` (h, w; 0 to 1 is the grey range) near one of `bars`, each once."""
    region = _mark_region(view.shape, bars)
    if region is None:
        return []
    y0, x0 = region[:2]
    part = view[y0 : region[2], x0 : region[3]]
    boxes = np.array([[bar.y0 - y0, bar.x0 - x0, bar.y1 - y0, bar.x1 - x0] for bar in bars])
    lines: dict[Line, None] = {}
    for sign in (1, -1):
        ink = part if sign > 0 else 1 - part
        for level in _list_levels(bars, sign):
            mask = (ink > level).astype(np.uint8)
            _erase_bars(mask, [bar for bar in bars if bar.sign == sign], (y0, x0), MIN_ERASED * view.shape[1])
            for line in _find_in_mask(mask, view.shape[0], sign, boxes):
                of_view = Line(line.y0 + y0, line.x0 + x0, line.y1 + y0, line.x1 + x0, sign)
                if any(_is_near(bar, of_view) for bar in bars):
                    lines[of_view] = None
    return list(lines)


def _list_levels(bars: Sequence[Bar], sign: int) -> list[float]:
    """Thresholds for letters: fixed ones, and those of letters in the ink of the clearest bars."""
    inks = sorted((b for b in bars if b.sign == sign and b.contrast > MIN_INK_CONTRAST), key=lambda b: -b.contrast)
    steps = [b.level - step for b in inks[:MAX_INK_BARS] for step in (INK_STEPS[0], INK_STEPS[1] * b.contrast)]
    return sorted({*LEVELS, *(round(level, 1) for level in steps)})


def _erase_bars(mask: NDArray[np.uint8], bars: Sequence[Bar], origin: tuple[int, int], shortest: float) -> None:
    """Clears clear filled bars in `mask`, which starts at `origin`: letters that touch one would be joined by it."""
    for bar in bars:
        if bar.length_px >= shortest and bar.kind == "filled" and bar.contrast > MIN_INK_CONTRAST:
            y0, x0 = (max(int(v) - o, 0) for v, o in zip((bar.y0, bar.x0), origin, strict=True))
            mask[y0 : int(bar.y1) - origin[0] + 1, x0 : int(bar.x1) - origin[1] + 2] = 0


def cut_line(image: NDArray[np.float32], line: Line, factor: float = 1.0) -> NDArray[np.float32]:
    """The part of `image` with `line` (found on a view that is `factor` times smaller), its letters bright."""
    h = line.height
    dy, dx = MARGINS[0] * h, MARGINS[1] * h
    y0, x0 = (int(max(round((v - d) * factor), 0)) for v, d in ((line.y0, dy), (line.x0, dx)))
    y1, x1 = (round((v + d) * factor) for v, d in ((line.y1, dy), (line.x1, dx)))
    return line.sign * image[y0:y1, x0:x1]


def measure_distance(bar: Bar, line: Line) -> float:
    """Distance between the boxes of `bar` and `line` in heights of the line; infinite where it cannot be its text."""
    dx = max(line.x0 - bar.x1, bar.x0 - line.x1, 0.0)
    dy = max(line.y0 - bar.y1, bar.y0 - line.y1, 0.0)
    if dy > 2.2 * line.height or dx > 2.5 * line.height or (dx > 0.7 * line.height and dy > 1.2 * line.height):
        return float("inf")
    is_covered = (
        bar.kind != "broken" and dx == 0 and dy == 0 and min(bar.y1, line.y1) - max(bar.y0, line.y0) > 0.5 * line.height
    )
    return float("inf") if is_covered else float(np.hypot(dx, dy)) / line.height


def _is_near(bar: Bar, line: Line) -> bool:
    return measure_distance(bar, line) < np.inf


def _mark_region(shape: tuple[int, int], bars: Sequence[Bar]) -> tuple[int, int, int, int] | None:
    """The box around all `bars` and what is within reach of them."""
    if not bars:
        return None
    h, w = shape
    reach = REACH * max(h, w)
    y0, x0 = (int(max(min(values) - reach, 0)) for values in ([b.y0 for b in bars], [b.x0 for b in bars]))
    y1 = int(min(max(b.y1 for b in bars) + reach, h))
    x1 = int(min(max(b.x1 for b in bars) + reach, w))
    return y0, x0, y1, x1


def _find_in_mask(mask: NDArray[np.uint8], height: int, sign: int, bars: NDArray[np.float64]) -> list[Line]:
    """Boxes of lines that the letters in `mask` form near `bars` (n, 4); `height` is that of the whole image."""
    boxes = cv2.connectedComponentsWithStats(mask, connectivity=8)[2][1:].astype(np.int64)
    area = boxes[:, cv2.CC_STAT_AREA]
    w, h = boxes[:, cv2.CC_STAT_WIDTH], boxes[:, cv2.CC_STAT_HEIGHT]
    is_letter = (h >= MIN_HEIGHT_PX) & (h <= MAX_HEIGHT * height) & (w <= 6 * h) & (area >= 0.12 * w * h)
    is_letter &= (w < mask.shape[1]) & (h < mask.shape[0]) & ((w < 2 * h) | (area < 0.85 * w * h))  # the last: bars
    boxes = boxes[is_letter]
    boxes = boxes[_are_in_reach(boxes, bars)]
    x, y = boxes[:, :2].T
    w, h = boxes[:, 2:4].T
    if not 0 < len(x) <= MAX_LETTERS:
        return []
    overlap = np.minimum.outer(y + h, y + h) - np.maximum.outer(y, y)
    smaller, larger = np.minimum.outer(h, h), np.maximum.outer(h, h)
    gap = np.maximum.outer(x, x) - np.minimum.outer(x + w, x + w)
    is_level = (overlap >= 0.6 * smaller) & (larger <= 2.1 * smaller)
    boxes = np.stack([y, x, y + h, x + w], axis=1)
    return [line for limit in GAPS for line in _join_letters(boxes, is_level & (gap <= limit * larger), sign)]


def _are_in_reach(letters: NDArray[np.int64], bars: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of `letters` (n, 4 or more: x, y, w, h) can belong to one of `bars` (m, 4: y0, x0, y1, x1)."""
    x, y = letters[:, :2].T[..., None]
    w, h = letters[:, 2:4].T[..., None]
    dy = np.maximum(y - bars[:, 2], bars[:, 0] - y - h)
    dx = np.maximum(x - bars[:, 3], bars[:, 1] - x - w)
    is_near = (dy <= LETTER_REACH[0] * h) & (dx <= LETTER_REACH[1] * h)
    return np.asarray(is_near.any(axis=1))


def _join_letters(boxes: NDArray[np.int64], is_neighbour: NDArray[np.bool_], sign: int) -> list[Line]:
    """The boxes around chains of neighbouring letters; `boxes` (n, 4) are y0, x0, y1, x1 of letters."""
    n_lines, labels = connected_components(coo_array(is_neighbour.astype(np.int8)), directed=False)
    lines = []
    for k in range(n_lines):
        letters = boxes[labels == k]
        y0, x0 = letters[:, :2].min(axis=0)
        y1, x1 = letters[:, 2:].max(axis=0)
        height = y1 - y0
        median_height = np.median(letters[:, 2] - letters[:, 0])
        if 1.2 * height <= x1 - x0 <= MAX_ASPECT * height and height <= 1.8 * median_height:
            lines.append(Line(int(y0), int(x0), int(y1), int(x1), sign))
    return lines
