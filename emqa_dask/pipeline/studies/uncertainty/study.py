"""The study of uncertainty: trains the networks of all methods and shares, asks them, writes the folder."""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emqa_dask import output_folders
from emqa_dask.number_ranges import check_integer, check_number, check_seed
from emqa_dask.pipeline.commands import ensemble_curve, network_set
from emqa_dask.pipeline.commands.ensemble_curve import Curve, CurveOptions
from emqa_dask.pipeline.commands.labelled_images import cut_labelled_windows, read_labels
from emqa_dask.pipeline.commands.network_set import LabelledSet, NetworkPlan
from emqa_dask.pipeline.commands.training_workers import open_workers
from emqa_dask.pipeline.studies import output
from emqa_dask.pipeline.studies.uncertainty.cohorts import Cohort, read_cohorts
from emqa_dask.pipeline.studies.uncertainty.show import TITLE, StudyResults, write_uncertainty_study
from emqa_dask.settings import Settings
from emqa_dask.train.ensemble_plan import EnsembleOptions
from emqa_dask.uncertainty.method_scores import IN_DOMAIN, METHODS, Answers

TRAINED_METHODS = ("ensemble", "dropout")  # softmax is the first member of the ensemble
Say = Callable[[str], None]


@dataclass(frozen=True)
class UncertaintyOptions:
    """Options of emqa study uncertainty."""

    networks: EnsembleOptions
    curve: CurveOptions
    shifted: tuple[tuple[str, str], ...] = ()  # (kind, folder of images)
    images: str = ""  # folder from which uris start; "": that of the labels
    windows_per_image: int = 4
    minutes: float | None = None  # after which no further network is begun

    def check(self) -> None:
        """Raises ValueError for an option out of its range."""
        check_integer("members", self.networks.n_members, 1, 1000)
        check_integer("windows_per_image", self.windows_per_image, 1)
        check_seed("seed", self.networks.seed)
        if self.minutes is not None:
            check_number("minutes", self.minutes, 0)
        self.curve.check()


def study_uncertainty(
    labels: str, out: str | Path, settings: Settings, options: UncertaintyOptions, say: Say = print
) -> bool:
    """Writes the folder `out` of a study of the labels; whether all networks are trained.

    What is trained stays in `<out>.unfinished` until all networks are; the same command goes on from there. Raises
    ValueError for labels and folders that make no study, RuntimeError where a method has no network yet.
    """
    options.check()
    out = Path(os.path.abspath(out))
    output.check_out(out, TITLE)
    root = Path(options.images) if options.images else Path(os.path.abspath(labels)).parent
    table = read_labels(labels, root, options.networks.seed, say, has_held_out=True)
    end_s = np.inf if options.minutes is None else time.time() + 60 * options.minutes
    folder = out.with_name(f"{out.name}.unfinished")
    labelled = cut_labelled_windows(root, table, options.networks, options.windows_per_image)
    view = options.networks.window_settings
    windows_per_image = options.windows_per_image
    cohorts = read_cohorts(folder, options.shifted, labelled, root, view, windows_per_image, say)
    unlabelled = ensemble_curve.read_unlabelled(folder, options.curve.unlabelled, view, windows_per_image, say)
    plans = list_study_plans(folder, options)
    n_images = network_set.prepare_networks(plans, labelled, options.networks)
    files = [*(cohort.file for cohort in cohorts), *([unlabelled.name] if unlabelled.name else [])]
    with open_workers(settings, say) as workers:
        failures = network_set.train_networks(
            plans, workers, say, folder=folder, extra_windows=files, n_first=options.curve.n_members, end_s=end_s
        )
    n_finished = sum(len(network_set.list_finished(plan, folder, files)) for plan in plans)
    n_networks = sum(plan.n_members for plan in plans)
    whole = {plan.method: plan for plan in plans if plan.share == 1}
    for method, plan in whole.items():
        if not network_set.list_finished(plan):
            reasons = "; ".join(failures) or "the time was over"
            raise RuntimeError(f"no network of {method} is trained ({reasons}); run it again to go on")
    curves = {
        method: _measure_curve(method, plans, n_images, labelled, folder, unlabelled, options) for method in METHODS
    }
    facts = _list_facts(labels, options, labelled, n_finished, n_networks)
    answers = [_collect_answers(method, whole, labelled, cohorts, folder) for method in METHODS]
    results = StudyResults(
        test={method: parts[0] for method, parts in zip(METHODS, answers)},
        validation={method: parts[1] for method, parts in zip(METHODS, answers)},
        shifted={method: parts[2] for method, parts in zip(METHODS, answers)},
        cohorts=cohorts,
        test_uris=list(table["uri"][table["split"] == "test"]),
        classes=labelled.training_set.names,
        curves=curves,
        target=options.curve.target,
    )
    write_uncertainty_study(out, results, facts, say)
    if n_finished == n_networks:
        _remove_unfinished(folder)
    return n_finished == n_networks


def list_study_plans(folder: Path, options: UncertaintyOptions) -> list[NetworkPlan]:
    """An ensemble and a network with dropout on all labels and on every share."""
    plans = []
    for share in sorted(set(options.curve.shares), reverse=True):
        for method in TRAINED_METHODS:
            n_members = options.networks.n_members if share == 1 else options.curve.n_members
            n_members = 1 if method == "dropout" else min(n_members, options.networks.n_members)
            plans.append(NetworkPlan(folder / f"{method}_{round(100 * share):03d}", method, share, n_members))
    return plans


def _measure_curve(method, plans, n_images, labelled, folder, unlabelled, options: UncertaintyOptions) -> Curve:
    """The learning curve of a method, by ensembles of as many members at every share."""
    trained_method = "dropout" if method == "dropout" else "ensemble"
    n_used = {"softmax": 1, "dropout": None, "ensemble": options.curve.n_members}[method]
    own_plans = sorted((plan for plan in plans if plan.method == trained_method), key=lambda plan: plan.share)
    return ensemble_curve.measure_curve(own_plans, n_images, labelled, folder, unlabelled, options.curve, n_used)


def _collect_answers(
    method: str, whole: dict[str, NetworkPlan], labelled: LabelledSet, cohorts: list[Cohort], folder: Path
) -> tuple[Answers, Answers, list[Answers]]:
    """What a method says of the test images, the validation images and the cohorts."""
    plan = whole["dropout" if method == "dropout" else "ensemble"]
    used = slice(1) if method == "softmax" else slice(None)
    own = []
    for split in ("test", "validation"):
        rows = labelled.table[labelled.table["split"] == split]
        p = network_set.load_held_out(plan, split, labelled)[used]
        own.append(Answers(IN_DOMAIN, split, p, rows["y"].to_numpy(), rows["group"].to_numpy()))
    shifted = []
    for cohort in cohorts:
        p = network_set.load_extra(plan, folder, cohort.file, cohort.sources)[used]
        shifted.append(Answers(cohort.kind, cohort.name, p, cohort.y, np.array(cohort.groups)))
    return own[0], own[1], shifted


def _list_facts(
    labels: str, options: UncertaintyOptions, labelled: LabelledSet, n_finished: int, n_networks: int
) -> dict[str, Any]:
    """What summary.json says of the settings and the data."""
    splits = labelled.table.groupby("split")
    return {
        "labels": str(labels),
        "settings": asdict(options) | {"curve": options.curve._asdict()},
        "n_images": {name: len(rows) for name, rows in splits},
        "n_groups": {name: int(rows["group"].nunique()) for name, rows in splits},
        "n_windows": len(labelled.sources),
        "classes": list(labelled.training_set.names),
        "networks_trained": n_finished,
        "networks_planned": n_networks,
    }


def _remove_unfinished(folder: Path) -> None:
    """Removes the trainings and the answers of the networks, once the study is whole."""
    for training in sorted(folder.glob("*.training")):
        output_folders.remove_folder(training)
    for path in (*folder.glob("*.npy"), *folder.glob("*.partial")):
        path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
