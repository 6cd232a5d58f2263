"""A figure of a micrograph with its detections."""

import io

import numpy as np
import pandas as pd
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

MAX_SHOWN_PX = 2048  # of the longer side; larger images are shown with every second, third, ... pixel
DISPLAY_PERCENTILES = (0.5, 99.5)  # % of the pixels between black and white
FIGURE_INCHES = 7.0  # of the longer side
BOX_COLOUR = "#ffb000"  # amber, which is seen on black, grey and white


class MicrographFigure(Figure):
    """A matplotlib figure that notebooks show without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def draw_micrograph(pixels: NDArray, detections: pd.DataFrame, title: str) -> Figure:
    """`pixels` (y, x) in grey with the boxes of `detections` (columns y0, x0, y1, x1 in px), under `title`."""
    height, width = pixels.shape
    step = max(1, -(-max(height, width) // MAX_SHOWN_PX))
    sampled_pixels = pixels[::step, ::step]
    values = (np.abs(sampled_pixels) if np.iscomplexobj(pixels) else sampled_pixels).astype(float)
    finite = values[np.isfinite(values)]
    black, white = np.percentile(finite, DISPLAY_PERCENTILES) if finite.size else (0.0, 1.0)
    scale = FIGURE_INCHES / max(height, width)
    figure = MicrographFigure((max(3.0, width * scale), max(3.0, height * scale) + 0.6), layout="constrained")
    axes = figure.add_subplot()
    # The centre of a pixel is a whole number.
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axes.imshow(values, cmap="gray", vmin=black, vmax=max(white, black + 1e-12), extent=extent, interpolation="nearest")
    # (n, 4 corners, xy)
    corners = detections[["x0", "y0", "x1", "y0", "x1", "y1", "x0", "y1"]].to_numpy(float).reshape(-1, 4, 2) - 0.5
    axes.add_collection(PolyCollection(corners, facecolors="none", edgecolors=BOX_COLOUR, linewidths=1.0))
    axes.set_title(title, fontsize=9, wrap=True)
    axes.set_xlabel("x / px")
    axes.set_ylabel("y / px")
    return figure
