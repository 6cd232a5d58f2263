"""The learning curve of an ensemble: trainings on shares of the labels, and labels needed for a target accuracy."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from emqa_dask import output_folders
from emqa_dask.number_ranges import check_integer, check_number
from emqa_dask.pipeline.commands import network_set
from emqa_dask.pipeline.commands.labelled_images import cut_folder_windows
from emqa_dask.pipeline.commands.network_set import LabelledSet, NetworkPlan
from emqa_dask.pipeline.commands.training_workers import Workers
from emqa_dask.train import figures, label_shares
from emqa_dask.train.ensemble_plan import EnsembleOptions
from emqa_dask.uncertainty.curve_points import (
    MIN_POINTS,
    WAYS,
    CurvePoint,
    estimate_curve_labels,
    tabulate_curve,
)
from emqa_dask.uncertainty.labels_needed import LabelsNeeded, describe_labels_needed
from emqa_dask.uncertainty.learning_curve import fit_learning_curve, predict_accuracy
from emqa_dask.windows import WindowSettings

CURVE_TABLE = "learning_curve.csv"
CURVE_FIGURE = "learning_curve.png"
Say = Callable[[str], None]


class CurveOptions(NamedTuple):
    """Options of a learning curve."""

    target: float = 0.95  # accuracy whose number of labels is asked for
    shares: tuple[float, ...] = label_shares.SHARES
    n_members: int = 3  # of each ensemble of the curve, that of all labels included
    unlabelled: str = ""  # folder of images for the confidence; "": the test images without their labels

    def check(self) -> None:
        """Raises ValueError for an option out of its range."""
        check_number("target", self.target, 0, 1)
        check_integer("curve_members", self.n_members, 1, 1000)
        label_shares.check_shares(self.shares)


class UnlabelledSet(NamedTuple):
    """Windows of unlabelled images, in a file that networks are asked about."""

    name: str  # of the file; "" where there is none
    sources: np.ndarray  # (n,): number of the image of each window


class Curve(NamedTuple):
    """A learning curve: a row for each share, and the labels needed by accuracy and by confidence."""

    table: pd.DataFrame
    needed: dict[str, LabelsNeeded]


def locate_curve(out: Path) -> Path:
    """The folder beside the model directory `out` in which the networks of its curve are trained."""
    return Path(f"{out}.curve")


def list_curve_plans(out: Path, options: EnsembleOptions, curve_options: CurveOptions) -> list[NetworkPlan]:
    """The trainings of the shares below 1, and the ensemble `out` itself."""
    n_members = min(curve_options.n_members, options.n_members)
    plans = [
        NetworkPlan(locate_curve(out) / f"share_{round(100 * share):03d}", options.method, share, n_members)
        for share in sorted(curve_options.shares)
        if share < 1
    ]
    return [*plans, NetworkPlan(out, options.method, 1.0, n_members)]


def read_unlabelled(
    folder: Path, images: str, settings: WindowSettings, windows_per_image: int, say: Say
) -> UnlabelledSet:
    """The windows of the unlabelled images in `images`, written to `folder`; nothing where `images` is ""."""
    if not images:
        return UnlabelledSet("", np.zeros(0, int))
    windows, sources, _ = cut_folder_windows(images, settings, windows_per_image, say)
    return UnlabelledSet(network_set.write_windows(folder, "unlabelled", windows), sources)


def train_curve(
    out: Path,
    labelled: LabelledSet,
    options: EnsembleOptions,
    curve_options: CurveOptions,
    unlabelled: UnlabelledSet,
    workers: Workers,
    say: Say,
) -> Curve:
    """The learning curve of the ensemble that was trained for `out`; what is interrupted is resumed."""
    folder = locate_curve(out)
    plans = list_curve_plans(out, options, curve_options)
    n_images = network_set.prepare_networks(plans[:-1], labelled, options)
    n_images[out.name] = int(labelled.table["split"].eq("train").sum())
    names = [unlabelled.name] if unlabelled.name else []
    for failure in network_set.train_networks(plans, workers, say, folder=folder, extra_windows=names):
        say(f"the curve lacks a network: {failure}")
    curve = measure_curve(plans, n_images, labelled, folder, unlabelled, curve_options)
    for sentence in describe_curve(curve):
        say(sentence)
    return curve


def measure_curve(
    plans: list[NetworkPlan],
    n_images: dict[str, int],
    labelled: LabelledSet,
    folder: Path,
    unlabelled: UnlabelledSet,
    curve_options: CurveOptions,
    n_used: int | None = None,
) -> Curve:
    """The curve of the finished networks of `plans`; of the first `n_used` rows of probabilities alone."""
    points = []
    for plan in plans:
        if not network_set.list_finished(plan):
            continue
        held_out = network_set.load_held_out(plan, "test", labelled)[:n_used]
        others = held_out
        if unlabelled.name:
            others = network_set.load_extra(plan, folder, unlabelled.name, unlabelled.sources)[:n_used]
        points.append(CurvePoint(plan.share, n_images[plan.out.name], held_out, others))
    table = labelled.table[labelled.table["split"] == "test"]
    y = table["y"].to_numpy()
    groups = table["group"].to_numpy()
    unlabelled_groups = np.unique(unlabelled.sources) if unlabelled.name else groups
    needed = estimate_curve_labels(points, y, groups, unlabelled_groups, curve_options.target)
    return Curve(tabulate_curve(points, y), needed)


def describe_curve(curve: Curve) -> list[str]:
    """Sentences: labels needed by each way, or why the curve does not say."""
    if not curve.needed:
        return ["too few shares with different numbers of labels for a power law: label more, or take other --shares"]
    texts = {"accuracy": "by accuracy on held-out images", "confidence": "by confidence on unlabelled images"}
    return [f"{texts[way]}: {describe_labels_needed(needed)}" for way, needed in curve.needed.items()]


def write_curve(curve: Curve, target: float, folder: Path, model_card: dict) -> None:
    """Writes CURVE_TABLE and CURVE_FIGURE to the model directory, and the labels needed to its card."""
    curve.table.to_csv(folder / CURVE_TABLE, index=False)
    plot_curves({model_card["name"]: curve}, target).savefig(folder / CURVE_FIGURE, dpi=120)
    model_card["learning_curve"] = {way: make_needed_entry(needed) for way, needed in curve.needed.items()} | {
        "text": "; ".join(describe_curve(curve))
    }


def plot_curves(curves: Mapping[str, Curve], target: float) -> Figure:
    """Learning curves with the power laws through them."""
    laws = {}
    for name, curve in curves.items():
        n = curve.table["n_labels"].to_numpy(float)
        if len(np.unique(n)) >= MIN_POINTS:
            grid = np.geomspace(n.min(), n.max(), 100)
            laws[name] = {way: (grid, predict_accuracy(fit_learning_curve(n, curve.table[way]), grid)) for way in WAYS}
    return figures.plot_learning_curves({name: curve.table for name, curve in curves.items()}, laws, target)


def make_needed_entry(needed: LabelsNeeded) -> dict:
    """The labels needed as a table of a card or of JSON; what is not reached has no entry."""
    return {key: round(float(value), 4) for key, value in needed._asdict().items() if np.isfinite(value)}


def remove_curve(out: Path) -> None:
    """Removes the trainings of the curve, which is in the model directory now."""
    folder = locate_curve(out)
    if not folder.is_dir():
        return
    for training in sorted(folder.glob("share_*.training")):
        output_folders.remove_folder(training)
    for file in sorted(folder.glob("unlabelled-*.npy")):
        file.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()
