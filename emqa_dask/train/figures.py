"""Figures of a classifier on held-out images: reliability diagram and risk-coverage curve."""

from collections.abc import Mapping

import numpy as np
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
