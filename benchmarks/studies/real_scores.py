"""Scores of detections on real labelled images: tables of images, score floors, sets and counts of cavities."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmarks.studies import real_metrics
from benchmarks.studies.real_detections import CORNERS, StudyDetector, read_detections
from benchmarks.studies.real_metrics import FAILURES, FALSE_ALARMS, IOUS, MaskedImage, name_f1
from benchmarks.studies.real_sets import CLASSES, CavityImage, RealImage

F1_COLUMNS = [name_f1(iou) for iou in IOUS]
LABELS = ["model", "set", "source", "fold", "image"]  # columns that identify a row of an image
ALL_FOLDS = -1  # in place of a fold: of a model that saw no real image, and of a set as a whole


class Judge(NamedTuple):
    """A model, or the models of all folds, under one name in the tables."""

    name: str
    detectors: dict[int, StudyDetector]  # by fold, or one for ALL_FOLDS

    def select_detector(self, fold: int) -> StudyDetector | None:
        """The detector that did not see the sources of `fold`; None without one."""
        return self.detectors.get(fold, self.detectors.get(ALL_FOLDS))


class Scores(NamedTuple):
    """Tables of one judge."""

    rows: pd.DataFrame  # per image, with LABELS
    curve: pd.DataFrame  # per image and score floor
    mask_ap50: dict[tuple[str, int], float]  # by set and fold, and by set and ALL_FOLDS


def score_images(judge: Judge, images: Sequence[RealImage], cache: Path, floor: float, say: Callable) -> Scores:
    """The scores of a judge on the images that it has a detector for; errors are counted at the score floor `floor`."""
    rows = []
    curves = []
    masked = []
    for fold in sorted({image.fold for image in images}):
        detector = judge.select_detector(fold)
        if detector is None:
            continue
        own_images = [image for image in images if image.fold == fold]
        detections = read_detections(detector, [image.path for image in own_images], cache, say)
        classes = detector.list_classes()
        for image in own_images:
            detected = detections[image.path]
            labels = dict(zip(LABELS, (judge.name, image.dataset, image.source, image.fold, image.name)))
            rows.append(labels | _score_image(image, detected, classes, floor))
            corners = detected[CORNERS].to_numpy(float)
            curve = real_metrics.compute_floor_curve(corners, detected["score"].to_numpy(float), image.boxes)
            curves.append(curve.assign(**labels))
            if image.has_masks and not detector.is_log:
                masked.append((image, detected))
    return Scores(pd.DataFrame(rows), pd.concat(curves, ignore_index=True), _compute_mask_ap50(masked))


def _score_image(image: RealImage, detected: pd.DataFrame, classes: Sequence[str], floor: float) -> dict:
    """Numbers of objects, F1, F1 of the detections of the image's class, and kinds of errors at the score floor."""
    counted = detected[detected["score"] >= floor]
    corners = counted[CORNERS].to_numpy(float)
    class_scores = dict.fromkeys(F1_COLUMNS, np.nan)
    if image.kind in classes:
        class_scores = real_metrics.compute_f1_by_iou(corners[counted["label"].eq(image.kind).to_numpy()], image.boxes)
    return {
        "n_true": len(image.boxes),
        "n_detections": len(counted),
        "median_true_side_px": float(np.median(np.sqrt(np.prod(image.boxes[:, 2:] - image.boxes[:, :2], axis=1)))),
        "longest_side_px": max(image.shape),
        **real_metrics.compute_f1_by_iou(corners, image.boxes),
        **{f"class_{name}": value for name, value in class_scores.items()},
        **real_metrics.count_failures(real_metrics.classify_failures(corners, image.boxes)),
        **{f"n_{name}": int(counted["label"].eq(name).sum()) for name in CLASSES},
    }


def _compute_mask_ap50(masked: Sequence[tuple[RealImage, pd.DataFrame]]) -> dict[tuple[str, int], float]:
    groups: dict[tuple[str, int], list[MaskedImage]] = {}
    for image, detected in masked:
        scores = detected["score"].to_numpy(float)
        item = MaskedImage(image.shape, image.masks, scores, detected["mask_rle"].tolist())
        for fold in (image.fold, ALL_FOLDS):
            groups.setdefault((image.dataset, fold), []).append(item)
    return {key: real_metrics.compute_set_mask_ap50(items) for key, items in groups.items()}


def summarise_sets(scores: Scores) -> pd.DataFrame:
    """A row per set, and per set and fold, of one judge: means per image at the score floor of rows, and at others.

    selected_*: at the score floor that is best on the images of all other folds. best_*: at the score floor that is
    best on the set itself, as a bound of what a floor can do.
    """
    floors = real_metrics.select_floors_by_fold(scores.curve)
    is_selected = scores.curve["score_floor"] == scores.curve["fold"].map(floors)
    selected = scores.curve[is_selected].set_index("image")
    rows = scores.rows.join(selected[F1_COLUMNS].add_prefix("selected_"), on="image")
    rows["selected_floor"] = rows["fold"].map(floors)
    tables = [rows, rows.assign(fold=ALL_FOLDS)]
    keys = ["model", "set", "fold"]
    table = pd.concat([real_metrics.summarise_by(part, keys, _summarise_set) for part in tables], ignore_index=True)
    curves = pd.concat([scores.curve, scores.curve.assign(fold=ALL_FOLDS)])
    best = curves.groupby([*keys, "score_floor"])[F1_COLUMNS].mean().reset_index()
    best = best.loc[best.groupby(keys)[name_f1(0.5)].idxmax()]
    best = best.rename(columns={name: f"best_{name}" for name in (*F1_COLUMNS, "score_floor")})
    table = table.merge(best, on=keys, how="left")
    table["mask_ap50"] = [scores.mask_ap50.get(key, np.nan) for key in zip(table["set"], table["fold"])]
    return table.sort_values(keys, ignore_index=True)


def _summarise_set(rows: pd.DataFrame) -> dict[str, float]:
    n_true = rows["n_true"].sum()
    n_detections = max(rows["n_detections"].sum(), 1)
    columns = [*F1_COLUMNS, *(f"selected_{name}" for name in F1_COLUMNS), *(f"class_{name}" for name in F1_COLUMNS)]
    return {
        "n_images": len(rows),
        "n_sources": rows["source"].nunique(),
        "n_true": int(n_true),
        "n_detections": int(rows["n_detections"].sum()),
        "n_good": int((rows[name_f1(real_metrics.PAPER_IOU)] >= real_metrics.GOOD_F1).sum()),
        **{name: rows[name].mean() for name in columns},
        "selected_floor": rows["selected_floor"].mean(),
        **{f"share_{name}": rows[name].sum() / n_true for name in FAILURES},
        **{f"share_{name}": rows[name].sum() / n_detections for name in FALSE_ALARMS},
    }


def count_cavities(
    detector: StudyDetector, images: Sequence[CavityImage], cache: Path, floors: Sequence[float], say: Callable
) -> pd.DataFrame:
    """Errors of the counts of a detector for each score floor and folder, of its class cavity and of all classes."""
    detections = read_detections(detector, [image.path for image in images], cache, say)
    rows = []
    for image in images:
        detected = detections[image.path]
        is_cavity = detected["label"].eq("cavity")
        for floor in floors:
            is_counted = detected["score"] >= floor
            counts = {"all": is_counted.sum(), "cavity": (is_counted & is_cavity).sum()}
            for name, count in counts.items():
                row = {"set": image.name.partition("/")[0], "image": image.name, "counted": name, "score_floor": floor}
                rows.append(row | {"n_detections": int(count), "n_true": image.n_cavities})
    table = pd.DataFrame(rows)
    if "cavity" not in detector.list_classes():
        table = table[table["counted"] == "all"]
    both = pd.concat([table, table.assign(set="both")])
    return real_metrics.summarise_by(
        both,
        ["set", "counted", "score_floor"],
        lambda part: real_metrics.evaluate_counts(part["n_detections"], part["n_true"]),
    ).assign(model=detector.name)
