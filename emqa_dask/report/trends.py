"""A quantity over time, and histograms the size of a word, as inline SVG without a script or a style attribute."""

import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from numpy.typing import NDArray

# user units of the plot over time
WIDTH = 320
HEIGHT = 132
LEFT = 34
RIGHT = 4
TOP = 8
BOTTOM = 20
# of a histogram in a table's cell
WORD_WIDTH = 96
WORD_HEIGHT = 20
N_BARS = 16


def over_time(times: pd.DataFrame, label: str, reference: float = np.nan) -> Markup:
    """The median of each stretch with its 5 to 95 %, and a dashed line at `reference` (NaN: none); "" without values.

    `times` as uncertainty.drift.summarise_over_time() gives it: start and end are dates, or positions of images.
    """
    numbers = times[["median", "low", "high"]].to_numpy(float)
    times = times[np.isfinite(numbers).all(1)]
    numbers = numbers[np.isfinite(numbers).all(1)]
    if not len(times):
        return Markup("")
    is_dated = times["start"].dtype.kind == "M"
    start, end = (
        times[name].to_numpy().astype("datetime64[s]" if is_dated else "int64").astype(float)
        for name in ("start", "end")
    )
    first = start.min()
    last = end.max()
    bottom, top, ticks = _scale(numbers, reference)

    def x(v):
        return LEFT + (WIDTH - LEFT - RIGHT) * (v - first) / (last - first)

    def y(v):
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (v - bottom) / (top - bottom)

    parts = []
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 5}" y="{y(tick) + 3:.1f}" text-anchor="end">{tick:,.4g}</text>')
    names = _names(times, is_dated)
    columns = zip(x(start), x(end), y(numbers), numbers, times["n"], *names, strict=True)
    for a, z, (middle, low, high), (m, lo, hi), n, begin, until in columns:
        parts.append(f"<g><title>{begin} to {until}: median {m:.3g}, 5 to 95 %: {lo:.3g} to {hi:.3g}; {n:,} images")
        parts.append(f'</title><rect class="reach" x="{a + 1:.1f}" y="{high:.1f}" width="{max(z - a - 2, 1):.1f}"')
        parts.append(f' height="{max(low - high, 0.5):.1f}"/><line class="middle" x1="{a + 1:.1f}"')
        parts.append(f' x2="{max(z - 1, a + 2):.1f}" y1="{middle:.1f}" y2="{middle:.1f}"/></g>')
    if np.isfinite(reference):
        at = f"{y(reference):.1f}"
        parts.append(f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
    floor = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>')
    for at, text, anchor in ((LEFT, names[0][0], "start"), (WIDTH - RIGHT, names[1][-1], "end")):
        parts.append(f'<text class="tick" x="{at}" y="{HEIGHT - 6}" text-anchor="{anchor}">{text}</text>')
    head = f'<svg class="histogram" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
    return Markup(head + "".join(parts) + "</svg>")


def word(counts: NDArray, edges: NDArray, upto: float, label: str) -> Markup:
    """`counts` between `edges` as a small histogram from edges[0] to `upto`; "" without counts."""
    if not counts.sum():
        return Markup("")
    bars = np.linspace(edges[0], max(upto, edges[1]), N_BARS + 1)
    heights = np.histogram((edges[1:] + edges[:-1]) / 2, bars, weights=counts)[0]
    most = max(heights.max(), 1)
    width = WORD_WIDTH / N_BARS
    parts = [
        f'<rect class="plain-bar" x="{k * width + 0.5:.1f}" y="{WORD_HEIGHT - WORD_HEIGHT * h / most:.1f}" '
        f'width="{width - 1:.1f}" height="{WORD_HEIGHT * h / most:.1f}"/>'
        for k, h in enumerate(heights)
        if h
    ]
    head = f'<svg class="word" viewBox="0 0 {WORD_WIDTH} {WORD_HEIGHT + 1}" role="img" aria-label="{escape(label)}">'
    floor = f'<line class="axis" x1="0" x2="{WORD_WIDTH}" y1="{WORD_HEIGHT + 0.5}" y2="{WORD_HEIGHT + 0.5}"/>'
    return Markup(f"{head}<title>{escape(label)}</title>{''.join(parts)}{floor}</svg>")


def _scale(numbers: NDArray, reference: float) -> tuple[float, float, NDArray]:
    """Lower and upper end of the axis of values, and three to six round numbers between them."""
    low, high = numbers[:, 1].min(), numbers[:, 2].max()
    if np.isfinite(reference):
        low, high = min(low, reference), max(high, reference)
    if not high - low > 1e-9 * max(abs(low), abs(high)):
        low, high = low - (abs(low) or 1) * 0.1, high + (abs(high) or 1) * 0.1
    step = 10.0 ** np.floor(np.log10((high - low) / 3))
    step *= next(m for m in (1, 2, 2.5, 5, 10) if (high - low) / (m * step) <= 5)
    ticks = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step + 0.0
    return float(low), float(high), ticks


def _names(times: pd.DataFrame, is_dated: bool) -> tuple[list[str], list[str]]:
    """Starts and ends: dates with the time of day where that tells them apart, or images counted from 1."""
    start = times["start"]
    end = times["end"]
    if not is_dated:
        return [f"image {v + 1:,}" for v in start], [f"image {v:,}" for v in end]
    form = "%Y-%m-%d %H:%M" if end.max() - start.min() < pd.Timedelta(days=12) else "%Y-%m-%d"
    return start.dt.strftime(form).tolist(), end.dt.strftime(form).tolist()
