"""Labelled images that a quality model was calibrated on, kept in its folder, and those that are most like an image."""

import functools
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask.predict.forest import select_feature_values
from emqa_dask.predict.quality_model import QualityModel

LABELLED_FILE = "labelled_images.json"


class LabelledImages(NamedTuple):
    """n labelled images with all d features of a quality model."""

    micrograph_ids: list[str]
    uris: list[str]
    frames: list[int]
    true_f1: NDArray[np.float64]  # (n,)
    columns: list[str]  # names of the features
    values: NDArray[np.float64]  # (n, d)
    scale: NDArray[np.float64]  # (d,), > 0: interquartile ranges of the training images


def collect_labelled_images(
    model: QualityModel, features: pd.DataFrame, truth: pd.DataFrame, rows: pd.DataFrame
) -> LabelledImages:
    """The images with a known F1 and all features of `model`.

    features: of its detector. truth: micrograph_id, true_f1. rows: micrograph_id, uri, frame.
    """
    table = features.merge(truth[["micrograph_id", "true_f1"]], on="micrograph_id")
    values = select_feature_values(table, model.columns)
    is_complete = np.isfinite(values).all(axis=1) & table["true_f1"].notna().to_numpy()
    ids = table["micrograph_id"][is_complete].tolist()
    named = rows.set_index("micrograph_id").loc[ids]
    true_f1 = table["true_f1"].to_numpy(float)[is_complete]
    uris, frames = named["uri"].tolist(), [int(frame) for frame in named["frame"]]
    return LabelledImages(ids, uris, frames, true_f1, list(model.columns), values[is_complete], model.spread)


def write_labelled_images(images: LabelledImages, directory: Path) -> None:
    """Write LABELLED_FILE into a model directory."""
    fields = {name: np.asarray(field).tolist() for name, field in images._asdict().items()}
    (directory / LABELLED_FILE).write_text(json.dumps(fields, allow_nan=False), encoding="ascii")


@functools.lru_cache(maxsize=8)
def read_labelled_images(directory: Path, digest: str) -> LabelledImages | None:
    """The labelled images of a model directory whose card has the `digest`; None where it keeps none."""
    path = directory / LABELLED_FILE
    if not path.is_file():
        return None
    fields = json.loads(path.read_text(encoding="ascii"))
    n_columns = len(fields["columns"])
    arrays = {name: np.array(fields[name], float) for name in ("true_f1", "values", "scale")}
    return LabelledImages(**fields | arrays | {"values": arrays["values"].reshape(-1, n_columns)})


def find_nearest(images: LabelledImages, values: NDArray, own_id: str, n: int) -> list[tuple[int, float]]:
    """(position, distance) of the `n` images that are nearest to one with features `values` (d,), the nearest first.

    The distance is the root mean square difference of the features in interquartile ranges. The image itself, by
    `own_id`, is left out. Empty for an image that lacks a feature.
    """
    distances = np.sqrt(np.mean(((images.values - values) / images.scale) ** 2, axis=1))
    order = np.argsort(distances, kind="stable")
    nearest = [k for k in order if np.isfinite(distances[k]) and images.micrograph_ids[k] != own_id][:n]
    return [(int(k), float(distances[k])) for k in nearest]
