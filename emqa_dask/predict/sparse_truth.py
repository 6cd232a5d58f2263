"""The true quality of images whose objects are labelled by points, or are only counted."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from emqa_dask import boxes
from emqa_dask.predict.true_quality import COLUMNS, iter_counted_boxes

RULES = ("points", "counts")  # of quality models whose labels are no boxes


def match_points(predicted: ArrayLike, points: ArrayLike) -> boxes.Match:
    """One-to-one matching of predicted boxes (n, 4) to points (m, 2: y, x) inside true objects.

    A box and a point can belong together where the box contains the point, or the point lies within half of the box's
    diameter (the mean of its sides) from its centre. Of all such pairs those with the smallest distance, in diameters,
    are taken first, each box and each point once; of equals, the first point and the first box.
    """
    predicted = boxes.as_boxes(predicted)
    points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    if not np.isfinite(points).all():
        raise ValueError("points hold NaN or infinite coordinates")
    t, p, distances = _list_pairs(predicted, points)
    order = np.lexsort((p, t, distances))
    free_boxes = np.ones(len(predicted), bool)
    free_points = np.ones(len(points), bool)
    pairs = []
    for i, j in zip(p[order].tolist(), t[order].tolist()):
        if free_boxes[i] and free_points[j]:
            free_boxes[i] = free_points[j] = False
            pairs.append((i, j))
    n = len(pairs)
    return boxes.Match(n, len(predicted) - n, len(points) - n, np.array(pairs, dtype=np.int64).reshape(-1, 2))


def _list_pairs(predicted: NDArray, points: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Point, box and distance in diameters, each (k,), of the pairs that can belong together."""
    centres = (predicted[:, :2] + predicted[:, 2:]) / 2
    diameters = (predicted[:, 2:] - predicted[:, :2]).mean(axis=1)
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for number, point in enumerate(points):
        distances = np.hypot(*(centres - point).T)
        is_inside = ((predicted[:, :2] <= point) & (point <= predicted[:, 2:])).all(axis=1)
        candidates = np.flatnonzero(is_inside | (distances <= diameters / 2))
        relative_distances = distances[candidates] / np.maximum(diameters[candidates], 1e-9)
        parts.append((np.full(len(candidates), number), candidates, relative_distances))
    t, p, distances = (np.concatenate(column) for column in zip(*parts))
    return t, p, distances


def compute_point_quality(
    detections: pd.DataFrame, truth_points: Mapping[str, ArrayLike], score_floor: float = 0.0
) -> pd.DataFrame:
    """A row of true_quality.COLUMNS for each image of `truth_points` (micrograph_id -> m x 2: y, x, px).

    As true_quality.compute_true_quality(), with match_points() in the place of the IoU.
    """
    rows = []
    for image, points, predicted in iter_counted_boxes(detections, truth_points, score_floor):
        try:
            match = match_points(predicted, points)
        except ValueError as error:
            raise ValueError(f"image {image}: {error}") from None
        rows.append((image, match.f1, match.precision, match.recall, len(predicted), match.tp + match.fn))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def compute_count_quality(
    detections: pd.DataFrame, counts: Mapping[str, int], score_floor: float = 0.0
) -> pd.DataFrame:
    """A row of true_quality.COLUMNS for each image of `counts` (micrograph_id -> number of true objects).

    `true_f1` is the largest F1 that these numbers allow, 2 min(n, m) / (n + m) of n detections and m objects: a count
    that is wrong by a factor of 3 has 0.5. Precision and recall are NaN, since nothing tells which detections are
    right; `true_f1` is NaN with neither detections nor objects.
    """
    rows = []
    for image, n_true, predicted in iter_counted_boxes(detections, counts, score_floor):
        total = len(predicted) + n_true
        agreement = 2 * min(len(predicted), n_true) / total if total else np.nan
        rows.append((image, agreement, np.nan, np.nan, len(predicted), n_true))
    return pd.DataFrame(rows, columns=list(COLUMNS))
