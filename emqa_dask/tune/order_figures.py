"""Figures of order maps: disordered regions painted over the image, every point in its colour."""

from os import PathLike

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emqa_dask.tune.order import OrderMap

# Tol's bright scheme, distinguishable with any colour vision
ORDERED = "#4477aa"
DISORDERED = "#ee6677"


def draw_overlay(image: NDArray, order_map: OrderMap, *, title: str | None = None) -> Figure:
    """`image` (h, w) in grey between its 1st and 99th percentile, with `order_map` over it.

    Regions are tinted and outlined, points blue (ordered) or red (in a region). The title states the share of the area,
    or why it is unknown. The figure has no global state. Raises ValueError when the image's shape is
    not the map's.
    """
    if np.shape(image) != order_map.mask.shape:
        raise ValueError(f"the image has shape {np.shape(image)}, the map {order_map.mask.shape}: they belong together")
    height, width = order_map.mask.shape
    figure = Figure(figsize=(6, 6 * height / width + 0.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    paint_overlay(axes, image, order_map, title)
    return figure


def paint_overlay(axes, image: NDArray, order_map: OrderMap, title: str | None = None) -> None:
    """`overlay` onto existing matplotlib `axes`."""
    pixels = np.asarray(image, np.float64)
    low, high = np.percentile(pixels, [1, 99])
    axes.imshow(pixels, cmap="gray", vmin=low, vmax=max(high, low + 1e-12), interpolation="nearest")
    mask = order_map.mask
    if mask.any():
        tint = np.zeros((*mask.shape, 4))
        tint[mask] = (0.93, 0.4, 0.47, 0.3)
        axes.imshow(tint, interpolation="nearest")
        # A frame of zeros, so that the outline also runs along the image's edge.
        y, x = (np.arange(-1, n + 1) for n in mask.shape)
        axes.contour(x, y, np.pad(mask, 1).astype(float), levels=[0.5], colors=DISORDERED, linewidths=1.2)
    points = order_map.points
    is_disordered = points["is_disordered"].to_numpy(bool)
    for mask_of_points, colour in ((~is_disordered, ORDERED), (is_disordered, DISORDERED)):
        axes.plot(points["x_px"][mask_of_points], points["y_px"][mask_of_points], ".", color=colour, markersize=2)
    axes.set(xlim=(-0.5, mask.shape[1] - 0.5), ylim=(mask.shape[0] - 0.5, -0.5), xticks=[], yticks=[])
    share = order_map.area_fraction
    text = order_map.settings["verdict"] if np.isnan(share) else f"disordered: {100 * share:.1f} % of the area"
    axes.set_title(f"{title}\n{text}" if title else text, fontsize=9)


def save_overlay(path: str | PathLike, image: NDArray, order_map: OrderMap, *, title: str | None = None) -> None:
    """`overlay` written to `path`; its suffix gives the format (png, svg, pdf)."""
    draw_overlay(image, order_map, title=title).savefig(path)
