"""emqa train ensemble: trains members on Dask workers and learns the domain of their images."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from emqa_dask import classifiers, models, output_folders
from emqa_dask.number_ranges import check_integer, check_number, check_seed
from emqa_dask.pipeline.commands import ensemble_curve, ensemble_search
from emqa_dask.pipeline.commands.ensemble_curve import CurveOptions, UnlabelledSet, read_unlabelled
from emqa_dask.pipeline.commands.labelled_images import cut_labelled_windows, read_labels
from emqa_dask.pipeline.commands.network_set import LabelledSet
from emqa_dask.pipeline.commands.train_domain import DomainOptions, fit_classifier_domain
from emqa_dask.pipeline.commands.training_workers import Workers, open_workers
from emqa_dask.pipeline.tasks.train_members import train_member
from emqa_dask.run.progress import show_progress
from emqa_dask.run.task import Task
from emqa_dask.settings import Settings
from emqa_dask.train import ensemble
from emqa_dask.train.ensemble_plan import EnsembleOptions, locate_training, prepare_training
from emqa_dask.uncertainty.held_out_scores import compute_held_out_scores

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
    curve_options: CurveOptions | None = None,
    n_trials: int = 0,
    say: Say = print,
) -> dict:
    """The card of the model directory `out`: an ensemble trained on the images that the CSV `labels` names.

    URIs are relative to the folder `images`, by default the folder of the CSV. Each member is a task for the workers of
    run.scheduler. An interrupted training keeps its finished members and resumes the others from their last
    checkpoints. `domain_options` are the options of the fit of the domain. With `curve_options` ensembles on shares of
    the labels give a learning curve; with `n_trials` hyperparameters are searched first. `out` and the folders beside
    it have to be on a disk that the workers share. Raises ValueError, naming files and lines, for labels that are no
    training set; RuntimeError when fewer than `min_members` (None: all) could be trained; and FileExistsError where
    `out` or its `.training` folder exists and is not from a training.
    """
    domain_options = domain_options or DomainOptions()
    _check_options(options, windows_per_image, min_members, domain_options)
    check_integer("search", n_trials, 0, 10_000)
    if curve_options is not None:
        curve_options.check()
    out = Path(os.path.abspath(out))
    output_folders.check_folder(out, locate_training(out))
    root = Path(images) if images else Path(os.path.abspath(labels)).parent
    has_held_out = curve_options is not None or n_trials > 0
    table = read_labels(labels, root, options.seed, say, has_held_out=has_held_out)
    if out.exists() and not locate_training(out).is_dir():
        model_card = _load_trained(out, say)
    else:
        entries = {"labels": Path(labels).name, "images": len(table), **options.card_entries}
        options = replace(options, card_entries=entries)
        unlabelled = read_unlabelled(
            ensemble_curve.locate_curve(out),
            curve_options.unlabelled if curve_options is not None else "",
            options.window_settings,
            windows_per_image,
            say,
        )
        labelled = cut_labelled_windows(root, table, options, windows_per_image)
        job = _Job(out, root, labelled, domain_options, curve_options, unlabelled, n_trials, say)
        n_required = options.n_members if min_members is None else min_members
        with open_workers(settings, say) as workers:
            model_card = job.train(options, workers, n_required)
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
    classifiers.build_classifier(options.complete_architecture(2))
    check_integer("window", options.window_settings.size_px, 8, 2**16)


def _load_trained(out: Path, say: Say) -> dict:
    """The card of a finished ensemble; FileExistsError for a model directory of another kind."""
    model_card = models.load_model_card(out)
    if model_card.get("task") != "classification":
        raise FileExistsError(f"{out} is a model directory of another kind: give another --out")
    say(f"{out} is trained already; take another --out to train anew")
    return model_card


@dataclass(frozen=True)
class _Job:
    """A training on workers: search, members, learning curve, domain."""

    out: Path
    root: Path
    labelled: LabelledSet
    domain_options: DomainOptions
    curve_options: CurveOptions | None
    unlabelled: UnlabelledSet
    n_trials: int
    say: Say

    def train(self, options: EnsembleOptions, workers: Workers, n_required: int) -> dict:
        """The card, after everything was trained and the domain was learnt on the workers."""
        trials = None
        if self.n_trials:
            search = (self.out, self.labelled.training_set, options, self.n_trials, workers, self.say)
            options, trials = ensemble_search.search_hyperparameters(*search)
        prepare_training(self.out, self.labelled.training_set, options)
        size_px = options.window_settings.size_px
        n_windows = len(self.labelled.sources)
        self.say(f"{n_windows} windows of {size_px} px; finished members stay in {locate_training(self.out)}")
        _train_members(self.out, workers, n_required, self.say)
        curve = None
        if self.curve_options is not None:
            setup = (self.out, self.labelled, options, self.curve_options, self.unlabelled, workers, self.say)
            curve = ensemble_curve.train_curve(*setup)

        def write_extra_files(folder: Path, model_card: dict) -> None:
            if trials is not None:
                ensemble_search.write_search(trials, folder, model_card)
            if curve is not None and self.curve_options is not None:
                ensemble_curve.write_curve(curve, self.curve_options.target, folder, model_card)
            domain = (self.domain_options, self.say, workers.compute_all, workers.device)
            fit_classifier_domain(self.root, self.labelled.table, *domain, folder, model_card)

        model_card = ensemble.join_members(
            self.out, compute_held_out_scores, min_members=n_required, write_extra_files=write_extra_files
        )
        ensemble_search.remove_search(self.out)
        ensemble_curve.remove_curve(self.out)
        return model_card


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


def _show_scores(model_card: Mapping, out: Path, say: Say) -> None:
    for split, figures in model_card.get("measured", {}).items():
        numbers = {key: value for key, value in figures.items() if not isinstance(value, list)}
        say(f"{split}: " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in numbers.items()))
    say(f"model directory {out}: emqa triage SRC --classifier {out}")
