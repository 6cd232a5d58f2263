"""Points of a learning curve: true accuracy on labelled images, and what confidence on unlabelled ones says of it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask.uncertainty.held_out_scores import compute_held_out_scores
from emqa_dask.uncertainty.labels_needed import LabelsNeeded, estimate_labels_needed

WAYS = ("accuracy", "confidence")  # from labels of held-out images; from unlabelled images alone
MIN_POINTS = 3  # of different numbers of labels, for a power law


class CurvePoint(NamedTuple):
    """An ensemble that was trained on `n_labels` images."""

    share: float
    n_labels: int
    held_out: NDArray[np.float64]  # (members, n, classes)
    unlabelled: NDArray[np.float64]  # (members, k, classes); the held-out ones where there are no others


def tabulate_curve(points: Sequence[CurvePoint], y: NDArray[np.int64]) -> pd.DataFrame:
    """A row for each point: share, n_labels, members, accuracy, confidence on unlabelled images, nll and ece."""
    rows = []
    for point in points:
        scores = compute_held_out_scores(point.held_out, y)
        confidence = point.unlabelled.mean(axis=0).max(axis=1).mean()
        rows.append(
            {
                "share": point.share,
                "n_labels": point.n_labels,
                "members": len(point.held_out),
                "accuracy": scores["accuracy"],
                "confidence": round(float(confidence), 4),
                "nll": scores["nll"],
                "ece": scores["ece"],
            }
        )
    return pd.DataFrame(rows)


def estimate_curve_labels(
    points: Sequence[CurvePoint],
    y: NDArray[np.int64],
    groups: NDArray,
    unlabelled_groups: NDArray,
    target: float,
    *,
    n_resamples: int = 200,
    seed: int = 0,
) -> dict[str, LabelsNeeded]:
    """Labels needed for `target`, by each of WAYS; nothing with fewer than MIN_POINTS different numbers of labels."""
    n_labels = [point.n_labels for point in points]
    if len(set(n_labels)) < MIN_POINTS:
        return {}
    options = {"n_resamples": n_resamples, "seed": seed}
    held_out = [point.held_out for point in points]
    unlabelled = [point.unlabelled for point in points]
    return {
        "accuracy": estimate_labels_needed(n_labels, held_out, y, groups, target, **options),
        "confidence": estimate_labels_needed(n_labels, unlabelled, None, unlabelled_groups, target, **options),
    }
