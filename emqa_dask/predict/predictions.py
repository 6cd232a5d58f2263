"""Features of images -> predictions: F1, precision, recall, their intervals and reasons, and the domain distance."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from emqa_dask import domain_distance, imaging_conditions, models
from emqa_dask.predict import forest, quality_files, quality_model
from emqa_dask.tables import PREDICTIONS, empty


class LoadedModel(NamedTuple):
    """The contents of a model directory."""

    forest: forest.Forest | None
    quality_model: quality_model.QualityModel
    domain: domain_distance.Domain | None
    conditions: imaging_conditions.TrainingConditions | None  # of its training images, where they are known


@functools.lru_cache(maxsize=8)
def _load_model(directory: Path, digest: str) -> LoadedModel:
    """The contents of a model directory, read once a process: a partition predicts in less time than loading takes."""
    model_card = models.load_model_card(directory)
    with models.blame_model(directory):
        domain = domain_distance.read_domain(directory)
        conditions = imaging_conditions.read_training_conditions(model_card)
        if "quality_model" in model_card:
            return LoadedModel(None, quality_files.read_quality_model(directory), domain, conditions)
        forest_model = forest.read_forest(directory)
        return LoadedModel(forest_model, quality_model.convert_forest(forest_model), domain, conditions)


def predict_images(features: pd.DataFrame, named: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """One row of `tables.PREDICTIONS` for every row of `features`, in its order.

    features: micrograph_id, score_floor, the detection features and the image statistics that the model's card names,
    and `detector` where there are several. named: a model directory or the name of a bundled one, a quality model
    (predict.quality_model) or a forest (predict.forest), which predicts F1 only; or several: each detector's rows use
    the first that was fitted for it at their score floor. Rows of other detectors have NaN and the evidence `no_model`.

    An image without detections still has its distance. Where the model knows the imaging conditions of its training
    images, and the features have defocus_nm and voltage_kv, the distance of the conditions counts if it is larger.
    Models without a domain give NaN distances. No rows give an empty table. Raises models.ModelNotFound for an unknown
    model, models.ModelError for a changed one and ValueError for features that it does not fit.
    """
    if isinstance(named, str | Path):
        return _predict_with_model(features, models.locate_model(str(named)))
    directories: dict[tuple[str, float], Path] = {}
    for name in map(str, named):
        directories.setdefault(models.read_detector_and_floor(name), models.locate_model(name))
    tables = []
    for key, rows in features.groupby(["detector", "score_floor"], sort=False):
        if key in directories:
            tables.append(_predict_with_model(rows, directories[key]).set_index(rows.index))
        else:
            tables.append(_make_empty_predictions(rows))
    if not tables:
        return empty(PREDICTIONS)
    return pd.concat(tables).loc[features.index].reset_index(drop=True)


def _make_empty_predictions(features: pd.DataFrame) -> pd.DataFrame:
    """Rows of `tables.PREDICTIONS`, with the index of `features`, for a detector without a model."""
    table = features[["micrograph_id", "detector"]].assign(evidence="no_model")
    table = table.reindex(columns=PREDICTIONS.names)
    table["because"] = pd.Series([[] for _ in features.index], index=features.index, dtype=object)
    return table


def _predict_with_model(features: pd.DataFrame, directory: Path) -> pd.DataFrame:
    """Rows of `tables.PREDICTIONS` for rows of one detector, by the model in `directory`."""
    model = _load_model(directory, models.digest_model_card(directory))
    table = quality_model.predict_quality(model.quality_model, features)
    if model.forest is not None:  # the forest's own numbers, to the last bit
        forest_table = forest.predict_forest(model.forest, features)
        table[forest_table.columns] = forest_table
    if model.domain is None:
        distances = np.full(len(features), np.nan)
    else:
        distances = domain_distance.compute_domain_distances(model.domain, features)
    condition_distances = imaging_conditions.compute_condition_distances(model.conditions, features)
    table["ood_distance"] = np.fmax(distances, condition_distances)
    table["micrograph_id"] = features["micrograph_id"]
    return table.reindex(columns=PREDICTIONS.names).reset_index(drop=True)  # content_distance comes later


def load_quality_model(model: str | Path) -> quality_model.QualityModel:
    """The quality model in a directory or bundled model; a forest is converted to a model of F1 alone."""
    directory = models.locate_model(str(model))
    return _load_model(directory, models.digest_model_card(directory)).quality_model
