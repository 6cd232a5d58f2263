"""Figure 3 of Barakati et al. on own images: settings, detections, objectives and counts against noise."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emqa_dask.pipeline.studies.robustness.levels import TUNED, UNTUNED, LevelResult
from emqa_dask.tune.plots import COLOURS

NOISE_LABEL = "noise, of the image's range"
SETTINGS_LABELS = {
    "threshold": "threshold",
    "overlap": "overlap",
    "min_sigma": "min_sigma, px",
    "max_sigma": "max_sigma, px",
}
SHOWN_PX = 400  # side of the part of the image in panels B and C
LINEAR_SHARE = 1.2  # of the expected count, above which the axis of counts is logarithmic


def plot_noise_study(results: Sequence[LevelResult], example: LevelResult, pixels: NDArray) -> Figure:
    """The panels A to F of one group; `example` is the level of B and C and `pixels` the image with its noise."""
    detectors = list(dict.fromkeys(results[0].rows["detector"]))
    other = next((name for name in detectors if name not in (TUNED, UNTUNED)), UNTUNED)
    figure = Figure((13.5, 8.2), layout="constrained")
    panels = figure.subplots(2, 3)
    _plot_settings(panels[0, 0], results)
    _plot_detections(panels[0, 1], pixels, example.points[TUNED], COLOURS[0])
    panels[0, 1].set_title(f"B  {TUNED} at noise {example.noise:g}", loc="left", fontsize=10)
    _plot_detections(panels[0, 2], pixels, example.points[other], COLOURS[1])
    panels[0, 2].set_title(f"C  {other} at noise {example.noise:g}", loc="left", fontsize=10)
    _plot_objectives(panels[1, 0], results)
    counts = pd.concat([result.rows.assign(noise=result.noise) for result in results], ignore_index=True)
    _plot_counts(panels[1, 1], counts, [TUNED])
    panels[1, 1].set_title("E  count of the tuned LoG", loc="left", fontsize=10)
    _plot_counts(panels[1, 2], counts, [name for name in detectors if name != TUNED])
    panels[1, 2].set_title("F  counts of other detectors", loc="left", fontsize=10)
    return figure


def _plot_settings(panel: Axes, results: Sequence[LevelResult]) -> None:
    noise = [result.noise for result in results]
    for colour, (key, label) in zip(COLOURS, SETTINGS_LABELS.items()):
        panel.plot(noise, [result.chosen_settings[key] for result in results], "o-", color=colour, ms=4, label=label)
    panel.set(yscale="log", xlabel=NOISE_LABEL, ylabel=f"setting of {TUNED}")
    panel.set_title(f"A  settings of {TUNED}", loc="left", fontsize=10)
    panel.set_ylim(top=8 * max(result.chosen_settings["max_sigma"] for result in results))
    panel.legend(frameon=False, fontsize=8, loc="upper left", ncols=2)


def _plot_detections(panel: Axes, pixels: NDArray, points: NDArray, colour: str) -> None:
    """The upper left part of the image with circles around the objects."""
    part = np.asarray(pixels[:SHOWN_PX, :SHOWN_PX], float)
    low, high = np.nanpercentile(part, [1, 99])
    panel.imshow(part, cmap="gray", vmin=low, vmax=max(high, low + 1e-9))
    diameters = 2 * points[:, 2]
    circles = EllipseCollection(
        diameters, diameters, np.zeros(len(points)), units="xy", offsets=points[:, [1, 0]],
        offset_transform=panel.transData, facecolors="none", edgecolors=colour, linewidths=1,
    )  # fmt: skip
    panel.add_collection(circles)
    panel.set(xlim=(-0.5, part.shape[1] - 0.5), ylim=(part.shape[0] - 0.5, -0.5))
    panel.set_axis_off()


def _plot_objectives(panel: Axes, results: Sequence[LevelResult]) -> None:
    """Pareto fronts in the plane of the first two objectives, coloured by noise, with the choice of each."""
    names = _name_objectives(results[0])
    if len(names) < 2:
        panel.plot([result.noise for result in results], [result.chosen_settings[names[0]] for result in results], "o-")
        panel.set(xlabel=NOISE_LABEL, ylabel=names[0])
    else:
        noise = np.array([result.noise for result in results])
        for result in results:
            front = result.history[result.history["is_pareto"] > 0].sort_values(names[0])
            panel.plot(front[names[0]], front[names[1]], "-", color="0.8", lw=1, zorder=1)
        values = [[result.chosen_settings[name] for result in results] for name in names[:2]]
        dots = panel.scatter(*values, c=noise, cmap="viridis", s=36, zorder=2)
        panel.figure.colorbar(dots, ax=panel, label=NOISE_LABEL)
        panel.set(xlabel=names[0].replace("_", " "), ylabel=names[1].replace("_", " "))
    panel.set_title(f"D  objectives of {TUNED} (grey: Pareto fronts)", loc="left", fontsize=10)


def _name_objectives(result: LevelResult) -> list[str]:
    """The objectives, which stand in the history between the settings and is_pareto."""
    columns = list(result.history.columns)
    return columns[columns.index("log_scale") + 1 : columns.index("is_pareto")]


def _plot_counts(panel: Axes, counts: pd.DataFrame, detectors: Sequence[str]) -> None:
    """Counts relative to the expected one: lines of medians, bands from the least to the largest image."""
    relative = counts[counts["detector"].isin(detectors)].assign(share=lambda table: 1 + table["count_error"])
    for colour, name in zip(COLOURS, detectors):
        grouped = relative[relative["detector"] == name].groupby("noise")["share"]
        panel.plot(grouped.median().index, grouped.median(), "o-", color=colour, ms=4, label=name)
        panel.fill_between(grouped.min().index, grouped.min(), grouped.max(), color=colour, alpha=0.15, lw=0)
    panel.axhline(1, color="black", lw=0.8, ls="--", label="expected")
    largest = max(LINEAR_SHARE, relative["share"].max())
    is_logarithmic = largest > LINEAR_SHARE
    if is_logarithmic:
        panel.set_yscale("symlog", linthresh=LINEAR_SHARE)
    room = 4 if is_logarithmic else 1.3  # for the legend
    panel.set(xlabel=NOISE_LABEL, ylabel="count / expected count", ylim=(0, room * largest))
    panel.legend(frameon=False, fontsize=8, loc="upper left", ncols=2)
