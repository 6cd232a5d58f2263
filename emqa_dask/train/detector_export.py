"""Model directories that the training of a detector writes."""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emqa_dask import models, networks, output_folders
from emqa_dask.train.checkpoints import WEIGHTS, Progress

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ModelTarget:
    """The model directory that a training writes."""

    folder: Path
    card: Mapping[str, Any]  # without what is measured
    has_half_weights: bool = False  # weights are stored in 16 bits
    texts: Mapping[str, str] = field(default_factory=dict)  # further files by name
    background: int = 0  # class of the network that means no object


def export_model(net: "torch.nn.Module", target: ModelTarget, progress: Progress) -> None:
    """Writes the model directory, whole or not at all."""
    model_card = target.card
    scores = {name: value for name, value in (progress.best or {}).items() if not _is_nan(value)}
    card_scores = {**model_card.get("measured", {}), **({"validation": scores} if scores else {})}
    training = {**model_card.get("training", {}), "steps": progress.n_rounds}
    with output_folders.write_folder(target.folder) as fresh:
        networks.save_weights(net, fresh / WEIGHTS, is_half_precision=target.has_half_weights)
        _write_tables(fresh, progress)
        _write_texts(fresh, target)
        models.write_model_card(fresh, {**model_card, "training": training, "measured": card_scores})


def complete_model(target: ModelTarget, progress: Progress) -> None:
    """Adds the tables of the whole training, and shifts scores so that the best threshold becomes 0.5."""
    threshold = (progress.best or {}).get("score_threshold", 0.5)
    folder = target.folder
    model_card = models.load_model_card(folder)
    model_card.pop("files")
    model_card["training"]["best_threshold_that_became_0.5"] = threshold
    with output_folders.write_folder(folder) as fresh:
        networks.centre_scores(folder / WEIGHTS, fresh / WEIGHTS, threshold, background=target.background)
        _write_tables(fresh, progress)
        _write_texts(fresh, target)
        models.write_model_card(fresh, model_card)


def _write_texts(folder: Path, target: ModelTarget) -> None:
    for name, text in target.texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def _write_tables(folder: Path, progress: Progress) -> None:
    """Writes training.csv and validation.csv, each if it has rows."""
    for name, rows in (("training", progress.training), ("validation", progress.validation)):
        if rows:
            with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
                table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
                table.writeheader()
                table.writerows(rows)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
