"""An ensemble's outputs on images, with the images' statistics: checks, selection and concatenation of rows."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray


class EnsembleOutputs(NamedTuple):
    """Outputs of an ensemble on n images, and the statistics of the images."""

    probabilities: NDArray[np.float32]  # (members, n, classes)
    embeddings: NDArray[np.float32]  # (k, n, d): of the first k members
    features: pd.DataFrame  # n rows with the columns of tables.IMAGE_STATISTICS
    content: NDArray[np.float32]  # (n, c): embeddings of the content, as in tables.REGIONS
    foreign_log_odds: NDArray[np.float64]  # (n,): log odds that the image is no micrograph, as in tables.REGIONS


def check_outputs(outputs: EnsembleOutputs, name: str) -> None:
    """Raises ValueError, with `name`, for arrays whose lengths differ."""
    p = np.shape(outputs.probabilities)
    e = np.shape(outputs.embeddings)
    n = len(outputs.features)
    if len(p) != 3 or len(e) != 3 or p[1] != n or e[1] != n or not (p[0] and e[0]):
        raise ValueError(
            f"{name}: probabilities {p}, embeddings {e} and {n} rows of statistics: they have to be "
            "(members, n, classes), (1 or more members, n, d) and n"
        )
    c = np.shape(outputs.content)
    odds = np.shape(outputs.foreign_log_odds)
    if len(c) != 2 or c[0] != n or odds != (n,):
        raise ValueError(f"{name}: contents {c} and their odds {odds}: they have to be (n, c) and (n,)")


def find_finite_rows(outputs: EnsembleOutputs) -> NDArray[np.bool_]:
    """Images (n,) of which all probabilities, embeddings and contents are finite."""
    is_finite = np.isfinite(outputs.probabilities).all(axis=(0, 2)) & np.isfinite(outputs.embeddings).all(axis=(0, 2))
    return is_finite & np.isfinite(outputs.content).all(axis=1) & np.isfinite(outputs.foreign_log_odds)


def select_rows(outputs: EnsembleOutputs, selection: NDArray) -> EnsembleOutputs:
    """The chosen rows (mask or positions), numbered from 0."""
    positions = np.flatnonzero(selection) if selection.dtype == bool else selection
    return EnsembleOutputs(
        outputs.probabilities[:, selection],
        outputs.embeddings[:, selection],
        outputs.features.iloc[positions].reset_index(drop=True),
        outputs.content[selection],
        outputs.foreign_log_odds[selection],
    )


def join_outputs(batches: Sequence[EnsembleOutputs]) -> EnsembleOutputs:
    """The rows of all batches, numbered from 0."""
    return EnsembleOutputs(
        np.concatenate([batch.probabilities for batch in batches], axis=1),
        np.concatenate([batch.embeddings for batch in batches], axis=1),
        pd.concat([batch.features for batch in batches], ignore_index=True),
        np.concatenate([batch.content for batch in batches]),
        np.concatenate([batch.foreign_log_odds for batch in batches]),
    )
