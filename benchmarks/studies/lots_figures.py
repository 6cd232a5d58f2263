"""The lots' study's figures: entropies by kind, risk against coverage, reliability, learning curve, and the images."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from emqa_dask.uncertainty import entropy, learning_curve, referral, reliability

KINDS = {"test": "known lots", "changed": "changed acquisition", "unseen": "unseen lots", "photographs": "photographs"}
COLOURS = {"softmax": "tab:blue", "dropout": "tab:orange", "ensemble": "tab:green"}
Words = dict[int, dict[str, dict[str, NDArray]]]  # probabilities (n, classes) by seed, method and part


def draw(out: Path, words: Words, truth: dict[int, dict[str, NDArray]], curve: dict) -> None:
    """Writes all figures that there are results for; rows of all seeds are taken together."""
    if words:
        entropies(out, words)
        risk_and_coverage(out, words, truth)
        reliabilities(out, words, truth)
    if any(part["points"] for part in curve.values()):
        learning_curves(out, curve)


def entropies(out: Path, words: Words) -> None:
    """Figures 10 to 12 of paper D: histograms of predictive entropy by kind, a panel for each method."""
    figure, axes = _new(len(COLOURS), 4.2, 3.4)
    for axis, method in zip(axes, COLOURS):
        classes = next(iter(words.values()))[method]["test"].shape[1]
        bins = np.linspace(0, np.log(classes), 31)
        for kind, name in KINDS.items():
            p = np.concatenate([said[method][kind] for said in words.values()])
            axis.hist(
                entropy.predictive_entropy(p[None]), bins, density=True, histtype="step", linewidth=1.5, label=name
            )
        axis.set(title=method, xlabel="predictive entropy (nats)", ylabel="density", yscale="log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
    axes[-1].legend(fontsize=8)
    _save(figure, out, "lots_entropy")


def risk_and_coverage(out: Path, words: Words, truth: dict[int, dict[str, NDArray]]) -> None:
    """Figure 5: error of the windows kept against their share, referred by entropy."""
    figure, (axis,) = _new(1, 5.2, 4.0)
    for method, colour in COLOURS.items():
        p, y = _test(words, truth, method)
        curve = referral.risk_coverage(entropy.predictive_entropy(p[None]), p.argmax(axis=1) != y)
        axis.plot(curve.coverage, 100 * curve.risk, color=colour, label=f"{method}: area {curve.area:.4f}")
    axis.axvline(0.9, color="0.7", linestyle=":")
    axis.set(xlabel="coverage", ylabel="error of what is kept (%)", xlim=(0.4, 1.005), ylim=(0, None))
    axis.legend()
    _save(figure, out, "lots_referral")


def reliabilities(out: Path, words: Words, truth: dict[int, dict[str, NDArray]]) -> None:
    """Accuracy against confidence in bins of equal mass."""
    figure, axes = _new(len(COLOURS), 3.4, 3.4)
    for axis, (method, colour) in zip(axes, COLOURS.items()):
        p, y = _test(words, truth, method)
        table = reliability.reliability_table(p, y, binning="mass")
        axis.plot([0, 1], [0, 1], "k--", linewidth=0.8)
        axis.plot(table["confidence"], table["accuracy"], "o-", color=colour, markersize=4)
        ece = 100 * reliability.expected_calibration_error(p, y)
        axis.set(
            title=f"{method}: ECE {ece:.1f} %", xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02)
        )
    _save(figure, out, "lots_reliability")


def learning_curves(out: Path, curve: dict) -> None:
    """Figure 4: accuracy, what confidence says of it, and the law through each."""
    figure, axes = _new(len(COLOURS), 3.8, 3.4)
    for axis, method in zip(axes, COLOURS):
        points = curve[method]["points"]
        _learning_curve(axis, points, curve[method])
        members = f", {points[-1]['members']} members" if method == "ensemble" and points else ""
        axis.set(title=method + members, xlabel="labels", ylabel="accuracy", ylim=(None, 1))
    axes[-1].legend(fontsize=8)
    _save(figure, out, "lots_learning_curve")


def _learning_curve(axis: Axes, points: list[dict], laws: dict) -> None:
    n = np.array([row["labels"] for row in points])
    ways = (("accuracy", "accuracy, from labels", "k"), ("confidence", "confidence, without labels", "tab:red"))
    for name, label, colour in ways:
        axis.plot(n, [row[name] for row in points], "o", color=colour, label=label)
        if name in laws:
            law = learning_curve.LearningCurve(*(laws[name][field] for field in learning_curve.LearningCurve._fields))
            between = np.geomspace(n.min(), n.max(), 100)
            axis.plot(between, learning_curve.predict_accuracy(law, between), "-", color=colour, linewidth=0.8)


def images(out: Path, parts: dict[str, NDArray[np.float32]], each: int = 12) -> None:
    """A row of windows of every part, evenly over it."""
    each = min(each, *(len(windows) for windows in parts.values()))
    rows = []
    for windows in parts.values():
        selection = windows[np.linspace(0, len(windows) - 1, each).astype(int)]
        rows.append(np.concatenate(list(np.pad(selection, ((0, 0), (1, 1), (1, 1)))), axis=1))
    figure, (axis,) = _new(1, 0.85 * each + 1, 0.85 * len(rows))
    axis.imshow(np.concatenate(rows), cmap="gray", vmin=0, vmax=1)
    axis.set_xticks([])
    axis.set_yticks(len(rows[0]) * (np.arange(len(rows)) + 0.5), list(parts), fontsize=7)
    _save(figure, out, "lots_images")


def _test(words: Words, truth: dict[int, dict[str, NDArray]], method: str) -> tuple[NDArray, NDArray]:
    p = np.concatenate([said[method]["test"] for said in words.values()])
    return p, np.concatenate([truth[seed]["test"] for seed in words])


def _new(columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width * columns, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(1, columns, i + 1) for i in range(columns)]


def _save(figure: Figure, out: Path, name: str) -> None:
    figure.savefig(out / f"{name}.png", dpi=130, bbox_inches="tight")
