"""A quantity over time, and small histograms for cells of a table, as inline SVG without scripts and styles."""

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
# user units of a histogram in a cell of a table
SPARKLINE_WIDTH = 96
SPARKLINE_HEIGHT = 20
N_BARS = 16


def draw_trend(times: pd.DataFrame, label: str, reference: float = np.nan) -> Markup:
    """Median and 5 to 95 % of each period, and a dashed line at `reference` (NaN: none); "" without values.

    `times` as uncertainty.time_bins.summarise_over_time() gives it: start and end are dates, or positions of images.
    """
    period_statistics = times[["median", "low", "high"]].to_numpy(float)
    times = times[np.isfinite(period_statistics).all(1)]
    period_statistics = period_statistics[np.isfinite(period_statistics).all(1)]
    if not len(times):
        return Markup("")
    is_dated = times["start"].dtype.kind == "M"
    unit = "datetime64[s]" if is_dated else "int64"
    start, end = (times[name].to_numpy().astype(unit).astype(float) for name in ("start", "end"))
    first = start.min()
    last = end.max()
    bottom, top, ticks = choose_scale(period_statistics, reference)

    def to_x(value):
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - first) / (last - first)

    def to_y(value):
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - bottom) / (top - bottom)

    parts = [part for tick in ticks for part in draw_tick(tick, to_y(tick))]
    names = _name_stretches(times, is_dated)
    columns = (to_x(start), to_x(end), to_y(period_statistics), period_statistics, times["n"], *names)
    parts += [_draw_period(*row) for row in zip(*columns, strict=True)]
    if np.isfinite(reference):
        y = f"{to_y(reference):.1f}"
        parts.append(f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
    floor = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>')
    for x, text, anchor in ((LEFT, names[0][0], "start"), (WIDTH - RIGHT, names[1][-1], "end")):
        parts.append(f'<text class="tick" x="{x}" y="{HEIGHT - 6}" text-anchor="{anchor}">{text}</text>')
    head = f'<svg class="histogram" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
    return Markup(head + "".join(parts) + "</svg>")


def draw_tick(tick: float, y: float) -> tuple[str, str]:
    """Grid line and label of one value of the vertical axis."""
    line = f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    text = f'<text class="tick" x="{LEFT - 5}" y="{y + 3:.1f}" text-anchor="end">{tick:,.4g}</text>'
    return line, text


def _draw_period(
    x0: float, x1: float, heights: NDArray, values: NDArray, n: int, start_name: str, end_name: str
) -> str:
    """Bar from 5 to 95 % and line at the median of one period, from x0 to x1, with its numbers as a title."""
    median_y, low_y, high_y = heights
    median, low, high = values
    title = f"{start_name} to {end_name}: median {median:.3g}, 5 to 95 %: {low:.3g} to {high:.3g}; {n:,} images"
    return (
        f'<g><title>{title}</title><rect class="reach" x="{x0 + 1:.1f}" y="{high_y:.1f}" '
        f'width="{max(x1 - x0 - 2, 1):.1f}" height="{max(low_y - high_y, 0.5):.1f}"/>'
        f'<line class="middle" x1="{x0 + 1:.1f}" x2="{max(x1 - 1, x0 + 2):.1f}" y1="{median_y:.1f}" '
        f'y2="{median_y:.1f}"/></g>'
    )


def draw_sparkline(counts: NDArray, edges: NDArray, high: float, label: str) -> Markup:
    """A small histogram of `counts` between `edges`, from edges[0] to `high`; "" without counts."""
    if not counts.sum():
        return Markup("")
    bars = np.linspace(edges[0], max(high, edges[1]), N_BARS + 1)
    heights = np.histogram((edges[1:] + edges[:-1]) / 2, bars, weights=counts)[0]
    tallest = max(heights.max(), 1)
    width = SPARKLINE_WIDTH / N_BARS
    parts = [
        f'<rect class="plain-bar" x="{k * width + 0.5:.1f}" y="{SPARKLINE_HEIGHT * (1 - h / tallest):.1f}" '
        f'width="{width - 1:.1f}" height="{SPARKLINE_HEIGHT * h / tallest:.1f}"/>'
        for k, h in enumerate(heights)
        if h
    ]
    name = escape(label)
    bottom = SPARKLINE_HEIGHT + 0.5
    head = f'<svg class="word" viewBox="0 0 {SPARKLINE_WIDTH} {SPARKLINE_HEIGHT + 1}" role="img" aria-label="{name}">'
    axis = f'<line class="axis" x1="0" x2="{SPARKLINE_WIDTH}" y1="{bottom}" y2="{bottom}"/>'
    return Markup(f"{head}<title>{name}</title>{''.join(parts)}{axis}</svg>")


def choose_scale(period_statistics: NDArray, reference: float) -> tuple[float, float, NDArray]:
    """Lower and upper end of the vertical axis, and three to six round numbers between them."""
    low = period_statistics[:, 1].min()
    high = period_statistics[:, 2].max()
    if np.isfinite(reference):
        low = min(low, reference)
        high = max(high, reference)
    if not high - low > 1e-9 * max(abs(low), abs(high)):
        low -= (abs(low) or 1) * 0.1
        high += (abs(high) or 1) * 0.1
    step = 10.0 ** np.floor(np.log10((high - low) / 3))
    step *= next(m for m in (1, 2, 2.5, 5, 10) if (high - low) / (m * step) <= 5)
    ticks = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step + 0.0
    return float(low), float(high), ticks


def _name_stretches(times: pd.DataFrame, is_dated: bool) -> tuple[list[str], list[str]]:
    """Names of starts and ends: dates, with the time of day for short spans, or images counted from 1."""
    start = times["start"]
    end = times["end"]
    if not is_dated:
        return [f"image {v + 1:,}" for v in start], [f"image {v:,}" for v in end]
    form = "%Y-%m-%d %H:%M" if end.max() - start.min() < pd.Timedelta(days=12) else "%Y-%m-%d"
    return start.dt.strftime(form).tolist(), end.dt.strftime(form).tolist()
