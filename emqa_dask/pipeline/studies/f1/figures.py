"""Figures 4 to 9 of Li et al., Digital Discovery 4 (2025) 987, from the results of a study."""

from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emqa_dask.predict.protocols import LabelledSplits, list_splits
from emqa_dask.predict.published_table import GOOD_F1, is_grouped

GROUPED_COLOUR = "tab:green"  # as in the paper
RANDOM_COLOUR = "tab:blue"
BINS = np.linspace(0, 1, 11)

N_CHOSEN = 8  # features of the published model
MAX_LEGEND = 12  # splits; a legend of more hides the plot


def draw_feature_sweep(curve: pd.DataFrame) -> Figure:
    """Figure 4: errors against the number of features."""
    figure, axes = _make_figure(3, 3.6, 3.2)
    for axis, (column, name) in zip(axes, {"rmse": "RMSE", "r2": "R²", "mae": "MAE"}.items(), strict=True):
        axis.plot(curve["n_features"], curve[column], "o-", markersize=4)
        axis.axvline(N_CHOSEN, color="0.7", linestyle=":")
        axis.set(xlabel="number of features", ylabel=name)
    return figure


def draw_f1_histograms(rows: LabelledSplits) -> Figure:
    """Figure 5: histogram of F1, and every split's mean and standard deviation."""
    figure, (left, right) = _make_figure(2)
    names = list_splits(rows.splits)
    grouped_splits = [name for name in names if is_grouped(name)]
    is_grouped_row = np.isin(rows.splits, grouped_splits)
    kinds = [
        (rows.true[is_grouped_row], GROUPED_COLOUR, "grouped splits"),
        (rows.true[~is_grouped_row], RANDOM_COLOUR, "random splits"),
    ]
    kinds = [kind for kind in kinds if len(kind[0])]
    values, colours, labels = zip(*kinds, strict=True)
    left.hist(list(values), BINS, stacked=True, color=list(colours), label=list(labels))
    left.set(xlabel="F1", ylabel="images")
    left.legend()
    for i, name in enumerate(names):
        f1 = rows.true[rows.splits == name]
        colour = GROUPED_COLOUR if name in grouped_splits else RANDOM_COLOUR
        right.errorbar(i, f1.mean(), f1.std(), fmt="o", color=colour, capsize=3)
    for f1, colour, _ in kinds:
        right.axhline(f1.mean(), color=colour, linestyle="--")
        right.axhspan(f1.mean() - f1.std(), f1.mean() + f1.std(), color=colour, alpha=0.1)
    right.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
    right.set(ylabel="mean F1")
    return figure


def draw_parity(rows: LabelledSplits, predicted: NDArray, title: str) -> Figure:
    """Figure 6: predicted against true F1, by image and by split."""
    figure, (left, right) = _make_figure(2)
    colours = colormaps["tab10"]
    names = list_splits(rows.splits)
    for i, name in enumerate(names):
        is_member = rows.splits == name
        true = rows.true[is_member]
        own = predicted[is_member]
        style = {"marker": "s" if is_grouped(name) else "o", "color": colours(i % 10), "linestyle": "none"}
        left.plot(true, own, **style, markersize=3, alpha=0.7, label=name)
        right.errorbar(true.mean(), own.mean(), own.std(), true.std(), **style, capsize=2, elinewidth=0.8)
    for axis in (left, right):
        axis.plot([0, 1], [0, 1], "k--", linewidth=0.8)
        axis.set(xlabel="true F1", ylabel="predicted F1", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    if len(names) <= MAX_LEGEND:
        left.legend(fontsize=6)
    figure.suptitle(title, fontsize=10)
    return figure


def draw_confusion(rows: LabelledSplits, predicted: NDArray) -> Figure:
    """Figure 7: true against predicted F1 in tenths, and at or above GOOD_F1 against below."""
    figure, axes = _make_figure(2)
    for axis, edges in zip(axes, (BINS, np.array([0, GOOD_F1, 1.0])), strict=True):
        counts, _, _ = np.histogram2d(rows.true, np.clip(predicted, 0, 1), bins=[edges, edges])
        axis.imshow(counts, cmap="Blues", origin="upper")
        for (i, j), count in np.ndenumerate(counts):
            colour = "w" if count > counts.max() / 2 else "k"
            axis.text(j, i, int(count), ha="center", va="center", fontsize=7, color=colour)
        names = [f"{low:.1f}-{high:.1f}" for low, high in pairwise(edges)]
        axis.set_xticks(range(len(names)), names, rotation=60)
        axis.set_yticks(range(len(names)), names)
        axis.set(xlabel="predicted F1", ylabel="true F1")
    return figure


def draw_precision_recall(rows: LabelledSplits, predicted: NDArray) -> Figure:
    """Figure 8: precision against recall of "F1 is at least GOOD_F1"; the star is where the prediction says so."""
    figure, (axis,) = _make_figure()
    is_good = rows.true >= GOOD_F1
    order = np.argsort(-predicted, kind="stable")
    hits = np.cumsum(is_good[order])
    recall = hits / max(is_good.sum(), 1)
    precision = hits / np.arange(1, len(is_good) + 1)
    axis.plot(recall, precision, label="predicted F1")
    axis.axhline(is_good.mean(), color="0.5", linestyle="--", label="no skill")
    is_called_good = predicted >= GOOD_F1
    if is_called_good.any() and is_good.any():
        x = is_good[is_called_good].sum() / is_good.sum()
        axis.plot(x, is_good[is_called_good].mean(), "*", markersize=14, color="tab:red", label=f"from {GOOD_F1:g} on")
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    axis.legend(loc="lower left")
    return figure


def draw_classification(by_threshold: pd.DataFrame) -> Figure:
    """Figure 9: how well images at or above a threshold of F1 are told, against the threshold."""
    figure, (left, right) = _make_figure(2)
    for axis, columns in ((left, ("precision", "recall", "f1")), (right, ("accuracy",))):
        for name, colour in zip(columns, ("tab:blue", "tab:orange", "tab:green"), strict=False):
            label = name.replace("f1", "F1")
            axis.plot(by_threshold["threshold"], by_threshold[name], "o-", color=colour, label=label)
        label = f"{columns[-1].replace('f1', 'F1')}, constant answer"
        axis.plot(by_threshold["threshold"], by_threshold[f"baseline_{columns[-1]}"], "o", color="0.6", label=label)
        axis.set(xlabel="threshold of F1", ylim=(0, 1.02))
        axis.legend(fontsize=8)
    return figure


def _make_figure(columns: int = 1, width: float = 5.2, height: float = 4.2) -> tuple[Figure, list[Axes]]:
    """A figure with axes side by side, each `width` x `height` inches, without any global state."""
    figure = Figure(figsize=(width * columns, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(1, columns, i + 1) for i in range(columns)]
