"""Distances of images to the training images of networks by content, added to predictions."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from emqa_dask import content_domain, models


@functools.lru_cache(maxsize=8)
def _load_domain(directory: Path, digest: str) -> tuple[str, content_domain.ContentDomain | None]:
    """Name of the network in a model directory, and its domain by content, read once a process."""
    with models.blame_model(directory):
        name = str(models.read_model_card(directory)["name"])
        return name, content_domain.read_content_domain(directory)


def add_content_distances(
    predictions: pd.DataFrame, features: pd.DataFrame, networks: Sequence[str | Path]
) -> pd.DataFrame:
    """`predictions` with `content_distance`, which counts as `ood_distance` where it is larger.

    `features` are the rows that were predicted, in the same order, with the column `content_embedding` if a network
    ran. `networks` are model directories or names of bundled ones; those without a domain by content, and images
    without an embedding, have NaN.
    """
    distances = np.full(len(predictions), np.nan)
    for network in networks if "content_embedding" in features else ():
        directory = models.locate_model(str(network))
        name, domain = _load_domain(directory, models.digest_model_card(directory))
        rows = np.flatnonzero(predictions["detector"].eq(name))
        if domain is not None and len(rows):
            with models.blame_model(directory):
                embeddings = features["content_embedding"].iloc[rows].tolist()
                distances[rows] = content_domain.compute_content_distances(domain, embeddings)
    largest = np.fmax(predictions["ood_distance"].to_numpy(float), distances)
    return predictions.assign(content_distance=distances, ood_distance=largest)
