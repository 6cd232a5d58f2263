"""Figures of the predicted F1: its intervals, and risk against coverage, as inline SVG without scripts and styles."""

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from emqa_dask.report.trends import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, draw_tick

N_GROUPS = 50  # groups of images with neighbouring predicted F1
N_POINTS = 60  # points of the curve
FLOOR = HEIGHT - BOTTOM  # y of the horizontal axis
TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


def draw_f1_intervals(f1: NDArray, low: NDArray, high: NDArray) -> tuple[str, Markup]:
    """Line of numbers, and SVG of predicted F1 with mean interval of images in the order of F1; "" without values.

    f1, low, high: (n,), NaN where they are unknown.
    """
    is_known = np.isfinite(f1) & np.isfinite(low) & np.isfinite(high)
    if not is_known.any():
        return "not known for any image", Markup("")
    order = np.argsort(f1[is_known], kind="stable")
    groups = np.array_split(order, min(N_GROUPS, len(order)))
    f1_means, low_means, high_means = (
        np.array([values[is_known][group].mean() for group in groups]) for values in (f1, low, high)
    )
    width = float((high - low)[is_known].mean())
    edges = np.cumsum([0, *(len(group) for group in groups)]) / len(order)
    parts = [part for tick in TICKS for part in draw_tick(tick, _to_y(tick))]
    rows = zip(edges[:-1], edges[1:], f1_means, low_means, high_means, strict=True)
    parts += [_draw_group(*row) for row in rows]
    parts += _draw_shares("of the images, in the order of the predicted F1")
    line = f"mean {f1[is_known].mean():.2f}, mean width of the interval {width:.2f}; {len(order):,} images"
    return line, _close_svg(parts, f"Predicted F1 with intervals: {line}")


def draw_risk_coverage(f1: NDArray, probability: NDArray, is_trusted: NDArray) -> tuple[str, Markup]:
    """Line of numbers, and SVG of 1 - F1 (predicted) of the images that are used against their share; "" without any.

    The images with the highest `probability` are used first, of equal ones those with the highest F1. All (n,); NaN
    where unknown. The dashed line is at the share with the verdict trust.
    """
    is_known = np.isfinite(f1) & np.isfinite(probability)
    if not is_known.any():
        return "not known for any image", Markup("")
    order = np.lexsort((-f1[is_known], -probability[is_known]))
    risks = 1 - np.cumsum(f1[is_known][order]) / np.arange(1, len(order) + 1)
    positions = np.unique(np.linspace(0, len(order) - 1, N_POINTS).astype(int))
    coverage = (positions + 1) / len(order)
    top = max(0.1, float(np.ceil(risks[positions].max() * 10) / 10))
    parts = [part for tick in np.linspace(0, top, 5) for part in draw_tick(tick, _to_y(tick / top))]
    points = " ".join(f"{_to_x(c):.1f},{_to_y(r / top):.1f}" for c, r in zip(coverage, risks[positions]))
    parts.append(f'<polyline class="curve" points="{points}"><title>{escape(_describe_ends(risks))}</title></polyline>')
    share = float(is_trusted[is_known].mean())
    x = f"{_to_x(share):.1f}"
    parts.append(f'<line class="limit" x1="{x}" x2="{x}" y1="{TOP}" y2="{FLOOR}"/>')
    parts += _draw_shares("of the rated images are used")
    risk = 1 - f1[is_known & is_trusted].mean() if (is_known & is_trusted).any() else np.nan
    line = f"trust: {100 * share:.0f} % of {len(order):,} rated images"
    line += f", 1 − F1 predicted {risk:.2f}" if np.isfinite(risk) else ""
    return f"{line}; all: {risks[-1]:.2f}", _close_svg(parts, f"Predicted risk against coverage: {line}")


def _describe_ends(risks: NDArray) -> str:
    return f"1 - F1 predicted: {risks[0]:.2f} for the surest image, {risks[-1]:.2f} for all"


def _to_x(share: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * share


def _to_y(height: float) -> float:
    return FLOOR - (FLOOR - TOP) * height


def _draw_group(start: float, end: float, f1: float, low: float, high: float) -> str:
    """Bar from `low` to `high` and line at `f1` of the images from the share `start` to `end`."""
    x0 = _to_x(start)
    width = max(_to_x(end) - x0 - 0.6, 0.6)
    title = f"{100 * start:.0f} to {100 * end:.0f} % of the images: {f1:.2f} ({low:.2f} to {high:.2f})"
    return (
        f'<g><title>{title}</title><rect class="reach" x="{x0:.1f}" y="{_to_y(high):.1f}" width="{width:.1f}" '
        f'height="{max(_to_y(low) - _to_y(high), 0.5):.1f}"/><line class="middle" x1="{x0:.1f}" '
        f'x2="{x0 + width:.1f}" y1="{_to_y(f1):.1f}" y2="{_to_y(f1):.1f}"/></g>'
    )


def _draw_shares(label: str) -> list[str]:
    """Horizontal axis of shares."""
    axis = f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{FLOOR}" y2="{FLOOR}"/>'
    ends = [(LEFT, "0 %", "start"), ((LEFT + WIDTH - RIGHT) / 2, label, "middle"), (WIDTH - RIGHT, "100 %", "end")]
    return [axis] + [
        f'<text class="tick" x="{x:.0f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{text}</text>'
        for x, text, anchor in ends
    ]


def _close_svg(parts: list[str], label: str) -> Markup:
    head = f'<svg class="histogram" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
    return Markup(head + "".join(parts) + "</svg>")
