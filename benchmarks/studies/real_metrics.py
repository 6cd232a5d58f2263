"""Metrics of detections, predicted F1, verdicts and counts on labelled images.

F1 is that of one image: boxes matched by boxes.match_boxes with the greedy rule of the published study, whatever the
class of a detection. A set counts each image once, so that a crowded image has no more weight than others.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import spearmanr

from emqa_dask.boxes import compute_areas, compute_iou, find_overlaps, match_boxes
from emqa_dask.coco.masks import Mask
from emqa_dask.train.scores import Detections, GroundTruth, compute_mask_ap50

IOUS = (0.1, 0.3, 0.5)
PAPER_IOU = 0.1  # of the true F1 that `trust` is about
GOOD_F1 = 0.5  # from which an image can be trusted; the published study calls it good
FLOORS = tuple(round(0.05 * k, 2) for k in range(1, 20))  # of scores
FAILURES = ("missed", "merged", "split", "badly_placed")  # of true objects
FALSE_ALARMS = ("false", "merger", "fragment", "badly_placed_box", "duplicate")  # kinds of wrong detections
COVERED_SHARE = 0.5  # of the smaller object's area in the larger one, from which it is a part of it


def name_f1(iou: float) -> str:
    """The column of the F1 at `iou`."""
    return f"f1_iou_{iou:g}"


def compute_f1_by_iou(detected: NDArray, true: NDArray) -> dict[str, float]:
    """F1 of an image at each of IOUS, by name_f1()."""
    return {name_f1(iou): match_boxes(detected, true, iou).f1 for iou in IOUS}


def compute_floor_curve(detected: NDArray, scores: NDArray, true: NDArray) -> pd.DataFrame:
    """F1 of an image at each of IOUS for each score floor of FLOORS: columns score_floor and those of name_f1().

    Overlaps are computed once for all floors; the values are those of compute_f1_by_iou().
    """
    objects, detections, values = find_overlaps(true, detected, min(IOUS))
    order = np.lexsort((detections, -values, objects))
    pairs = list(zip(objects[order].tolist(), detections[order].tolist(), values[order].tolist()))
    rows = []
    for floor in FLOORS:
        n_counted = int((scores >= floor).sum())
        pairs = [pair for pair in pairs if scores[pair[1]] >= floor]
        n_matches = {iou: count_greedy_matches([p[:2] for p in pairs if p[2] >= iou]) for iou in IOUS}
        n_both = n_counted + len(true)
        f1_scores = {name_f1(iou): 2 * n / n_both if n_both else np.nan for iou, n in n_matches.items()}
        rows.append({"score_floor": floor} | f1_scores)
    return pd.DataFrame(rows)


def count_greedy_matches(pairs: Iterable[tuple[int, int]]) -> int:
    """Number of matches by the greedy rule of pairs (true box, detection): by true box, then by falling IoU."""
    matched_objects = set()
    matched_detections = set()
    for i, j in pairs:
        if i not in matched_objects and j not in matched_detections:
            matched_objects.add(i)
            matched_detections.add(j)
    return len(matched_objects)


def select_floor(curve: pd.DataFrame, column: str = name_f1(0.5)) -> float:
    """The score floor with the highest mean over sets of the mean F1 per image; of equals the lowest.

    curve: rows of compute_floor_curve() with a column `set`. Each set counts the same.
    """
    by_set = curve.groupby(["score_floor", "set"])[column].mean()
    return float(by_set.groupby("score_floor").mean().idxmax())


def select_floors_by_fold(curve: pd.DataFrame, column: str = name_f1(0.5)) -> dict[int, float]:
    """The score floor for each fold, selected on the images of all other folds."""
    folds = sorted(curve["fold"].unique())
    return {fold: select_floor(curve[curve["fold"] != fold], column) for fold in folds if len(folds) > 1}


class Failures(NamedTuple):
    """Kinds of errors in an image at IoU 0.5: one of FAILURES or "" per true box, of FALSE_ALARMS or "" per detection.

    merged: a box without a match has most of this and of other true boxes in it, and is a merger. split: two or more
    detections without a match, the fragments, lie mostly in it. badly_placed: the best remaining box has an IoU of 0.1
    to 0.5. missed: none of these. duplicate: IoU of 0.5 or more with a true box that has a better match.
    """

    true: NDArray  # (m,) of text
    detected: NDArray  # (n,) of text


def classify_failures(detected: NDArray, true: NDArray) -> Failures:
    """The kinds of errors of an image, see Failures."""
    kinds = Failures(np.full(len(true), "", object), np.full(len(detected), "", object))
    matches = match_boxes(detected, true, 0.5).pairs
    is_open_detection = np.ones(len(detected), bool)
    is_open_detection[matches[:, 0]] = False
    is_open_object = np.ones(len(true), bool)
    is_open_object[matches[:, 1]] = False
    if len(detected) and len(true):
        _find_duplicates(kinds, detected, true, is_open_detection)
        _find_mergers_and_splits(kinds, detected, true, is_open_detection, is_open_object)
        _find_badly_placed(kinds, detected, true, is_open_detection, is_open_object)
    kinds.true[is_open_object] = "missed"
    kinds.detected[is_open_detection] = "false"
    return kinds


def _find_duplicates(kinds: Failures, detected: NDArray, true: NDArray, is_open_detection: NDArray) -> None:
    indices = np.unique(find_overlaps(detected, true, 0.5)[0])
    indices = indices[is_open_detection[indices]]
    kinds.detected[indices] = "duplicate"
    is_open_detection[indices] = False


def _find_mergers_and_splits(
    kinds: Failures, detected: NDArray, true: NDArray, is_open_detection: NDArray, is_open_object: NDArray
) -> None:
    share_of_object, share_of_detection = _compute_shares(detected, true)
    is_covered = share_of_object >= COVERED_SHARE
    for k in np.flatnonzero(is_open_detection & (is_covered.sum(axis=1) >= 2)):
        parts = np.flatnonzero(is_covered[k])
        if is_open_object[parts].any():
            kinds.detected[k] = "merger"
            is_open_detection[k] = False
            parts = parts[is_open_object[parts]]
            kinds.true[parts] = "merged"
            is_open_object[parts] = False
    for j in np.flatnonzero(is_open_object):
        parts = np.flatnonzero(is_open_detection & (share_of_detection[:, j] >= COVERED_SHARE))
        if len(parts) >= 2:
            kinds.true[j] = "split"
            is_open_object[j] = False
            kinds.detected[parts] = "fragment"
            is_open_detection[parts] = False


def _compute_shares(detected: NDArray, true: NDArray) -> tuple[NDArray, NDArray]:
    """Intersection / area of the true box and / area of the detection, both (n, m)."""
    iou = compute_iou(detected, true)
    detected_areas = compute_areas(detected)[:, None]
    true_areas = compute_areas(true)[None]
    intersection = iou * (detected_areas + true_areas) / (1 + iou)
    return intersection / np.maximum(true_areas, 1e-9), intersection / np.maximum(detected_areas, 1e-9)


def _find_badly_placed(
    kinds: Failures, detected: NDArray, true: NDArray, is_open_detection: NDArray, is_open_object: NDArray
) -> None:
    detections = np.flatnonzero(is_open_detection)
    objects = np.flatnonzero(is_open_object)
    pairs = match_boxes(detected[detections], true[objects], 0.1).pairs
    kinds.detected[detections[pairs[:, 0]]] = "badly_placed_box"
    kinds.true[objects[pairs[:, 1]]] = "badly_placed"
    is_open_detection[detections[pairs[:, 0]]] = False
    is_open_object[objects[pairs[:, 1]]] = False


def count_failures(kinds: Failures) -> dict[str, int]:
    """Numbers of every kind of FAILURES and FALSE_ALARMS in an image."""
    true = Counter(kinds.true.tolist())
    detected = Counter(kinds.detected.tolist())
    return {name: true[name] for name in FAILURES} | {name: detected[name] for name in FALSE_ALARMS}


class MaskedImage(NamedTuple):
    """True and detected masks of an image."""

    shape: tuple[int, int]
    masks: list[Mask]
    scores: NDArray  # (n,)
    run_lengths: Sequence[str]  # COCO's compressed RLE of n masks


def compute_set_mask_ap50(images: Sequence[MaskedImage]) -> float:
    """COCO's average precision of masks at IoU 0.5 without regard to classes; NaN without true objects."""
    truths = []
    detections = []
    for shape, masks, scores, run_lengths in images:
        order = np.argsort(-scores, kind="stable")
        encoded = [{"size": list(shape), "counts": run_lengths[k].encode("ascii")} for k in order]
        truths.append(GroundTruth(np.broadcast_to(np.float32(0), shape), masks, [1] * len(masks)))
        detections.append(Detections(np.zeros((len(order), 4)), scores[order], np.ones(len(order), int), encoded))
    return compute_mask_ap50(detections, truths)


def evaluate_prediction(rows: pd.DataFrame) -> dict[str, float]:
    """Errors of the predicted F1: n_predicted, mae, bias, spearman, coverage, mean_width, median_width.

    rows: true_f1, predicted_f1, predicted_f1_low, predicted_f1_high; those without either F1 do not count.
    """
    rows = rows.dropna(subset=["true_f1", "predicted_f1"])
    true = rows["true_f1"]
    low = rows["predicted_f1_low"]
    high = rows["predicted_f1_high"]
    error = rows["predicted_f1"] - true
    return {
        "n_predicted": len(rows),
        "mae": error.abs().mean(),
        "bias": error.mean(),
        "spearman": compute_rank_correlation(rows["predicted_f1"], true),
        "coverage": ((low <= true) & (true <= high)).mean() if len(rows) else np.nan,
        "mean_width": (high - low).mean(),
        "median_width": (high - low).median(),
    }


def evaluate_trust(rows: pd.DataFrame) -> dict[str, float]:
    """Precision and recall of trust, false junk, and images by verdict.

    rows: verdict, true_f1 (of the detector that the verdict is about) and best_f1 (the highest of all detectors of the
    run); both NaN for images without labels. An image is trusted correctly where its true_f1 reaches GOOD_F1. It could
    have been trusted where best_f1 does. trust_precision is NaN where no labelled image is trusted, trust_recall where
    none could have been.
    """
    is_trusted = rows["verdict"].eq("trust")
    is_trusted_label = is_trusted & rows["best_f1"].notna()
    is_possible = rows["best_f1"].ge(GOOD_F1)
    n_correct = int((is_trusted & rows["true_f1"].ge(GOOD_F1)).sum())
    return {
        "n_images": len(rows),
        "n_possible": int(is_possible.sum()),
        "n_trusted": int(is_trusted.sum()),
        "n_trusted_correctly": n_correct,
        "trust_precision": n_correct / is_trusted_label.sum() if is_trusted_label.any() else np.nan,
        "trust_recall": n_correct / is_possible.sum() if is_possible.any() else np.nan,
        **{f"n_{name}": int(rows["verdict"].eq(name).sum()) for name in ("review", "out_of_domain", "junk")},
    }


def evaluate_counts(detected: pd.Series, true: pd.Series) -> dict[str, float]:
    """Median relative error and Spearman's rank correlation of counts."""
    error = (detected - true).abs() / true
    return {
        "n_images": len(true),
        "median_count_error": error.median(),
        "median_count_ratio": (detected / true).median(),
        "count_spearman": compute_rank_correlation(detected, true),
    }


def compute_rank_correlation(a: pd.Series, b: pd.Series) -> float:
    """Spearman's; NaN where one of both does not vary."""
    return float(spearmanr(a, b).statistic) if a.nunique() > 1 and b.nunique() > 1 else np.nan


def summarise_by(rows: pd.DataFrame, columns: list[str], summarise: Callable[[pd.DataFrame], dict]) -> pd.DataFrame:
    """`summarise` of the rows of each group: a row per group, with `columns` first."""
    groups = rows.groupby(columns, sort=True)
    return pd.DataFrame([dict(zip(columns, key)) | summarise(part) for key, part in groups])
