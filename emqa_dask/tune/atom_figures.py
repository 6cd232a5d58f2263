"""Figures of atom types: every column in the colour of its type, over the image."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emqa_dask.tune.atom_types import AtomTypes

# Tol's bright scheme, distinguishable with any colour vision; grey: unknown
COLOURS = ("#ee6677", "#4477aa", "#ccbb44", "#228833", "#66ccee", "#aa3377")
UNKNOWN = "#bbbbbb"


def draw_overlay(image: NDArray, atom_types: AtomTypes, *, title: str = "") -> Figure:
    """`image` (h, w) in grey between its 1st and 99th percentile, with the columns in the colours of their types.

    The figure has no global state.
    """
    height, width = np.shape(image)
    figure = Figure(figsize=(6, 6 * height / width + 0.7), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    pixels = np.asarray(image, np.float64)
    low, high = np.percentile(pixels, [1, 99])
    axes.imshow(pixels, cmap="gray", vmin=low, vmax=max(high, low + 1e-12), interpolation="nearest")
    columns = atom_types.columns
    number = columns["type"].fillna(0).to_numpy(np.int64)
    diameter_pt = _choose_diameter_pt(atom_types.spacing_px, width)
    for k in np.unique(number):
        is_own = number == k
        label = f"type {k}: {is_own.sum()}" if k else f"unknown: {is_own.sum()}"
        style = {"markersize": diameter_pt, "markeredgewidth": 0, "alpha": 0.85, "label": label}
        colour = COLOURS[(k - 1) % len(COLOURS)] if k else UNKNOWN
        axes.plot(columns["x_px"][is_own], columns["y_px"][is_own], "o", color=colour, **style)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])
    axes.set_title(f"{title}\n{atom_types.verdict}" if title else atom_types.verdict, fontsize=9)
    if len(columns):
        figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure


def _choose_diameter_pt(spacing_px: float, width_px: int) -> float:
    """Diameter of a marker: a third of the spacing in an image that is about 6 inches wide, 1.5 to 6 points."""
    if not spacing_px > 0:
        return 1.5
    return float(np.clip(0.35 * spacing_px * 6 * 72 / width_px, 1.5, 6))
