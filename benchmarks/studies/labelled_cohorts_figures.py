"""Figures of labelled_cohorts.py: parity, every cohort's error and coverage, what was told at or above 0.5."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def draw_figures(out: Path, found: pd.DataFrame) -> None:
    """`parity.png`, `cohorts.png` and `classification.png` from rows with protocol, cohort, true_f1, predicted, low,
    high and distance."""
    parity(out / "parity.png", found)
    left_out = found[found["protocol"] == "leave one cohort out"]
    cohorts(out / "cohorts.png", left_out)
    classification(out / "classification.png", found)


def _new(columns: int, width: float = 5.2, height: float = 4.6) -> tuple[Figure, list]:
    figure = Figure(figsize=(width * columns, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(1, columns, k + 1) for k in range(columns)]


def parity(path: Path, found: pd.DataFrame) -> None:
    """Predicted against true F1, a colour a cohort; pale where the image lies outside the domain."""
    names = list(dict.fromkeys(found["cohort"]))
    protocols = list(dict.fromkeys(found["protocol"]))
    figure, axes = _new(len(protocols))
    for axis, protocol in zip(axes, protocols):
        rows = found[found["protocol"] == protocol]
        for k, name in enumerate(names):
            here = rows[rows["cohort"] == name]
            pale = np.where(here["distance"] <= 1, 0.9, 0.25)
            colour = colormaps["tab20"](k % 20)
            axis.scatter(here["true_f1"], here["predicted"], s=9, color=colour, alpha=pale, linewidths=0)
            axis.scatter([], [], s=12, color=colour, label=name)
        axis.plot([0, 1], [0, 1], "k--", linewidth=0.8)
        mae = np.abs(rows["predicted"] - rows["true_f1"]).mean()
        axis.set(xlabel="true F1", ylabel="predicted F1", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axis.set_title(f"{protocol}: MAE {mae:.3f}", fontsize=10)
    axes[-1].legend(fontsize=6, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(path, dpi=130)


def cohorts(path: Path, rows: pd.DataFrame) -> None:
    """Error, coverage and width of every cohort when it was left out."""
    figure, axes = _new(3, width=4.2, height=0.28 * rows["cohort"].nunique() + 1.4)
    grouped = rows.groupby("cohort", sort=False)
    error = grouped.apply(lambda r: np.abs(r["predicted"] - r["true_f1"]).mean(), include_groups=False)
    inside = grouped.apply(
        lambda r: ((r["true_f1"] >= r["low"]) & (r["true_f1"] <= r["high"])).mean(), include_groups=False
    )
    width = grouped.apply(lambda r: (r["high"] - r["low"]).mean(), include_groups=False)
    for axis, values, name, aim in zip(
        axes, (error, inside, width), ("MAE", "coverage", "width of the interval"), (0.12, 0.9, None)
    ):
        axis.barh(range(len(values)), values, color="tab:blue")
        axis.set_yticks(range(len(values)), values.index, fontsize=7)
        axis.invert_yaxis()
        axis.set_xlabel(f"{name}: mean {values.mean():.3f}")
        if aim is not None:
            axis.axvline(aim, color="tab:red", linestyle="--", linewidth=0.9)
    figure.savefig(path, dpi=130)


def classification(path: Path, found: pd.DataFrame, threshold: float = 0.5) -> None:
    """True against predicted F1 at or above `threshold`, a table a protocol."""
    protocols = list(dict.fromkeys(found["protocol"]))
    figure, axes = _new(len(protocols), width=3.6, height=3.4)
    for axis, protocol in zip(axes, protocols):
        rows = found[found["protocol"] == protocol]
        good = rows["true_f1"] >= threshold
        said = rows["predicted"] >= threshold
        counts = np.array([[(~good & ~said).sum(), (~good & said).sum()], [(good & ~said).sum(), (good & said).sum()]])
        axis.imshow(counts, cmap="Blues")
        for (i, j), count in np.ndenumerate(counts):
            axis.text(j, i, int(count), ha="center", va="center", color="w" if count > counts.max() / 2 else "k")
        names = [f"< {threshold:g}", f">= {threshold:g}"]
        axis.set_xticks((0, 1), names)
        axis.set_yticks((0, 1), names)
        axis.set(xlabel="predicted F1", ylabel="true F1")
        axis.set_title(protocol, fontsize=10)
    figure.savefig(path, dpi=130)
