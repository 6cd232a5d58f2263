"""Features of images -> predictions: a forest's F1 with its interval, and the distance from its training images."""

import functools
from pathlib import Path

import pandas as pd

from emqa_dask import models
from emqa_dask.predict import forest, ood
from emqa_dask.tables import PREDICTIONS


@functools.lru_cache(maxsize=4)
def _load(directory: Path, digest: str) -> tuple[forest.Forest, ood.Domain | None]:
    """Forest and domain of a model, loaded once a process: a partition predicts in less time than loading takes."""
    return forest.load(directory), ood.load(directory)


def predict_images(features: pd.DataFrame, model: str | Path) -> pd.DataFrame:
    """One row of `tables.PREDICTIONS` for every row of `features`, in its order.

    features: micrograph_id, score_floor, the detection features and the image statistics that the model's card names
    (`detector` is checked where present); model: a model directory or the name of a bundled one. An image without
    detections still has its distance. Models without a domain give NaN distances. No rows give an empty table. Raises
    FileNotFoundError for an unknown model and ValueError for a changed one or for features that it does not fit.
    """
    directory = models.locate(str(model))
    fitted, domain = _load(directory, models.digest(directory))
    table = forest.predict(fitted, features)
    table["ood_distance"] = float("nan") if domain is None else ood.distance(domain, features)
    table["micrograph_id"] = features["micrograph_id"]
    return table[PREDICTIONS.names].reset_index(drop=True)
