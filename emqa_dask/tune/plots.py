"""Figures of a search: Pareto front and choice, hypervolume against evaluations, map of tiles."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray

from emqa_dask.tune.search import SearchHistory

# Distinguishable with any colour vision (Okabe and Ito 2008).
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
GREY = "#8a8a8a"


def make_figure(width: float = 6.4, height: float = 4.2, columns: int = 1) -> tuple[Figure, NDArray]:
    """A figure of `columns` axes side by side, each `width` x `height` inches, without any global state."""
    figure = Figure(figsize=(width * columns, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write `figure` as a PNG of 150 dots per inch; gives its path."""
    figure.savefig(path, format="png", dpi=150)
    return Path(path)


def plot_pareto_front(
    history: SearchHistory, labels: Sequence[str] | None = None, min_range: ArrayLike = 0.0
) -> Figure:
    """All evaluated settings of a search in the plane of its first two objectives, the front, and both choices.

    `labels` name the axes with their units. Settings without finite objectives are counted in the title. An
    objective that spans decades is shown logarithmically, linear near zero, so that zeros are seen.
    """
    names = history.objectives[:2]
    if len(names) < 2:
        raise ValueError(f"a front needs two objectives: this search has {', '.join(history.objectives)}")
    table = history.table
    (figure, (axis,)) = make_figure()
    finite = np.isfinite(table[list(history.objectives)]).all(axis=1)
    finite_rows = table[finite]
    points = axis.scatter(
        finite_rows[names[0]], finite_rows[names[1]], c=finite_rows["evaluation"], cmap="viridis", s=22, alpha=0.8
    )
    figure.colorbar(points, ax=axis, label="evaluation", pad=0.02)
    front = table[table["is_pareto"]].sort_values(names[0])
    axis.step(
        front[names[0]], front[names[1]], where="post", color="#d55e00", lw=1.5, label=f"Pareto front ({len(front)})"
    )
    if len(front):
        for distance, marker, size in (("euclidean", "o", 150), ("chebyshev", "s", 260)):
            row = history.select_row(distance, min_range)
            style = {"facecolors": "none", "edgecolors": "black", "linewidths": 1.4, "marker": marker, "s": size}
            axis.scatter([row[names[0]]], [row[names[1]]], label=f"nearest, {distance.capitalize()}", zorder=3, **style)
    for name, scale, limits in ((names[0], axis.set_xscale, axis.set_xlim), (names[1], axis.set_yscale, axis.set_ylim)):
        steps = finite_rows[name][finite_rows[name] > 0]
        if len(steps) and steps.max() > 30 * steps.min() and finite_rows[name].min() >= 0:
            linear = 10 ** np.ceil(np.log10(steps.min()))
            scale("symlog", linthresh=linear)
            limits(-0.25 * linear, 1.6 * steps.max())
    axis.set_xlabel((labels or names)[0])
    axis.set_ylabel((labels or names)[1])
    failed = f", {int((~finite).sum())} failed" if not finite.all() else ""
    axis.set_title(f"{len(table)} settings evaluated{failed}", fontsize=11)
    axis.legend(frameon=False, fontsize=9, markerscale=0.6)
    return figure


def plot_hypervolume(volumes: Mapping[str, NDArray], unit: str = "hypervolume") -> Figure:
    """Hypervolume against evaluations for one or several methods: median over seeds, band between quartiles.

    `volumes` maps a method to an array (seeds, evaluations), or (evaluations,) for one seed.
    """
    figure, (axis,) = make_figure()
    floors = []
    for colour, (method, values) in zip(COLOURS, volumes.items()):
        values = np.atleast_2d(np.asarray(values, np.float64))
        evaluations = np.arange(1, values.shape[1] + 1)
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], axis=0)
        floors.append(low[len(low) // 5])
        seeds = f" ({len(values)} seeds)" if len(values) > 1 else ""
        axis.plot(evaluations, middle, color=colour, lw=1.8, drawstyle="steps-post", label=method + seeds)
        if len(values) > 1:
            axis.fill_between(evaluations, low, high, color=colour, alpha=0.15, step="post", lw=0)
    axis.set_xlabel("evaluations")
    axis.set_ylabel(unit)
    axis.set_xlim(left=1)
    if floors and axis.get_ylim()[1] > min(floors):
        # The axis starts above the first evaluations, to show where the methods differ.
        axis.set_ylim(bottom=min(floors) - 0.05 * (axis.get_ylim()[1] - min(floors)))
    axis.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def plot_tile_map(table: pd.DataFrame, names: Mapping[str, str], image: NDArray | None = None) -> Figure:
    """A map for each column of `table` (tiles y0, x0, y1, x1) in `names`, which maps columns to labels with units.

    Every tile is coloured, over the `image` in grey where it is given.
    """
    height, width = (int(table[side].max()) if len(table) else 1 for side in ("y1", "x1"))
    figure, axes = make_figure(5.6, float(np.clip(0.7 + 4.3 * height / width, 1.8, 8)), len(names))
    for axis, (name, label) in zip(axes, names.items()):
        if image is not None:
            low, high = np.nanpercentile(image, [1, 99])
            axis.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-9))
        values = _fill_tiles(table, name, (height, width))
        picture = axis.imshow(
            values, cmap="viridis", alpha=1.0 if image is None else 0.45, interpolation="nearest",
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        )  # fmt: skip
        figure.colorbar(picture, ax=axis, label=label, shrink=0.85)
        for tile in table.itertuples():
            if not np.isfinite(getattr(tile, name)):
                corner = (tile.x0 - 0.5, tile.y0 - 0.5)
                sides = tile.x1 - tile.x0, tile.y1 - tile.y0
                axis.add_patch(Rectangle(corner, *sides, fill=False, hatch="//", edgecolor=GREY, lw=0))
        axis.set_xlabel("x (px)")
        axis.set_ylabel("y (px)")
    return figure


def _fill_tiles(table: pd.DataFrame, name: str, shape: tuple[int, int], cells: int = 200) -> NDArray[np.float64]:
    """Values of the tiles on a grid of at most `cells` x `cells` over an image of `shape`."""
    y, x = (np.linspace(0, side - 1, min(side, cells)) for side in shape)
    painted = np.full((len(y), len(x)), np.nan)
    for y0, x0, y1, x1, value in table[["y0", "x0", "y1", "x1", name]].itertuples(index=False):
        painted[np.ix_((y >= y0) & (y < y1), (x >= x0) & (x < x1))] = value
    return painted
