"""Decisions that count: the last of each reviewer on an image, together, and how far reviewers agree."""

from collections.abc import Iterable
from itertools import combinations

import numpy as np
import pandas as pd

from emqa_dask.boxes import match_boxes

IMAGE = ["uri", "frame", "pixel_sha256"]  # what an image is identified by
DECISIVE = ("accept", "reject")
CONTRADICTORY = "contradictory"
AGREEMENT_COLUMNS = ["first_reviewer", "second_reviewer", "n_images", "n_agreeing", "kappa", "n_boxed", "box_f1"]
MIN_IOU = 0.5  # of two boxes of one object, as in COCO's first threshold


def select_current(decisions: pd.DataFrame) -> pd.DataFrame:
    """Rows of tables.DECISIONS: the last decision of each reviewer on each image that was not taken back.

    A row that takes back a decision is none itself, and only a reviewer's own decisions can be taken back. The rows are
    in the order of time.
    """
    undone = decisions[decisions["undoes"].notna()]
    pairs = pd.MultiIndex.from_frame(undone[["undoes", "reviewer"]])
    is_undone = pd.MultiIndex.from_frame(decisions[["decision_id", "reviewer"]]).isin(pairs)
    valid_rows = decisions[decisions["undoes"].isna() & ~is_undone].sort_values(["time", "decision_id"])
    return valid_rows.drop_duplicates([*IMAGE, "reviewer"], keep="last").reset_index(drop=True)


def resolve(current: pd.DataFrame) -> pd.DataFrame:
    """A row per image of `current` (select_current()): its last decisive decision, with `reviewers` and `is_resolved`.

    Unsure reviewers leave the decision to the others. Where one accepts and another rejects, the decision is
    CONTRADICTORY and has no objects. Of several who accept, the objects of the last one count.
    """
    is_decisive = current["decision"].isin(DECISIVE)
    ordered = current.assign(is_decisive=is_decisive).sort_values(["is_decisive", "time", "decision_id"])
    groups = ordered.groupby(IMAGE, sort=False)
    reviewers = groups["reviewer"].agg(lambda names: tuple(sorted(names)))
    n_kinds = ordered[ordered["is_decisive"]].groupby(IMAGE, sort=False)["decision"].nunique()
    rows = ordered.drop_duplicates(IMAGE, keep="last").set_index(IMAGE)
    is_contradictory = n_kinds.reindex(rows.index, fill_value=0).gt(1)
    rows = rows.assign(reviewers=reviewers.reindex(rows.index))
    rows.loc[is_contradictory, "decision"] = CONTRADICTORY
    rows["objects"] = rows["objects"].where(~is_contradictory, None)
    return rows.drop(columns=["is_decisive"]).reset_index().sort_values("time", ignore_index=True)


def compute_agreement(current: pd.DataFrame) -> pd.DataFrame:
    """AGREEMENT_COLUMNS of every two reviewers with images in common: Cohen's kappa, and mean F1 of their boxes.

    kappa is that of accept, reject and unsure; NaN where both have said the same of all images. The F1 is that of the
    images for which both have stated boxes, matched one to one at an IoU of MIN_IOU.
    """
    rows = []
    for first, second in combinations(sorted(current["reviewer"].unique()), 2):
        sides = [current[current["reviewer"] == name] for name in (first, second)]
        common = sides[0].merge(sides[1], on=IMAGE, suffixes=("_first", "_second"))
        if common.empty:
            continue
        decided = common["decision_first"], common["decision_second"]
        scores = [compute_box_f1(*pair) for pair in zip(common["objects_first"], common["objects_second"], strict=True)]
        scores = [score for score in scores if score is not None]
        n_agreeing = int((decided[0] == decided[1]).sum())
        mean_score = float(np.mean(scores)) if scores else np.nan
        values = [first, second, len(common), n_agreeing, compute_kappa(*decided), len(scores), mean_score]
        rows.append(dict(zip(AGREEMENT_COLUMNS, values, strict=True)))
    return pd.DataFrame(rows, columns=AGREEMENT_COLUMNS)


def compute_kappa(first: pd.Series, second: pd.Series) -> float:
    """Cohen's kappa of two lists of categories of the same images; NaN where chance alone explains full agreement."""
    table = pd.crosstab(first.to_numpy(object), second.to_numpy(object))
    kinds = table.index.union(table.columns)
    counts = table.reindex(index=kinds, columns=kinds, fill_value=0).to_numpy(float)
    total = counts.sum()
    observed = np.trace(counts) / total
    expected = counts.sum(axis=0) @ counts.sum(axis=1) / total**2
    return float((observed - expected) / (1 - expected)) if expected < 1 else np.nan


def compute_box_f1(first: Iterable[dict] | None, second: Iterable[dict] | None) -> float | None:
    """F1 of two lists of objects as boxes; 1 where both are empty, None where one has points or is missing."""
    boxes = [list_boxes(objects) for objects in (first, second)]
    if boxes[0] is None or boxes[1] is None:
        return None
    if not len(boxes[0]) and not len(boxes[1]):
        return 1.0
    return match_boxes(boxes[0], boxes[1], MIN_IOU, "optimal").f1


def list_boxes(objects: Iterable[dict] | None) -> np.ndarray | None:
    """(n, 4) y0, x0, y1, x1 of objects of a decision; None where they are missing or one of them is a point."""
    if objects is None:
        return None
    boxes = np.array([[entry[name] for name in ("y0", "x0", "y1", "x1")] for entry in objects], float).reshape(-1, 4)
    return None if (boxes[:, 2] <= boxes[:, 0]).any() else boxes
