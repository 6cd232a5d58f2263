"""Figures of a calibration: precision and recall of trust against the number of labels."""

import pandas as pd
from matplotlib.figure import Figure


def plot_label_curve(curve: pd.DataFrame, precision: float, title: str) -> Figure:
    """Precision and recall of trust on held-out images against the number of labels.

    curve: n_labels, precision, precision_low, precision_high, recall, recall_low and recall_high; `precision`: the one
    that the limit of trust is chosen for.
    """
    figure = Figure((6, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.axhline(precision, color="0.6", linestyle=":", label=f"precision aimed at, {precision:g}")
    for name, colour in (("precision", "C0"), ("recall", "C3")):
        axes.fill_between(
            curve["n_labels"], curve[f"{name}_low"], curve[f"{name}_high"], color=colour, alpha=0.15, linewidth=0
        )
        axes.plot(curve["n_labels"], curve[name], color=colour, marker="o", label=f"{name} of trust")
    axes.set(ylim=(0, 1.02), xlabel="number of labelled images", ylabel="share", title=title)
    axes.legend(loc="lower right", frameon=False)
    return figure
