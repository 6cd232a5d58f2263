"""The true F1, precision and recall of labelled images, and their rows joined to the features of the detections."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from emqa_dask import boxes
from emqa_dask.predict.forest import PAPER_FEATURES, select_feature_values
from emqa_dask.predict.identities import check_identities
from emqa_dask.predict.quality_model import TARGETS

MIN_IMAGES = 8  # labelled images with detections, below which nothing is fitted
COLUMNS = ("micrograph_id", "true_f1", "precision", "recall", "n_detections", "n_true")  # of compute_true_quality

Truth = TypeVar("Truth")


def compute_true_quality(
    detections: pd.DataFrame,
    truth_boxes: Mapping[str, ArrayLike],
    rule: str = "greedy",
    iou_threshold: float = 0.1,
    score_floor: float = 0.0,
) -> pd.DataFrame:
    """A row of COLUMNS for each image of `truth_boxes`.

    detections: rows of tables.DETECTIONS of one detector (micrograph_id, y0, x0, y1, x1, score); those below
    `score_floor` are left out. truth_boxes: micrograph_id -> its true boxes (m x 4: y0, x0, y1, x1, half-open, px),
    none for an image without objects. Matched by boxes.match_boxes. Precision is NaN without detections, recall
    without true boxes, F1 with neither. Raises ValueError for several detectors and malformed boxes, naming the image.
    """
    rows = []
    for image, true, predicted in iter_counted_boxes(detections, truth_boxes, score_floor):
        try:
            match = boxes.match_boxes(predicted, true, iou_threshold, rule)
        except ValueError as error:
            raise ValueError(f"image {image}: {error}") from None
        rows.append((image, match.f1, match.precision, match.recall, len(predicted), match.tp + match.fn))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def compute_f1_above(
    detections: pd.DataFrame,
    truth_boxes: Mapping[str, ArrayLike],
    score_floors: Sequence[float],
    rule: str = "greedy",
    iou_threshold: float = 0.1,
) -> NDArray[np.float64]:
    """True F1 (floors, images) of compute_true_quality() at each score floor, for the images of `truth_boxes`."""
    corners = detections[["y0", "x0", "y1", "x1"]].to_numpy(dtype=np.float64)
    scores = detections["score"].to_numpy(dtype=np.float64)
    indices = detections.groupby("micrograph_id").indices
    columns = []
    for image, true in truth_boxes.items():
        rows = indices.get(image, np.zeros(0, dtype=np.int64))
        matches = boxes.match_boxes_above(corners[rows], scores[rows], true, score_floors, iou_threshold, rule)
        columns.append([match.f1 for match in matches])
    return np.array(columns, dtype=np.float64).reshape(len(truth_boxes), len(score_floors)).T


def iter_counted_boxes(
    detections: pd.DataFrame, truth: Mapping[str, Truth], score_floor: float
) -> Iterator[tuple[str, Truth, NDArray[np.float64]]]:
    """Image, its truth and the boxes (n, 4) of its detections from `score_floor` on, for every image of `truth`.

    Raises ValueError for detections of several detectors.
    """
    if "detector" in detections and detections["detector"].nunique() > 1:
        raise ValueError(f"detections of several detectors: {', '.join(sorted(detections['detector'].unique()))}")
    counted_detections = detections[detections["score"] >= score_floor]
    corners = counted_detections[["y0", "x0", "y1", "x1"]].to_numpy(dtype=np.float64)
    indices = counted_detections.groupby("micrograph_id").indices
    for image, value in truth.items():
        yield image, value, corners[indices.get(image, np.zeros(0, dtype=np.int64))]


def join_labels(features: pd.DataFrame, truth: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Labelled images with detections, with truths and features, sorted by id; notes on the images left out.

    features: rows of tables.FEATURES of one detector and score floor. truth: micrograph_id, true_f1, precision,
    recall, and n_detections where known. Raises ValueError, naming rows, where the two do not fit together, an
    identity is broken (predict.identities) or less than MIN_IMAGES images are left.
    """
    _check_unique(features[features["micrograph_id"].isin(truth["micrograph_id"])], "features")
    _check_unique(truth, "truth")
    for name in ("score_floor", "detector"):
        if name in features and features[name].nunique() > 1:
            raise ValueError(f"the features have several values of {name}: {sorted(features[name].unique())}")
    _check_images(features, truth)
    columns = ["micrograph_id", *TARGETS.values()]
    rows = truth[columns].merge(features.drop(columns=list(TARGETS.values()), errors="ignore"), on="micrograph_id")
    rows = rows.sort_values("micrograph_id", ignore_index=True)  # results do not depend on the order of the labels
    return _drop_unusable(rows)


def _check_unique(table: pd.DataFrame, name: str) -> None:
    """Raises ValueError for images that `table` has twice."""
    repeated = table["micrograph_id"][table["micrograph_id"].duplicated()].unique()
    if len(repeated):
        raise ValueError(f"images twice in the {name}: {', '.join(map(str, repeated))}")


def _check_images(features: pd.DataFrame, truth: pd.DataFrame) -> None:
    """Raises ValueError for labels of images without features, and for other numbers of detections."""
    foreign = truth["micrograph_id"][~truth["micrograph_id"].isin(features["micrograph_id"])]
    if len(foreign):
        names = ", ".join(map(str, foreign))
        raise ValueError(f"labels for {len(foreign)} images that this run does not have: {names}")
    if "n_detections" not in truth:
        return
    labelled = features[features["micrograph_id"].isin(truth["micrograph_id"])]
    counts = labelled.set_index("micrograph_id")["n_detections"].reindex(truth["micrograph_id"]).to_numpy()
    unequal = truth["micrograph_id"][truth["n_detections"].to_numpy() != counts]
    if len(unequal):
        raise ValueError(
            f"the truth counts another number of detections than the features for {len(unequal)} images: "
            f"{', '.join(map(str, unequal))} (match the detections at the features' score floor)"
        )


def _drop_unusable(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Rows that a model can be fitted to, and notes on the others."""
    notes = []
    for is_bad, reason in (
        (rows["n_detections"] == 0, "without detections are left out: they are a class of their own"),
        (rows["true_f1"].isna() & (rows["n_detections"] > 0), "without a true F1: neither objects nor labels"),
    ):
        if is_bad.any():
            names = ", ".join(map(str, rows["micrograph_id"][is_bad]))
            notes.append(f"{int(is_bad.sum())} labelled images {reason}: {names}")
    rows = rows[(rows["n_detections"] > 0) & rows["true_f1"].notna()].reset_index(drop=True)
    matched_rows = rows[rows["precision"].notna()]  # images that were only counted have no precision
    check_identities(
        matched_rows.assign(recall=matched_rows["recall"].fillna(0)), lambda i: str(rows["micrograph_id"][i])
    )
    is_finite = np.isfinite(select_feature_values(rows, PAPER_FEATURES)).all(axis=1)
    if not is_finite.all():
        names = ", ".join(rows["micrograph_id"][~is_finite])
        notes.append(f"{(~is_finite).sum()} labelled images with unknown features: {names}")
    rows = rows[is_finite].reset_index(drop=True)
    if len(rows) < MIN_IMAGES:
        raise ValueError(f"{len(rows)} labelled images with detections: at least {MIN_IMAGES} are needed")
    return rows, notes
