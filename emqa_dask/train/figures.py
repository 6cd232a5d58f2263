"""Figures of a classifier on held-out images: reliability diagram, risk-coverage curve, learning curve."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike


def plot_held_out(bins: Mapping[str, ArrayLike], coverage: ArrayLike, risk: ArrayLike, title: str) -> Figure:
    """The reliability diagram beside the risk-coverage curve.

    `bins` have `confidence`, `accuracy` and `n` of each (uncertainty.reliability), `coverage` and `risk` (n,) are a
    risk-coverage curve (uncertainty.referral).
    """
    figure = Figure((9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    confidence, accuracy, n = (np.asarray(bins[name], float) for name in ("confidence", "accuracy", "n"))
    left.plot([0, 1], [0, 1], color="0.6", linestyle=":", label="perfectly calibrated")
    left.scatter(confidence, accuracy, 8 + 160 * n / max(n.max(initial=1), 1), color="C0", alpha=0.7, linewidth=0)
    left.plot(confidence, accuracy, color="C0", linewidth=1)
    left.set(xlim=(0, 1), ylim=(0, 1), xlabel="mean probability of the class", ylabel="accuracy", title=title)
    left.legend(loc="upper left", frameon=False)
    right.plot(coverage, risk, color="C3")
    right.set(
        xlim=(0, 1),
        ylim=(0, None),
        xlabel="coverage: share that is kept, the most certain first",
        ylabel="error of the kept images",
    )
    right.set_title(f"error {risk[-1]:.3f} of all" if len(risk) else "no images")
    return figure


def plot_learning_curves(
    tables: Mapping[str, pd.DataFrame], laws: Mapping[str, Mapping[str, tuple[ArrayLike, ArrayLike]]], target: float
) -> Figure:
    """A panel for each ensemble: accuracy and confidence against labels, each with its law (figure 4 of Zhang et al.).

    `tables` have n_labels, accuracy, confidence and members, `laws` numbers of labels and accuracies by "accuracy" and
    "confidence"; `target` is the accuracy that is asked for.
    """
    figure = Figure((4.2 * len(tables), 4.4), layout="constrained")
    panels = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    for axes, (name, table) in zip(panels, tables.items()):
        _plot_learning_curve(axes, table, laws.get(name, {}))
        axes.axhline(target, color="0.6", linestyle=":", label=f"target, {target:g}")
        axes.set(xlabel="labelled images for training", title=f"{name}, members: {table['members'].max()}")
    panels[0].set_ylabel("accuracy")
    low = min(float(table[["accuracy", "confidence"]].to_numpy().min()) for table in tables.values())
    panels[0].set_ylim(max(0, min(low, target) - 0.05), 1.02)
    handles, labels = panels[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=1 if len(tables) == 1 else 3, frameon=False)
    return figure


def _plot_learning_curve(axes: Axes, table: pd.DataFrame, laws: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> None:
    labels = {"accuracy": "accuracy, held-out images", "confidence": "mean confidence, without labels"}
    for (way, label), colour in zip(labels.items(), ("C0", "C3")):
        axes.plot(table["n_labels"], table[way], "o", color=colour, label=label)
        if way in laws:
            axes.plot(*laws[way], color=colour, linewidth=1)
