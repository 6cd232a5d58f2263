"""The table of the study from a workspace and labels: a row for each image and split, without running a detector."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from emqa_dask.measure.swelling import compute_swelling
from emqa_dask.number_ranges import check_number
from emqa_dask.pipeline.commands.calibrate_fit import MATCHING, make_features
from emqa_dask.pipeline.studies.f1 import splits
from emqa_dask.pipeline.workspace.detectors import name_detectors
from emqa_dask.pipeline.workspace.labelled_micrographs import LabelledMicrographs, read_labelled
from emqa_dask.pixel_sides import compute_pixel_side_nm
from emqa_dask.predict.true_quality import iter_counted_boxes, join_labels
from emqa_dask.settings import Settings
from emqa_dask.store import lock, marker
from emqa_dask.store.layout import Workspace
from emqa_dask.tables import DETECTION_FEATURES

COLUMNS = ("image", "split", "true_f1", "precision", "recall", *DETECTION_FEATURES)


class StudyRows(NamedTuple):
    """Rows of the study, and what is said of them."""

    table: pd.DataFrame  # COLUMNS, and swelling_error where it is known
    facts: dict[str, Any]
    notes: list[str]


def make_study_rows(
    root: str,
    labels: Sequence[str],
    settings: Settings,
    plan: splits.SplitPlan,
    detectors: Sequence[str] = (),
    iou_threshold: float | None = None,
) -> StudyRows:
    """The rows of a workspace's labelled images, a split for each detector and test set.

    F1, precision and recall by the published rule, greedy at an IoU of 0.1, unless another one is given; points and
    counts as in predict.sparse_truth. The score floor is that of the settings. Raises ValueError for labels of other
    images, for names in `plan` and `detectors` that the run does not have, and without any row.
    """
    workspace = Workspace(root)
    marker.read_source(root)
    if iou_threshold is not None:
        check_number("--iou", iou_threshold, 0, 1)
    names = splits.select_detectors(plan, list(name_detectors(settings.detect)), detectors)
    with lock.hold_lock(root, lambda text: None):
        labelled = read_labelled(workspace, settings, list(labels))
        if labelled.count_objects() == 0:
            raise ValueError(
                f"{', '.join(labelled.files)}: none of its {len(labelled.rows)} images has an object: label what the "
                "detector shall find"
            )
        matching = (MATCHING[0] if iou_threshold is None else iou_threshold, MATCHING[1])
        notes = [*labelled.lines]
        parts = [_make_detector_rows(workspace, labelled, settings, plan, name, matching, notes) for name in names]
    table = pd.concat(parts, ignore_index=True)
    if table.empty:
        raise ValueError(f"{root}: no labelled image has detections of {', '.join(names)}: there is nothing to study")
    if table["swelling_error"].isna().all():
        table = table.drop(columns="swelling_error")
    facts = {
        "labels": list(labelled.files),
        "kind_of_labels": labelled.kind,
        "n_labelled": len(labelled.rows),
        "detectors": names,
        "score_floor": settings.featurise.score_floor,
        "iou_threshold": matching[0] if labelled.kind == "boxes" else None,
        "rule": matching[1] if labelled.kind == "boxes" else labelled.kind,
    }
    return StudyRows(table, facts, notes)


def _make_detector_rows(
    workspace: Workspace,
    labelled: LabelledMicrographs,
    settings: Settings,
    plan: splits.SplitPlan,
    detector: str,
    matching: tuple[float, str],
    notes: list[str],
) -> pd.DataFrame:
    """Rows of one detector; adds to `notes`."""
    empty = pd.DataFrame(columns=[*COLUMNS, "swelling_error"])
    features = make_features(workspace, labelled.rows, labelled.features, settings, detector)
    truth = labelled.compute_quality(detector, settings.featurise.score_floor, *matching)
    is_covered = truth["micrograph_id"].isin(features["micrograph_id"])
    if not is_covered.all():
        notes.append(f"{detector}: {(~is_covered).sum()} labelled images failed, or the detector did not look at them")
    if not is_covered.any():
        return empty
    rows, left_out = join_labels(features, truth[is_covered])
    notes += [f"{detector}: {note}" for note in left_out]
    ledger = labelled.rows.set_index("micrograph_id")
    uris = rows["micrograph_id"].map(ledger["uri"])
    sets = splits.assign_test_sets(plan, uris)
    if not plan.tested:
        sets, own_notes = splits.unite_small_folders(sets)
        notes += [f"{detector}: {note}" for note in own_notes]
    elif sets.isna().any():
        notes.append(f"{detector}: {sets.isna().sum()} labelled images are in no set of --test-on")
    first_uris = labelled.rows.groupby("content_sha256")["uri"].transform("first")
    images = dict(zip(labelled.rows["micrograph_id"], first_uris, strict=True))  # copies of a file are one image
    rows = rows.assign(
        image=rows["micrograph_id"].map(images),
        split=f"{splits.name_training_set(plan, detector)}_" + sets,
        swelling_error=_compute_swelling_errors(labelled, settings, detector, rows["micrograph_id"]),
    )
    if labelled.kind != "counts":
        rows["recall"] = rows["recall"].fillna(0)  # of images without objects, where nothing can be found
    return rows.loc[sets.notna(), [*COLUMNS, "swelling_error"]]


def _compute_swelling_errors(
    labelled: LabelledMicrographs, settings: Settings, detector: str, micrograph_ids: pd.Series
) -> pd.Series:
    """Swelling by the detected boxes minus that by the labelled ones, percentage points; NaN where it is unknown.

    A box counts as a sphere whose diameter is the geometric mean of its sides, in the detections and in the labels.
    """
    thickness_nm = settings.measure.foil_thickness_nm
    if labelled.kind != "boxes" or not thickness_nm:
        return pd.Series(np.nan, micrograph_ids.index)
    detections = labelled.detections[labelled.detections["detector"] == detector]
    ledger = labelled.rows.set_index("micrograph_id")
    sides_nm = pd.Series(compute_pixel_side_nm(ledger["nm_per_pixel"], ledger["nm_per_pixel_y"]), ledger.index)
    errors = {}
    for name, true, predicted in iter_counted_boxes(detections, labelled.truth, settings.featurise.score_floor):
        side_nm = float(sides_nm[name])
        area_nm2 = float(ledger["height_px"][name] * ledger["width_px"][name]) * side_nm**2
        volumes = [sum_volumes(corners, side_nm) for corners in (predicted, true)]
        detected, labelled_truth = compute_swelling(volumes, area_nm2, thickness_nm)[0]
        errors[name] = detected - labelled_truth
    return micrograph_ids.map(errors)


def sum_volumes(corners, side_nm: float) -> float:
    """Volume of spheres in boxes (n, 4: y0, x0, y1, x1), nm^3."""
    boxes = np.asarray(corners, dtype=np.float64).reshape(-1, 4)
    diameters = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])) * side_nm
    return float((np.pi / 6 * diameters**3).sum())
