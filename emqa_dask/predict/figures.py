"""Figures of predicted quality: trust against the number of labels, and the features' SHAP values."""

import warnings

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from emqa_dask.predict.feature_ranking import Ranking, import_shap


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


def draw_shap_summary(ranking: Ranking, features: pd.DataFrame) -> Figure:
    """Figure 3 of Li et al., by shap: a dot for each image and feature at its SHAP value, coloured by the feature."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of matplotlib, about what shap asks of it
        return _draw_beeswarm(ranking, features)


def _draw_beeswarm(ranking: Ranking, features: pd.DataFrame) -> Figure:
    from matplotlib import pyplot

    shap = import_shap()

    explained = shap.Explanation(
        ranking.shap_values,
        base_values=np.full(len(features), ranking.base),
        data=features[list(ranking.columns)].to_numpy(dtype=np.float64),
        feature_names=[name.replace("_", " ") for name in ranking.columns],
    )
    backend = pyplot.get_backend()
    pyplot.switch_backend("agg")
    figure, axis = pyplot.subplots(figsize=(6.5, 0.32 * len(ranking.columns) + 1.2), layout="constrained")
    n_features = len(ranking.columns)
    style = {"max_display": n_features, "order": np.arange(n_features), "group_remaining_features": False}
    try:
        shap.plots.beeswarm(explained, show=False, ax=axis, plot_size=None, **style)
        axis.set_xlabel("SHAP value (change of the predicted F1)")
    finally:
        pyplot.close(figure)
        pyplot.switch_backend(backend)
    return figure
