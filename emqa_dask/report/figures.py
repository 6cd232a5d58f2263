"""Histograms, stacked by verdict, as inline SVG without scripts and styles."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from emqa_dask.settings import Triage
from emqa_dask.tables import VERDICTS

# user units of the SVG
WIDTH = 320
HEIGHT = 132
LEFT = 4
RIGHT = 4
TOP = 16
BOTTOM = 20
FLOOR = HEIGHT - BOTTOM  # y of the horizontal axis
VALUES_PER_BLOCK = 65_536  # values that are counted at a time


class Axis(NamedTuple):
    """Horizontal axis of a histogram."""

    edges: NDArray  # edges of the bins, as positions on the axis
    place: Callable  # value -> position on the axis
    ticks: Sequence[tuple[float, str]]  # (value, label)
    name: Callable  # (low edge, high edge) -> the bin in words


def _linear_axis(values: NDArray) -> Axis:
    edges = np.linspace(0, 1, 21)
    ticks = [(t, f"{t:.2g}") for t in (0, 0.25, 0.5, 0.75, 1)]
    return Axis(edges, lambda v: v, ticks, lambda a, b: f"{a:.2f} to {b:.2f}")


def _log_axis(values: NDArray) -> Axis:
    """Bins of equal ratio, two to eight per decade; zeros have their own bin, on the left after a gap of one bin."""
    positives = values[values > 0]
    low, high = np.log10(np.clip([positives.min(), positives.max()], 1e-12, 1e12)) if len(positives) else (0.0, 1.0)
    n = int(np.clip(24 // max(high - low, 1), 2, 8))
    high = max(np.floor(high * n) + 1, np.floor(low * n) + n) / n
    low = np.floor(low * n) / n
    first = low - 2 / n if (values == 0).any() else low
    edges = np.arange(0, round((high - first) * n) + 1) / n + first
    digits = (1, 2, 5) if high - low <= 2 else (1,)
    every = int(np.ceil((high - low) / 6))
    decades = np.arange(np.floor(low), np.ceil(high) + 1, every)
    ticks = [(d * 10.0**k, f"{d * 10.0**k:,.6g}") for k in decades for d in digits]
    ticks = [(v, text) for v, text in ticks if low - 1e-9 <= np.log10(v) <= high + 1e-9]
    ticks += [(0.0, "0")] if first < low else []

    def place(v):
        v = np.asarray(v, float)
        return np.where(v == 0, low - 1.5 / n, np.log10(np.clip(v, 1e-12, 1e12)))

    return Axis(edges, place, ticks, lambda a, b: "0" if a < low - 1.5 / n else f"{10**a:.3g} to {10**b:.3g}")


def _zero_based_axis(values: NDArray) -> Axis:
    """Twenty equal bins from 0 to a round number above the largest value."""
    top = float(np.clip(values.max(), 0.1, 1e12))
    step = 10.0 ** np.floor(np.log10(top / 4))
    step *= next(m for m in (1, 2, 2.5, 5, 10) if 4 * m * step >= top * (1 - 1e-9))
    ticks = [(k * step, f"{k * step:.6g}") for k in range(5)]
    return Axis(np.linspace(0, 4 * step, 21), lambda v: v, ticks, lambda a, b: f"{a:.3g} to {b:.3g}")


def _signed_axis(values: NDArray) -> Axis:
    """Bins of equal width near 0 and of equal ratio far from it (arcsinh); 0 is the edge of a bin."""
    low, high = (float(np.arcsinh(np.clip(v, -1e9, 1e9))) for v in (min(values.min(), 0), max(values.max(), 2)))
    width = (high - low) / 20
    edges = np.arange(np.floor(low / width - 1e-9), np.ceil(high / width + 1e-9) + 1) * width
    ticks = [0, 1, *(d * 10**k for k in range(9) for d in (2, 5, 10))]
    ticks = [t for t in (*(-t for t in reversed(ticks[1:])), *ticks) if edges[0] <= np.arcsinh(t) <= edges[-1]]
    # Ticks keep a distance, so that their labels do not overlap; 0 and 1 come first.
    spaced = []
    min_distance = (edges[-1] - edges[0]) / 14
    for t in sorted(ticks, key=abs):
        if all(abs(np.arcsinh(t) - np.arcsinh(k)) >= min_distance for k in spaced):
            spaced.append(t)
    ticks = [(float(t), f"{t:,g}") for t in sorted(spaced)]
    return Axis(edges, np.arcsinh, ticks, lambda a, b: f"{np.sinh(a):.3g} to {np.sinh(b):.3g}")


def draw_histogram(values: NDArray, verdicts: NDArray, axis: Callable, limit: float, label: str) -> Markup:
    """SVG of finite `values`, stacked by verdict, with a dashed line at `limit` (NaN: none); "" without values.

    verdicts: (n,) positions in VERDICTS.
    """
    is_finite = np.isfinite(values)
    values = values[is_finite]
    verdicts = verdicts[is_finite]
    if not len(values):
        return Markup("")
    x_axis = axis(values)
    low = x_axis.edges[0]
    high = x_axis.edges[-1]
    counts = _count_by_verdict(values, verdicts, x_axis)

    def to_x(place):
        return LEFT + (WIDTH - LEFT - RIGHT) * (place - low) / (high - low)

    parts = _draw_bars(counts, x_axis, to_x)
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{FLOOR}" y2="{FLOOR}"/>')
    parts += _draw_ticks(x_axis, to_x)
    limit_x = float(np.clip(to_x(x_axis.place(limit)), LEFT, WIDTH - RIGHT)) if np.isfinite(limit) else np.nan
    parts += _draw_limit(limit, limit_x)
    is_left = limit > 0.5 and to_x(x_axis.place(limit)) > 90  # beside the label of the limit, not on it
    anchor = "start" if is_left else "end"
    parts.append(
        f'<text class="tick" x="{LEFT if is_left else WIDTH - RIGHT}" y="11" text-anchor="{anchor}">'
        f"tallest bar {counts.sum(0).max():,}</text>"
    )
    head = f'<svg class="histogram" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
    return Markup(head + "".join(parts) + "</svg>")


def _count_by_verdict(values: NDArray, verdicts: NDArray, axis: Axis) -> NDArray:
    """(verdicts, bins) counts; values outside of the axis count in its first or last bin."""
    low = axis.edges[0]
    high = axis.edges[-1]
    counts = np.zeros((len(VERDICTS), len(axis.edges) - 1), int)
    for start in range(0, len(values), VALUES_PER_BLOCK):
        block = slice(start, start + VALUES_PER_BLOCK)
        places = np.clip(axis.place(values[block]), low, np.nextafter(high, low))
        counts += [np.histogram(places[verdicts[block] == k], axis.edges)[0] for k in range(len(VERDICTS))]
    return counts


def _draw_bars(counts: NDArray, axis: Axis, to_x: Callable) -> list[str]:
    """Bars of counts (verdicts, bins), each a stack of verdicts with its numbers as a title."""
    totals = counts.sum(0)
    parts = []
    for b in np.flatnonzero(totals):
        x0 = to_x(axis.edges[b]) + 0.6
        x1 = to_x(axis.edges[b + 1]) - 0.6
        y = float(FLOOR)
        label = ", ".join(f"{c:,} {v.replace('_', ' ')}" for v, c in zip(VERDICTS, counts[:, b]) if c)
        name = escape(axis.name(axis.edges[b], axis.edges[b + 1]))
        parts.append(f"<g><title>{name}: {totals[b]:,} ({label})</title>")
        for verdict, count in zip(VERDICTS, counts[:, b], strict=True):
            h = (FLOOR - TOP) * count / totals.max()
            y -= h
            if count:
                parts.append(
                    f'<rect class="{verdict}" x="{x0:.1f}" y="{y:.1f}" width="{x1 - x0:.1f}" height="{h:.1f}"/>'
                )
        parts.append("</g>")
    return parts


def _draw_ticks(axis: Axis, to_x: Callable) -> list[str]:
    parts = []
    for value, text in axis.ticks:
        x = float(to_x(axis.place(value)))
        if LEFT - 1 <= x <= WIDTH:
            anchor = "start" if x < 16 else "end" if x > WIDTH - 16 else "middle"
            parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{FLOOR}" y2="{FLOOR + 3}"/>')
            parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 5}" text-anchor="{anchor}">{text}</text>')
    return parts


def _draw_limit(limit: float, x: float) -> list[str]:
    """Dashed line with its label; nothing for a limit of NaN."""
    if not np.isfinite(limit):
        return []
    anchor, shift = ("end", -3) if x > WIDTH * 0.6 else ("start", 3)
    return [
        f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{FLOOR}"/>',
        f'<text class="tick" x="{x + shift:.1f}" y="11" text-anchor="{anchor}">limit {limit:.4g}</text>',
    ]


def draw_distributions(column: Callable[[str], NDArray], verdicts: NDArray, settings: Triage) -> list[dict]:
    """Title, line of numbers and SVG of each of the four distributions of the triage table.

    `column` gives (n,) float64 of the triage table by name, one at a time; verdicts: (n,) positions in VERDICTS.
    """
    return _draw_figures(
        (
            (
                "f1_probability",
                f"Probability of F1 ≥ {settings.trust_f1:g}",
                _linear_axis,
                settings.trust_probability,
                "{:.2f}",
            ),
            ("n_detections", "Detections per image", _log_axis, np.nan, "{:,.0f}"),
            ("ood_distance", "Distance to the training images", _log_axis, settings.max_ood_distance, "{:.2f}"),
            ("nm_per_pixel", "Pixel size, nm", _log_axis, np.nan, "{:.3g}"),
        ),
        column,
        verdicts,
    )


def draw_classifier_distributions(
    column: Callable[[str], NDArray], verdicts: NDArray, entropy_limit_nats: float
) -> list[dict]:
    """As draw_distributions(), for predictive entropy and shift score of a classifier; a limit of NaN is not drawn."""
    return _draw_figures(
        (
            ("predictive_entropy_nats", "Predictive entropy, nats", _zero_based_axis, entropy_limit_nats, "{:.3g}"),
            ("shift_score", "Shift score", _signed_axis, 1.0, "{:.2f}"),
        ),
        column,
        verdicts,
    )


def _draw_figures(figures: Sequence[tuple], column: Callable[[str], NDArray], verdicts: NDArray) -> list[dict]:
    drawings = []
    for name, title, axis, limit, number_format in figures:
        values = column(name)
        summary = "not known for any image"
        finite = values[np.isfinite(values)]
        if len(finite):
            quantiles = np.quantile(finite, [0.05, 0.5, 0.95], overwrite_input=True)
            low, median, high = (number_format.format(v) for v in quantiles)
            summary = f"median {median}, 5 to 95 %: {low} to {high}; {len(finite):,} images"
        del finite
        svg = draw_histogram(values, verdicts, axis, limit, f"{title}: {summary}")
        drawings.append({"title": title, "line": summary, "svg": svg})
    return drawings
