"""Distances of images to the training images of networks by content, added to predictions."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask import content_domain, models
from emqa_dask.tables import OBJECT_KIND_NAMES


class DetectorDomain(NamedTuple):
    """What a network was trained on, by content."""

    name: str  # of the network
    content: content_domain.ContentDomain | None
    kinds: content_domain.ObjectKinds | None


@functools.lru_cache(maxsize=8)
def _load_domain(directory: Path, digest: str) -> DetectorDomain:
    """The domain of the network in a model directory, read once a process."""
    with models.blame_model(directory):
        model_card = models.read_model_card(directory)
        kinds = content_domain.read_object_kinds(model_card, OBJECT_KIND_NAMES)
        return DetectorDomain(str(model_card["name"]), content_domain.read_content_domain(directory), kinds)


def add_content_distances(
    predictions: pd.DataFrame, features: pd.DataFrame, networks: Sequence[str | Path]
) -> pd.DataFrame:
    """`predictions` with `other_kind` and `content_distance`, which counts as `ood_distance` where it is larger.

    `features` are the rows that were predicted, in the same order, with the columns `content_embedding` and
    `kind_probabilities` if a network ran. `networks` are model directories or names of bundled ones; those without a
    domain by content, and images without an embedding, have NaN.
    """
    distances = np.full(len(predictions), np.nan)
    kind_names = np.full(len(predictions), None, object)
    for network in networks if "content_embedding" in features else ():
        directory = models.locate_model(str(network))
        domain = _load_domain(directory, models.digest_model_card(directory))
        rows = np.flatnonzero(predictions["detector"].eq(domain.name))
        with models.blame_model(directory):
            distances[rows], kind_names[rows] = _measure_rows(domain, features.iloc[rows])
    largest = np.fmax(predictions["ood_distance"].to_numpy(float), distances)
    return predictions.assign(content_distance=distances, other_kind=kind_names, ood_distance=largest)


def _measure_rows(domain: DetectorDomain, features: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray]:
    """Distances (n,) of rows, and the names (n,) of other kinds of objects that they show, or None."""
    distances = np.full(len(features), np.nan)
    kind_names = np.full(len(features), None, object)
    if domain.content is not None and len(features):
        embeddings = features["content_embedding"].tolist()
        distances = content_domain.compute_content_distances(domain.content, embeddings)
    if domain.kinds is not None and len(features):
        probabilities = features["kind_probabilities"].tolist()
        kind_distances, kind_names = content_domain.compute_kind_distances(
            domain.kinds, probabilities, OBJECT_KIND_NAMES
        )
        distances = np.fmax(distances, kind_distances)
    return distances, kind_names
