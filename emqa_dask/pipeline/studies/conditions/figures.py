"""Figures of the study of conditions: maps of F1, F1 against dose with the surface, and held-out predictions."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emqa_dask.predict.surface_fit import SurfaceFit
from emqa_dask.response_surface import ResponseSurface, evaluate_surface

LABELS = {"dose_e_per_nm2": "dose, e/nm²", "defocus_nm": "defocus, nm (under < 0 < over)", "nm_per_pixel": "nm/px"}


def plot_maps(axes: Mapping[str, NDArray], mean_f1: NDArray) -> Figure:
    """True F1 over dose and defocus, a map for each pixel size; without a defocus, over dose and pixel size."""
    grid = mean_f1.reshape([len(values) for values in axes.values()])
    has_defocus = "defocus_nm" in axes
    panels = np.moveaxis(grid, list(axes).index("nm_per_pixel"), 0) if has_defocus else grid[None]
    vertical = "defocus_nm" if has_defocus else "nm_per_pixel"
    figure = Figure((2.6 * len(panels) + 1.4, 3.6), layout="constrained")
    subplots = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for k, (subplot, panel) in enumerate(zip(subplots, panels)):
        picture = subplot.imshow(panel, vmin=0, vmax=1, origin="lower", aspect="auto", cmap="viridis")
        subplot.set_xticks(range(panel.shape[1]), [f"{dose:g}" for dose in axes["dose_e_per_nm2"]], rotation=60)
        subplot.set_yticks(range(panel.shape[0]), [f"{value:g}" for value in axes[vertical]])
        subplot.set(xlabel=LABELS["dose_e_per_nm2"], ylabel=LABELS[vertical] if k == 0 else "")
        if has_defocus:
            subplot.set_title(f"{axes['nm_per_pixel'][k]:g} nm/px")
    figure.colorbar(picture, ax=list(subplots), label="true F1, mean of the images")
    return figure


def plot_doses(axes: Mapping[str, NDArray], mean_f1: NDArray, surface: ResponseSurface) -> Figure:
    """True F1 against the dose (points) and the surface (lines), for each defocus or pixel size."""
    names = list(axes)
    other = "defocus_nm" if "defocus_nm" in axes else "nm_per_pixel"
    middle = {name: values[len(values) // 2] for name, values in axes.items()}
    doses = np.geomspace(axes["dose_e_per_nm2"][0], axes["dose_e_per_nm2"][-1], 80)
    grid = mean_f1.reshape([len(values) for values in axes.values()])
    figure = Figure((6.4, 4), layout="constrained")
    subplot = figure.subplots()
    for k, value in enumerate(axes[other]):
        conditions = middle | {other: value}
        points = np.array([[dose if n == "dose_e_per_nm2" else conditions[n] for n in names] for dose in doses])
        position = tuple(
            slice(None) if n == "dose_e_per_nm2" else k if n == other else len(axes[n]) // 2 for n in names
        )
        colour = f"C{k}"
        subplot.plot(doses, evaluate_surface(surface, points), color=colour, label=f"{value:g}")
        subplot.plot(axes["dose_e_per_nm2"], grid[position], "o", color=colour)
    title = f"at {middle['nm_per_pixel']:g} nm/px" if other == "defocus_nm" else ""
    subplot.set(xscale="log", ylim=(-0.02, 1.02), xlabel=LABELS["dose_e_per_nm2"], ylabel="true F1", title=title)
    subplot.legend(title=LABELS[other], frameon=False, fontsize="small")
    return figure


def plot_held_out(mean_f1: NDArray, fit: SurfaceFit) -> Figure:
    """F1 of points of the grid as surfaces without them predict it, against the true F1."""
    figure = Figure((4.2, 4), layout="constrained")
    subplot = figure.subplots()
    subplot.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    subplot.plot(mean_f1, fit.f1, ".", color="C0")
    title = f"Spearman {fit.spearman:.2f}, mean error {fit.mae:.3f}, n = {len(mean_f1)}"
    subplot.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="true F1", ylabel="F1 predicted without the point")
    subplot.set_title(title, fontsize="medium")
    return figure
