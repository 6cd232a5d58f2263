"""The pixel size that the burnt-in scale bar of an image states, or why it is not used."""

import math
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from emqa_dask.archive.metadata.pixel_size import PLAUSIBLE_NM
from emqa_dask.archive.scale_bar.bars import Bar, find_bars
from emqa_dask.archive.scale_bar.text_lines import Line, cut_line, find_lines, measure_distance
from emqa_dask.archive.scale_bar.text_reader import TextReading, is_common_length, read_lines

VIEW_PX = 1024  # longest side of the view that bars are looked for on
MIN_CONFIDENCE = 0.7  # probability of a length that bars often have; lower ones of drawn bars are wrong
MIN_CONFIDENCE_OTHER = 0.9  # of one that they seldom have
SURE = 0.9  # confidence above which one reading of a text counts before its others
MAX_READ_LINES = 24  # of an image: the nearest to a bar
MIN_CONTRAST = 0.3  # grey ranges; a bar without a length is reported from here on: fainter ones are often no bars
MIN_LENGTH_PX = 12.0  # of a bar in the view; the ends of shorter ones are not exact enough
EDGE_PX = 1.0  # of the view; nearer to it, a bar may be cut
AGREEMENT = 0.05  # relative difference of two pixel sizes that are the same but for the ends of the bars


class ScaleReading(NamedTuple):
    """What the scale bar of an image states."""

    nm_per_pixel: float = math.nan  # NaN: there is no bar, or it is not certain what it states
    description: str = ""  # "200 nm on 98.5 px", or what keeps the bar from being used; "" without a bar


class _Pair(NamedTuple):
    """A bar with the text that belongs to it."""

    bar: Bar
    text: TextReading
    distance: float  # between them, in heights of the text
    nm_per_pixel: float


def read_scale_bar(image: NDArray) -> ScaleReading:
    """The pixel size along x of `image` (h, w; any real dtype) from its scale bar; NaN where it is not certain.

    A bar is used when a length with a unit stands beside it, is read with confidence, and no other bar states another
    pixel size. Bars without a length and bars that contradict each other are described and not used.
    """
    view, factor = make_view(image)
    bars = find_bars(view)
    if not bars:
        return ScaleReading()
    lines = _select_lines(bars, find_lines(view, bars))
    readings = read_lines([cut_line(view, line) for line in lines])
    pairs = _pair_bars(bars, lines, readings, factor, view.shape[1])
    return _judge(pairs, bars, factor, view.shape[1])


def make_view(image: NDArray) -> tuple[NDArray[np.float32], float]:
    """`image` with at most VIEW_PX a side, its grey range (0.5 to 99.5 percentile) from 0 to 1, and the decimation."""
    h, w = image.shape
    factor = max(h, w, VIEW_PX) / VIEW_PX
    pixels = np.ascontiguousarray(image, dtype=np.float32)
    if factor > 1:
        size = (max(round(w / factor), 1), max(round(h / factor), 1))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    pixels = np.nan_to_num(pixels, copy=False, posinf=0, neginf=0)
    step = max(int(math.sqrt(pixels.size / 2**17)), 1)
    low, high = np.percentile(pixels[::step, ::step], [0.5, 99.5])
    span = max(float(high - low), 1e-30)
    return np.clip((pixels - np.float32(low)) / np.float32(span), -0.5, 1.5), factor


def _select_lines(bars: list[Bar], lines: list[Line]) -> list[Line]:
    """The MAX_READ_LINES lines that are nearest to a clear bar, of almost equal ones the first."""
    distances = [min(measure_distance(bar, line) + 3 * (1 - bar.contrast) for bar in bars) for line in lines]
    selection: list[Line] = []
    for k in np.argsort(distances, kind="stable"):
        if len(selection) == MAX_READ_LINES:
            break
        if not any(max(abs(a - b) for a, b in zip(lines[k], line, strict=True)) <= 1 for line in selection):
            selection.append(lines[k])
    return selection


def _pair_bars(
    bars: list[Bar], lines: list[Line], readings: list[TextReading], factor: float, width: int
) -> list[_Pair]:
    """Each reading that is a certain length, with the likeliest bar for it."""
    pairs = []
    for line, text in zip(lines, readings, strict=True):
        limit = MIN_CONFIDENCE if is_common_length(text.text) else MIN_CONFIDENCE_OTHER
        if not (text.length_nm > 0 and text.confidence >= limit) or _is_tail(line, text.text, lines, readings):
            continue
        bar = _choose_bar(bars, line, width)
        if bar is not None and bar.length_px >= MIN_LENGTH_PX:
            nm_per_pixel = text.length_nm / (bar.length_px * factor)
            if PLAUSIBLE_NM[0] <= nm_per_pixel <= PLAUSIBLE_NM[1]:
                pairs.append(_Pair(bar, text, measure_distance(bar, line), nm_per_pixel))
    return pairs


def _is_tail(line: Line, text: str, lines: list[Line], readings: list[TextReading]) -> bool:
    """Whether `text` in `line` is only the end of a length: "5µm" of "1.5µm", which a longer line shows."""
    for longer, reading in zip(lines, readings, strict=True):
        head = reading.text.removesuffix(text)
        is_longer = longer.x0 < line.x0 and longer.y0 < line.y1 and longer.y1 > line.y0 and longer.x1 > line.x0
        if is_longer and head != reading.text and any(letter in "123456789." for letter in head):
            return True
    return False


def _choose_bar(bars: list[Bar], line: Line, width: int) -> Bar | None:
    """The bar that belongs to `line`: ticks and broken ones first, then the clearest of the nearest; cut ones last."""
    candidates = [(measure_distance(bar, line), bar) for bar in bars]
    candidates = [(distance, bar) for distance, bar in candidates if distance < np.inf and not _is_underline(bar, line)]
    candidates = [item for item in candidates if not _is_cut(item[1], width)] or candidates
    if not candidates:
        return None
    best = max(candidates, key=lambda item: _score_bar(item[0], item[1], line))[1]
    # Uneven ends make a shorter piece of the same bar as clear as the whole.
    whole = [bar for _, bar in candidates if _is_part(best, bar)]
    return max(whole, key=lambda bar: bar.length_px)


def _is_part(bar: Bar, whole: Bar) -> bool:
    """Whether `bar` is a piece of `whole`, or itself."""
    is_inside = whole.x0 <= bar.x0 + 2 and whole.x1 >= bar.x1 - 2 and min(bar.y1, whole.y1) > max(bar.y0, whole.y0)
    return is_inside and whole.sign == bar.sign and whole.contrast >= 0.7 * bar.contrast and whole.kind == bar.kind


def _is_cut(bar: Bar, width: int) -> bool:
    """Whether `bar` ends at the edge of a view of this width: it may have been longer."""
    return bar.x0 < EDGE_PX or bar.x1 > width - EDGE_PX


def _score_bar(distance: float, bar: Bar, line: Line) -> float:
    special = {"ticks": 1.0, "broken": 1.0, "marks": 0.3}.get(bar.kind, 0.0)
    offset = abs((bar.x0 + bar.x1) - (line.x0 + line.x1)) / 2 / max(bar.x1 - bar.x0, line.x1 - line.x0)
    return special + min(bar.contrast, 1.0) - 0.3 * distance - 0.3 * offset + 0.1 * (bar.sign == line.sign)


def _is_underline(bar: Bar, line: Line) -> bool:
    """Whether `bar` is a stroke of a letter: it lies within the line and is shorter than it."""
    is_inside = bar.y0 >= line.y0 - 1 and bar.y1 <= line.y1 + 1 and bar.x0 >= line.x0 - 1 and bar.x1 <= line.x1 + 1
    return is_inside and bar.kind not in ("broken", "ticks")


def _judge(pairs: list[_Pair], bars: list[Bar], factor: float, width: int) -> ScaleReading:
    if not pairs:
        clear = [bar for bar in bars if bar.contrast >= MIN_CONTRAST]
        return ScaleReading(description="a bar without a readable length" if clear else "")
    # A line is cut out at several levels: of the readings at one bar the surest counts, if it is sure.
    surest = {pair.bar: pair for pair in sorted(pairs, key=lambda pair: pair.text.confidence)}
    pairs = [pair for pair in pairs if pair is surest[pair.bar] or surest[pair.bar].text.confidence < SURE]
    if any(_is_cut(pair.bar, width) for pair in pairs):
        return ScaleReading(description="a bar that the edge of the image cuts")
    pairs = sorted(pairs, key=lambda pair: pair.nm_per_pixel)
    if any(b.nm_per_pixel > a.nm_per_pixel * (1 + AGREEMENT) for a, b in pairwise(pairs)):
        texts = [_describe(pair, factor) for pair in (pairs[0], pairs[-1])]
        return ScaleReading(description=f"bars that contradict each other: {texts[0]} and {texts[1]}")
    best = max(pairs, key=lambda pair: pair.text.confidence)
    return ScaleReading(best.nm_per_pixel, _describe(best, factor))


def _describe(pair: _Pair, factor: float) -> str:
    number = pair.text.text.rstrip("nmµpÅ")
    return f"{number} {pair.text.text[len(number) :]} on {pair.bar.length_px * factor:.1f} px"
