"""Histograms, stacked by verdict, as inline SVG without a script or a style attribute."""

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
PIECE = 65_536  # values that are sorted into bins at a time


class Axis(NamedTuple):
    edges: NDArray  # bin edges, in the units of `place`
    place: Callable  # value -> position
    ticks: Sequence[tuple[float, str]]  # (value, label)
    name: Callable  # (low edge, high edge) -> the bin in words


def _linear(values: NDArray) -> Axis:
    edges = np.linspace(0, 1, 21)
    ticks = [(t, f"{t:.2g}") for t in (0, 0.25, 0.5, 0.75, 1)]
    return Axis(edges, lambda v: v, ticks, lambda a, b: f"{a:.2f} to {b:.2f}")


def _log(values: NDArray) -> Axis:
    """Bins of equal ratio, two to eight to a decade; zeros have a bin of their own on the left, one bin apart."""
    above = values[values > 0]
    low, high = np.log10(np.clip([above.min(), above.max()], 1e-12, 1e12)) if len(above) else (0.0, 1.0)
    n = int(np.clip(24 // max(high - low, 1), 2, 8))
    low, high = np.floor(low * n) / n, max(np.floor(high * n) + 1, np.floor(low * n) + n) / n
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


def _from_zero(values: NDArray) -> Axis:
    """Twenty equal bins from 0 to a round number above the largest value."""
    top = float(np.clip(values.max(), 0.1, 1e12))
    step = 10.0 ** np.floor(np.log10(top / 4))
    step *= next(m for m in (1, 2, 2.5, 5, 10) if 4 * m * step >= top * (1 - 1e-9))
    ticks = [(k * step, f"{k * step:.6g}") for k in range(5)]
    return Axis(np.linspace(0, 4 * step, 21), lambda v: v, ticks, lambda a, b: f"{a:.3g} to {b:.3g}")


def _signed(values: NDArray) -> Axis:
    """Bins that are equal about 0 and grow in proportion far from it (arcsinh), 0 at the edge of one."""
    low, high = (float(np.arcsinh(np.clip(v, -1e9, 1e9))) for v in (min(values.min(), 0), max(values.max(), 2)))
    width = (high - low) / 20
    edges = np.arange(np.floor(low / width - 1e-9), np.ceil(high / width + 1e-9) + 1) * width
    ticks = [0, 1, *(d * 10**k for k in range(9) for d in (2, 5, 10))]
    ticks = [t for t in (*(-t for t in reversed(ticks[1:])), *ticks) if edges[0] <= np.arcsinh(t) <= edges[-1]]
    # apart, so that no label lies on another; 0 and 1 come first
    kept = []
    least = (edges[-1] - edges[0]) / 14
    for t in sorted(ticks, key=abs):
        if all(abs(np.arcsinh(t) - np.arcsinh(k)) >= least for k in kept):
            kept.append(t)
    ticks = [(float(t), f"{t:,g}") for t in sorted(kept)]
    return Axis(edges, np.arcsinh, ticks, lambda a, b: f"{np.sinh(a):.3g} to {np.sinh(b):.3g}")


def histogram(values: NDArray, verdicts: NDArray, axis: Callable, limit: float, label: str) -> Markup:
    """The SVG of `values` (NaN and infinite ones left out), a dashed line at `limit` (NaN: none); "" without values.

    verdicts: (n,) positions in VERDICTS.
    """
    is_known = np.isfinite(values)
    values = values[is_known]
    verdicts = verdicts[is_known]
    if not len(values):
        return Markup("")
    x = axis(values)
    low, high = x.edges[0], x.edges[-1]
    counts = np.zeros((len(VERDICTS), len(x.edges) - 1), int)
    for start in range(0, len(values), PIECE):
        piece = slice(start, start + PIECE)
        inside = np.clip(x.place(values[piece]), low, np.nextafter(high, low))
        counts += [np.histogram(inside[verdicts[piece] == k], x.edges)[0] for k in range(len(VERDICTS))]
    total = counts.sum(0)
    top = total.max()

    def at(v):
        return LEFT + (WIDTH - LEFT - RIGHT) * (v - low) / (high - low)

    floor = HEIGHT - BOTTOM
    height = HEIGHT - TOP - BOTTOM
    parts = []
    for b in np.flatnonzero(total):
        a = at(x.edges[b]) + 0.6
        z = at(x.edges[b + 1]) - 0.6
        y = float(floor)
        words = ", ".join(f"{c:,} {v.replace('_', ' ')}" for v, c in zip(VERDICTS, counts[:, b]) if c)
        parts.append(f"<g><title>{escape(x.name(x.edges[b], x.edges[b + 1]))}: {total[b]:,} ({words})</title>")
        for verdict, count in zip(VERDICTS, counts[:, b], strict=True):
            h = height * count / top
            y -= h
            if count:
                parts.append(f'<rect class="{verdict}" x="{a:.1f}" y="{y:.1f}" width="{z - a:.1f}" height="{h:.1f}"/>')
        parts.append("</g>")
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>')
    for value, text in x.ticks:
        p = float(at(x.place(value)))
        if LEFT - 1 <= p <= WIDTH:
            anchor = "start" if p < 16 else "end" if p > WIDTH - 16 else "middle"
            parts.append(f'<line class="axis" x1="{p:.1f}" x2="{p:.1f}" y1="{floor}" y2="{floor + 3}"/>')
            parts.append(f'<text class="tick" x="{p:.1f}" y="{HEIGHT - 5}" text-anchor="{anchor}">{text}</text>')
    if np.isfinite(limit):
        p = float(np.clip(at(x.place(limit)), LEFT, WIDTH - RIGHT))
        anchor, shift = ("end", -3) if p > WIDTH * 0.6 else ("start", 3)
        parts.append(f'<line class="limit" x1="{p:.1f}" x2="{p:.1f}" y1="4" y2="{floor}"/>')
        parts.append(f'<text class="tick" x="{p + shift:.1f}" y="11" text-anchor="{anchor}">limit {limit:.4g}</text>')
    is_left = limit > 0.5 and at(x.place(limit)) > 90  # beside the limit's own words, not on them
    parts.append(f'<text class="tick" x="{LEFT if is_left else WIDTH - RIGHT}" y="11"')
    parts.append(f' text-anchor="{"start" if is_left else "end"}">tallest bar {top:,}</text>')
    head = f'<svg class="histogram" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
    return Markup(head + "".join(parts) + "</svg>")


def distributions(column: Callable[[str], NDArray], verdicts: NDArray, settings: Triage) -> list[dict]:
    """Title, one line of numbers and SVG of the four distributions; those without a known value say so.

    `column` gives (n,) float64 of the triage table by name, one at a time; verdicts: (n,) positions in VERDICTS.
    """
    return _drawn(
        (
            ("predicted_f1_low", "Lower end of the predicted F1", _linear, settings.trust_f1, "{:.2f}"),
            ("n_detections", "Detections per image", _log, np.nan, "{:,.0f}"),
            ("ood_distance", "Distance to the training images", _log, settings.max_ood_distance, "{:.2f}"),
            ("nm_per_pixel", "Pixel size, nm", _log, np.nan, "{:.3g}"),
        ),
        column,
        verdicts,
    )


def of_classifier(column: Callable[[str], NDArray], verdicts: NDArray, entropy_limit_nats: float) -> list[dict]:
    """As distributions(), of a classifier's predictive entropy and shift score; a limit of NaN is not drawn."""
    return _drawn(
        (
            ("predictive_entropy_nats", "Predictive entropy, nats", _from_zero, entropy_limit_nats, "{:.3g}"),
            ("shift_score", "Shift score", _signed, 1.0, "{:.2f}"),
        ),
        column,
        verdicts,
    )


def _drawn(figures: Sequence[tuple], column: Callable[[str], NDArray], verdicts: NDArray) -> list[dict]:
    out = []
    for name, title, axis, limit, form in figures:
        values = column(name)
        line = "not known for any image"
        known = values[np.isfinite(values)]
        if len(known):
            quantiles = np.quantile(known, [0.05, 0.5, 0.95], overwrite_input=True)
            low, middle, high = (form.format(v) for v in quantiles)
            line = f"median {middle}, 5 to 95 %: {low} to {high}; {len(known):,} images"
        del known
        svg = histogram(values, verdicts, axis, limit, f"{title}: {line}")
        out.append({"title": title, "line": line, "svg": svg})
    return out
