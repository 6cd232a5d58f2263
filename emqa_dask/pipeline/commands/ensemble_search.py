"""The search of an ensemble's hyperparameters: one network for each trial, the lowest validation loss wins."""

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emqa_dask import classifiers, output_folders
from emqa_dask.pipeline.commands.training_workers import Workers
from emqa_dask.pipeline.tasks.train_members import train_member
from emqa_dask.run.progress import show_progress
from emqa_dask.run.task import Task
from emqa_dask.train.ensemble_plan import EnsembleOptions, TrainingSet, prepare_training

SEARCH_TABLE = "search.csv"
TRIALS = "trials.json"
SCHEDULE_NAMES = ("learning_rate", "weight_decay", "flip")
Say = Callable[[str], None]


def locate_search(out: Path) -> Path:
    """The folder beside the model directory `out` in which the trials are trained."""
    return Path(f"{out}.search")


def search_hyperparameters(
    out: Path, training_set: TrainingSet, options: EnsembleOptions, n_trials: int, workers: Workers, say: Say
) -> tuple[EnsembleOptions, pd.DataFrame]:
    """`options` with the hyperparameters of the lowest validation loss of `n_trials`, and the table of trials.

    The first trial has those of `options`. Each trial is one network of the first seed. As many trials as there are
    workers are chosen together. Trials are kept beside `out`, so an interrupted search goes on where it was. Raises
    RuntimeError where no trial could be trained.
    """
    from emqa_dask.tune.hyperparameters import propose_hyperparameters

    folder = locate_search(out)
    folder.mkdir(parents=True, exist_ok=True)
    has_width = options.architecture.get("backbone", classifiers.WIDE_RESNET) == classifiers.WIDE_RESNET
    trials = _read_trials(folder) or [_describe_options(options, has_width)]
    while True:
        _train_trials(folder, trials[:n_trials], training_set, options, workers, say)
        if len(trials) >= n_trials:
            break
        losses = [trial["validation_nll"] for trial in trials]
        n = min(workers.count, n_trials - len(trials))
        trials += propose_hyperparameters(trials, losses, n, has_width=has_width, seed=options.seed)
        _write_trials(folder, trials)
    table = pd.DataFrame(trials[:n_trials])
    if not np.isfinite(table["validation_nll"]).any():
        raise RuntimeError(f"none of {len(table)} trials could be trained; give a lower --learning-rate")
    best = trials[int(table["validation_nll"].argmin())]
    say(f"search: best of {len(table)} trials: {_describe_trial(best)}; the first had {table['validation_nll'][0]:.4f}")
    return apply_hyperparameters(options, best), table


def apply_hyperparameters(options: EnsembleOptions, trial: Mapping[str, Any]) -> EnsembleOptions:
    """`options` with the learning rate, weight decay, mirroring and width of a trial."""
    schedule = replace(options.schedule, **{name: trial[name] for name in SCHEDULE_NAMES})
    width = {"widen": trial["widen"]} if "widen" in trial else {}
    return replace(options, schedule=schedule, architecture={**options.architecture, **width})


def _describe_options(options: EnsembleOptions, has_width: bool) -> dict[str, Any]:
    width = {"widen": options.architecture.get("widen", classifiers.DEFAULTS["widen"])} if has_width else {}
    return {name: getattr(options.schedule, name) for name in SCHEDULE_NAMES} | width


def _describe_trial(trial: Mapping[str, Any]) -> str:
    width = f", widen {trial['widen']}" if "widen" in trial else ""
    return (
        f"learning rate {trial['learning_rate']:.2g}, weight decay {trial['weight_decay']:.2g}, "
        f"{'mirrored' if trial['flip'] else 'not mirrored'}{width}: validation loss {trial['validation_nll']:.4f}"
    )


def _train_trials(
    folder: Path, trials: list[dict], training_set: TrainingSet, options: EnsembleOptions, workers: Workers, say: Say
) -> None:
    """Adds validation_nll, epochs and seconds to the trials that lack them; a failed one gets an infinite loss."""
    for k, trial in enumerate(trials):
        trial_options = replace(apply_hyperparameters(options, trial), n_members=1)
        prepare_training(folder / f"trial_{k:03d}", training_set, trial_options)
    numbers = [k for k, trial in enumerate(trials) if "validation_nll" not in trial]
    tasks = [Task(f"{k:03d}", (str(folder / f"trial_{k:03d}"), 0, workers.device), 1) for k in numbers]
    for result in show_progress(workers.execute(train_member, tasks), "search", len(tasks), unit="trials"):
        if result.outcome == "lost":
            continue
        k = int(result.task.name)
        record = result.value if result.outcome != "failed" else {"validation_nll": np.inf}
        trials[k] |= {name: record[name] for name in ("validation_nll", "epochs", "seconds") if name in record}
        _write_trials(folder, trials)
        failure = f": {result.error}" if result.outcome == "failed" else ""
        say(f"trial {k}: {_describe_trial(trials[k])}{failure}")


def _read_trials(folder: Path) -> list[dict]:
    path = folder / TRIALS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def _write_trials(folder: Path, trials: list[dict]) -> None:
    fresh = folder / f"{TRIALS}.partial"
    fresh.write_text(json.dumps(trials, indent=1), encoding="utf-8")
    fresh.rename(folder / TRIALS)


def write_search(table: pd.DataFrame, folder: Path, model_card: dict) -> None:
    """Writes SEARCH_TABLE to the model directory, and the number of trials and the losses to its card."""
    table.rename_axis("trial").to_csv(folder / SEARCH_TABLE)
    losses = table["validation_nll"]
    model_card["training"]["search"] = {
        "trials": len(table),
        "validation_nll": float(losses.min()),
        "validation_nll_first": float(losses[0]) if np.isfinite(losses[0]) else -1.0,
    }


def remove_search(out: Path) -> None:
    """Removes the trials, whose table is in the model directory now."""
    folder = locate_search(out)
    if not folder.is_dir():
        return
    for training in sorted(folder.glob("trial_*.training")):
        output_folders.remove_folder(training)
    (folder / TRIALS).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()
