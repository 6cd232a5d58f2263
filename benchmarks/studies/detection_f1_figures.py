"""Figures 3 to 9 of Li et al., Digital Discovery 4 (2025) 987, drawn from a study's results."""

import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.studies.feature_importance import Ranking
from benchmarks.studies.published_table import is_grouped

# as in the paper
GROUPED = "tab:green"
RANDOM = "tab:blue"
BINS = np.linspace(0, 1, 11)


def _new(columns: int = 1, width: float = 5.2, height: float = 4.2) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width * columns, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(1, columns, i + 1) for i in range(columns)]


def _save(figure: Figure, out: Path, name: str) -> None:
    figure.savefig(out / f"{name}.png", dpi=130)


def shap_summary(out: Path, ranking: Ranking, features: pd.DataFrame) -> None:
    """Figure 3, by shap: a dot a row and feature at its SHAP value, coloured by the feature from low to high."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of matplotlib, about what shap asks of it
        _draw_shap_summary(out, ranking, features)


def _draw_shap_summary(out: Path, ranking: Ranking, features: pd.DataFrame) -> None:
    import shap  # takes seconds: only what draws this figure waits for it
    from matplotlib import pyplot

    explained = shap.Explanation(
        ranking.shap_values,
        base_values=np.full(len(features), ranking.base),
        data=features[list(ranking.columns)].to_numpy(dtype=np.float64),
        feature_names=list(ranking.columns),
    )
    before = pyplot.get_backend()
    pyplot.switch_backend("agg")
    figure, axis = pyplot.subplots(figsize=(6.5, 0.32 * len(ranking.columns) + 1.2), layout="constrained")
    try:
        shap.plots.beeswarm(
            explained,
            max_display=len(ranking.columns),
            order=np.arange(len(ranking.columns)),
            show=False,
            ax=axis,
            plot_size=None,
            group_remaining_features=False,
        )
        axis.set_xlabel("SHAP value (change of the predicted F1)")
        _save(figure, out, "figure3_shap")
    finally:
        pyplot.close(figure)
        pyplot.switch_backend(before)


def feature_sweep(out: Path, curve: pd.DataFrame) -> None:
    """Figure 4: errors against the number of features."""
    figure, axes = _new(3, 3.6, 3.2)
    for axis, (column, name) in zip(axes, {"rmse": "RMSE", "r2": "R2", "mae": "MAE"}.items()):
        axis.plot(curve["n_features"], curve[column], "o-", markersize=4)
        axis.axvline(8, color="0.7", linestyle=":")
        axis.set(xlabel="number of features", ylabel=name)
    _save(figure, out, "figure4_number_of_features")


def histograms(out: Path, table: pd.DataFrame) -> None:
    """Figure 5: histogram of F1, and every split's mean and standard deviation."""
    figure, (left, right) = _new(2)
    grouped = table["split"].map(is_grouped)
    parts = [table.loc[grouped, "true_f1"], table.loc[~grouped, "true_f1"]]
    left.hist(parts, BINS, stacked=True, color=[GROUPED, RANDOM], label=["grouped splits", "random splits"])
    left.set(xlabel="F1", ylabel="images")
    left.legend()
    for i, (split, f1) in enumerate(_by_split(table)):
        colour = GROUPED if is_grouped(split) else RANDOM
        right.errorbar(i, f1["true_f1"].mean(), f1["true_f1"].std(ddof=0), fmt="o", color=colour, capsize=3)
    for f1, colour in zip(parts, (GROUPED, RANDOM)):
        if len(f1):
            right.axhline(f1.mean(), color=colour, linestyle="--")
            right.axhspan(f1.mean() - f1.std(ddof=0), f1.mean() + f1.std(ddof=0), color=colour, alpha=0.1)
    splits = [split for split, _ in _by_split(table)]
    right.set_xticks(range(len(splits)), splits, rotation=60, ha="right")
    right.set(ylabel="mean F1")
    _save(figure, out, "figure5_f1")


def _by_split(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Splits in the paper's order: grouped ones first, each kind by its number of rows."""
    return sorted(table.groupby("split"), key=lambda item: (not is_grouped(item[0]), -len(item[1]), item[0]))


def parity(out: Path, table: pd.DataFrame, predicted: NDArray, name: str, title: str) -> None:
    """Figure 6: predicted against true F1, by image and by split."""
    figure, (left, right) = _new(2)
    colours = colormaps["tab10"]
    for i, (split, rows) in enumerate(_by_split(table)):
        here = predicted[(table["split"] == split).to_numpy()]
        marker = "s" if is_grouped(split) else "o"
        left.plot(rows["true_f1"], here, marker, color=colours(i % 10), markersize=3, alpha=0.7, label=split)
        right.errorbar(
            rows["true_f1"].mean(), here.mean(), here.std(), rows["true_f1"].std(ddof=0),
            fmt=marker, color=colours(i % 10), capsize=2, linewidth=0.8,
        )  # fmt: skip
    for axis in (left, right):
        axis.plot([0, 1], [0, 1], "k--", linewidth=0.8)
        axis.set(xlabel="true F1", ylabel="predicted F1", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    left.legend(fontsize=6)
    figure.suptitle(title, fontsize=10)
    _save(figure, out, name)


def confusion(out: Path, table: pd.DataFrame, predicted: NDArray) -> None:
    """Figure 7: true against predicted F1 in tenths, and at or above 0.5 against below."""
    figure, axes = _new(2)
    for axis, edges in zip(axes, (BINS, np.array([0, 0.5, 1.0]))):
        counts, _, _ = np.histogram2d(table["true_f1"], np.clip(predicted, 0, 1), bins=[edges, edges])
        axis.imshow(counts, cmap="Blues", origin="upper")
        for (i, j), count in np.ndenumerate(counts):
            axis.text(
                j, i, int(count), ha="center", va="center", fontsize=7, color="w" if count > counts.max() / 2 else "k"
            )
        names = [f"{a:.1f}-{b:.1f}" for a, b in pairwise(edges)]
        axis.set_xticks(range(len(names)), names, rotation=60)
        axis.set_yticks(range(len(names)), names)
        axis.set(xlabel="predicted F1", ylabel="true F1")
    _save(figure, out, "figure7_confusion")


def precision_recall(out: Path, table: pd.DataFrame, predicted: NDArray, threshold: float = 0.5) -> None:
    """Figure 8: precision against recall of "F1 is at least `threshold`", the star where the prediction says so."""
    figure, (axis,) = _new()
    good = (table["true_f1"] >= threshold).to_numpy()
    order = np.argsort(-predicted, kind="stable")
    hits = np.cumsum(good[order])
    recall = hits / max(good.sum(), 1)
    precision = hits / np.arange(1, len(good) + 1)
    axis.plot(recall, precision, label="predicted F1")
    axis.axhline(good.mean(), color="0.5", linestyle="--", label="no skill")
    said = predicted >= threshold
    if said.any() and good.any():
        axis.plot(good[said].sum() / good.sum(), good[said].mean(), "*", markersize=14, color="tab:red")
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    axis.legend(loc="lower left")
    _save(figure, out, "figure8_precision_recall")


def classification(out: Path, by_threshold: pd.DataFrame) -> None:
    """Figure 9: how well images at or above a threshold of F1 are told, against the threshold."""
    figure, (left, right) = _new(2)
    for axis, columns in ((left, ("precision", "recall", "f1")), (right, ("accuracy",))):
        for name, colour in zip(columns, ("tab:blue", "tab:orange", "tab:green")):
            axis.plot(by_threshold["threshold"], by_threshold[name], "o-", color=colour, label=name)
        for name, colour in zip(columns[-1:], ("tab:green",) if len(columns) > 1 else ("tab:blue",)):
            base = by_threshold[f"baseline_{name}"]
            axis.plot(by_threshold["threshold"], base, "o", color=colour, alpha=0.3, label=f"{name}, constant answer")
        axis.set(xlabel="threshold of F1", ylim=(0, 1.02))
        axis.legend(fontsize=8)
    _save(figure, out, "figure9_classification")
