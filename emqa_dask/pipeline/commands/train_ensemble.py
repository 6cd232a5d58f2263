"""emqa train ensemble: trains members on Dask workers and learns the domain of their images."""

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emqa_dask import classifiers, models, output_folders
from emqa_dask.backend import to_device
from emqa_dask.number_ranges import check_integer, check_number, check_seed
from emqa_dask.pipeline import PRELOAD
from emqa_dask.pipeline.commands.train_domain import DomainOptions, fit_classifier_domain
from emqa_dask.pipeline.tasks.train_domain import read_image
from emqa_dask.run.cluster import open_cluster
from emqa_dask.run.execute import execute
from emqa_dask.run.progress import show_progress
from emqa_dask.run.supervise import Call, call_directly
from emqa_dask.run.task import IN_PROCESS, Limits, Result, Task
from emqa_dask.settings import Settings
from emqa_dask.train import class_labels, ensemble
from emqa_dask.train.ensemble_plan import EnsembleOptions, TrainingSet, locate_training, prepare_training
from emqa_dask.uncertainty import entropy, referral, reliability

MAX_LISTED_CLASSES = 8  # names that the first message shows
Say = Callable[[str], None]


def train_ensemble(
    labels: str,
    out: str | Path,
    settings: Settings,
    options: EnsembleOptions,
    *,
    images: str = "",
    windows_per_image: int = 64,
    min_members: int | None = None,
    domain_options: DomainOptions | None = None,
    say: Say = print,
) -> dict:
    """The card of the model directory `out`: an ensemble trained on the images that the CSV `labels` names.

    URIs are relative to the folder `images`, by default the folder of the CSV. Each member is a task for the workers of
    run.scheduler. An interrupted training keeps its finished members and resumes the others from their last
    checkpoints. `domain_options` are the options of the fit of the domain. `out` and its `.training` folder have to be
    on a disk that the workers share. Raises ValueError, naming files and lines, for labels that are no training set;
    RuntimeError when fewer than `min_members` (None: all) could be trained; and FileExistsError where `out` or its
    `.training` folder exists and is not from a training.
    """
    domain_options = domain_options or DomainOptions()
    _check_options(options, windows_per_image, min_members, domain_options)
    out = Path(os.path.abspath(out))
    output_folders.check_folder(out, locate_training(out))
    root = Path(images) if images else Path(os.path.abspath(labels)).parent
    table = _read_labels(labels, root, options.seed, say)
    if out.exists() and not locate_training(out).is_dir():
        model_card = _load_trained(out, say)
    else:
        entries = {"labels": Path(labels).name, "images": len(table), **options.card_entries}
        options = replace(options, card_entries=entries)
        n_windows = _prepare_windows(out, root, table, options, windows_per_image)
        size_px = options.window_settings.size_px
        say(f"{n_windows} windows of {size_px} px; finished members stay in {locate_training(out)}")
        n_required = options.n_members if min_members is None else min_members
        model_card = _train_on_workers(out, root, table, settings, domain_options, n_required, say)
    _show_scores(model_card, out, say)
    return model_card


def _check_options(
    options: EnsembleOptions, windows_per_image: int, min_members: int | None, domain_options: DomainOptions
) -> None:
    """Raises ValueError for a number out of its range, before any image is read."""
    check_integer("members", options.n_members, 1, 1000)
    check_integer("windows_per_image", windows_per_image, 1)
    check_seed("seed", options.seed)
    if min_members is not None:
        check_integer("min_members", min_members, 1, options.n_members)
    check_number("false_flags", domain_options.false_flags, 0, 1)
    check_integer("examples", domain_options.examples, 1)
    for name, high in (("depth", 1000), ("widen", 100)):
        if name in options.architecture:
            check_integer(name, options.architecture[name], 1, high)
    classifiers.build_classifier({**options.architecture, "n_classes": 2})
    check_integer("window", options.window_settings.size_px, 8, 2**16)


def _read_labels(labels: str, root: Path, seed: int, say: Say) -> pd.DataFrame:
    """The labels with the columns y (class number), group and split."""
    table = class_labels.read_class_labels(labels, lambda uri: (root / uri).is_file())
    names = sorted(set(table["label"]))
    ending = ", ..." if len(names) > MAX_LISTED_CLASSES else ""
    say(f"{len(table)} images of {len(names)} classes: {', '.join(names[:MAX_LISTED_CLASSES])}{ending}")
    table = table.assign(y=np.searchsorted(names, table["label"]), group=_fill_groups(table))
    return table.assign(split=_fill_splits(table, seed))


def _fill_groups(table: pd.DataFrame) -> pd.Series:
    """Groups that splits keep together: the column `group`, or each image as a group."""
    return table["group"].where(table["group"].ne(""), table["uri"]) if "group" in table else table["uri"]


def _fill_splits(table: pd.DataFrame, seed: int) -> np.ndarray:
    """The column `split`; images without a split are assigned at random."""
    splits = class_labels.split_groups(table["y"], table["group"], seed=seed)
    return np.where(table["split"].ne(""), table["split"], splits) if "split" in table else splits


def _load_trained(out: Path, say: Say) -> dict:
    """The card of a finished ensemble; FileExistsError for a model directory of another kind."""
    model_card = models.load_model_card(out)
    if model_card.get("task") != "classification":
        raise FileExistsError(f"{out} is a model directory of another kind: give another --out")
    say(f"{out} is trained already; take another --out to train anew")
    return model_card


def _prepare_windows(
    out: Path, root: Path, table: pd.DataFrame, options: EnsembleOptions, windows_per_image: int
) -> int:
    """Number of windows that were cut from the images and written for the members."""
    images = ((uri, read_image(root / uri)[0]) for uri in table["uri"])
    windows, sources = class_labels.cut_windows(images, options.window_settings, max_per_image=windows_per_image)
    names = sorted(set(table["label"]))
    rows = table.iloc[sources]
    training_set = TrainingSet.from_arrays(windows, rows["y"].to_numpy(), rows["split"].to_numpy(), names)
    prepare_training(out, training_set, options)
    return len(windows)


def _train_on_workers(
    out: Path,
    root: Path,
    table: pd.DataFrame,
    settings: Settings,
    domain_options: DomainOptions,
    n_required: int,
    say: Say,
) -> dict:
    """The card, after the members were trained and the domain was learnt on the workers."""
    device = settings.run.device
    if settings.run.scheduler == IN_PROCESS:
        to_device(np.zeros(1), device)
    with open_cluster(settings, (*PRELOAD, __name__), say) as client:
        if client is not None:
            say(f"{len(client.nthreads())} workers; dashboard: {client.dashboard_link}")
        workers = Workers(client, device)
        _train_members(out, workers, n_required, say)
        complete = functools.partial(
            fit_classifier_domain, root, table, domain_options, say, workers.compute_all, device
        )
        return ensemble.join_members(out, compute_held_out_scores, min_members=n_required, write_extra_files=complete)


@dataclass(frozen=True)
class Workers:
    """Executes tasks on the workers of a Dask client, or in this process without one."""

    client: Any  # distributed.Client or None
    device: str

    def execute(self, function: Callable, tasks: list[Task]) -> Iterator[Result]:
        """Results of `function` for each task, in the order in which they finish."""
        resources = {"GPU": 1} if self.device == "cuda" else None
        return execute(
            function,
            tasks,
            stage="train",
            client=self.client,
            tasks_per_worker=1,
            limits=Limits(),
            resources=resources,
        )

    def compute_all(self, function: Callable, arguments: list[tuple], title: str) -> list[dict]:
        """Values of `function` for each of `arguments`, in their order; RuntimeError where it fails for one."""
        tasks = [Task(f"{k:06d}", args, 1) for k, args in enumerate(arguments)]
        values = {}
        for result in show_progress(self.execute(function, tasks), title, len(tasks), unit="batches"):
            if result.outcome == "failed":
                raise RuntimeError(f"{title}: {result.error}")
            if result.outcome == "done":
                values[result.task.name] = result.value
        return [values[task.name] for task in tasks]


def train_member(out: str, k: int, device: str, call: Call = call_directly) -> dict:
    """A task: trains member `k` of the training that was prepared for `out`; returns its record."""
    return ensemble.train_member(Path(out), k, device=device) | {"n_images": 1}


def _train_members(out: Path, workers: Workers, n_required: int, say: Say) -> None:
    """Trains the unfinished members; RuntimeError when fewer than `n_required` are finished at the end."""
    tasks = [Task(f"member_{k:02d}", (str(out), k, workers.device), 1) for k in ensemble.list_unfinished(out)]
    failures = []
    for result in show_progress(workers.execute(train_member, tasks), "train", len(tasks), unit="members"):
        if result.outcome == "failed":
            failures.append(f"{result.task.name}: {result.error}")
        elif result.outcome == "done":
            say(f"{result.task.name}: {_describe_record(result.value)}")
    n_finished = ensemble.count_finished(out)
    if n_finished < n_required:
        reasons = "; ".join(failures)
        raise RuntimeError(
            f"{n_finished} members are trained, {n_required} are needed ({reasons}); run it again to go on"
        )


def _describe_record(record: Mapping) -> str:
    names = [name for name in ("validation_accuracy", "test_accuracy") if name in record]
    accuracies = ", ".join(f"{name.replace('_', ' ')} {record[name]:.3f}" for name in names)
    return f"{record['epochs']} epochs, {record['seconds']:.0f} s; {accuracies}"


def compute_held_out_scores(p: np.ndarray, y: np.ndarray) -> dict:
    """The card's scores of held-out windows, from probabilities p (members, n, classes) and classes y (n,)."""
    mean = p.mean(axis=0, dtype=float)
    is_wrong = mean.argmax(axis=1) != y
    entropy_nats = entropy.predictive_entropy(p)
    diagram = reliability.reliability_table(mean, y)
    curve = referral.risk_coverage(entropy_nats, is_wrong)
    figures = {
        "n": len(y),
        "accuracy": round(float(1 - is_wrong.mean()), 4),
        "nll": round(reliability.negative_log_likelihood(mean, y), 4),
        "ece": round(reliability.expected_calibration_error(mean, y), 4),
        "ece_equal_mass": round(reliability.expected_calibration_error(mean, y, binning="mass"), 4),
        "risk_coverage_area": round(curve.area, 5),
        "error_at_90_percent_coverage": round(float(curve.risk[int(np.ceil(0.9 * len(y))) - 1]), 4),
        "temperature": round(reliability.fit_temperature(mean, y), 4),
    }
    if 0 < is_wrong.sum() < len(y):
        figures["auroc_wrong_by_entropy"] = round(referral.auroc(entropy_nats, is_wrong), 4)
    bins = {f"reliability_{name}": diagram[name].round(4).tolist() for name in ("confidence", "accuracy", "n")}
    return figures | bins


def _show_scores(model_card: Mapping, out: Path, say: Say) -> None:
    for split, figures in model_card.get("measured", {}).items():
        numbers = {key: value for key, value in figures.items() if not isinstance(value, list)}
        say(f"{split}: " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in numbers.items()))
    say(f"model directory {out}: emqa triage SRC --classifier {out}")
