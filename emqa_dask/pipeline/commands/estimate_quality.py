"""How right the detections of labelled images are, beside what was predicted of all: for estimates of F1 and trust."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from emqa_dask import models
from emqa_dask.pipeline.commands.calibrate_fit import MATCHING
from emqa_dask.pipeline.workspace.labelled_micrographs import read_table
from emqa_dask.pipeline.workspace.quality_models import select_fitting_models
from emqa_dask.predict.predictions import load_quality_model
from emqa_dask.predict.sparse_truth import compute_point_quality
from emqa_dask.predict.true_quality import compute_true_quality
from emqa_dask.review.labels.micrograph import LabelledMicrograph
from emqa_dask.settings import Settings
from emqa_dask.store.layout import Workspace

QUALITY = ["f1", "trusted", "has_f1"]  # columns of the totals of an image
RULES = ("points", "counts")  # of quality models that were not fitted to boxes
UNKNOWN = 0.5  # in the place of predictions where no image has any


def predict_quality(images: pd.DataFrame) -> pd.DataFrame:
    """`images` with QUALITY by predicted_f1 and f1_probability; without a prediction the mean of the covered images."""
    columns = {"f1": images["predicted_f1"], "trusted": images["f1_probability"]}
    means = {name: values[images["cover"].eq("")].mean() for name, values in columns.items()}
    completed = {name: values.fillna(means[name]).fillna(UNKNOWN) for name, values in columns.items()}
    return images.assign(**completed, has_f1=1.0)


def compute_quality(
    workspace: Workspace, settings: Settings, images: pd.DataFrame, labels: Mapping[str, LabelledMicrograph]
) -> pd.DataFrame:
    """QUALITY of labelled images by micrograph_id: true F1, whether it reaches triage.trust_f1, and whether it exists.

    An image with neither detections nor objects has no F1, and zeros. Boxes are matched by IoU and rule of the
    detector's quality model. All are NaN where a label has neither boxes nor points, or no detector ran.
    """
    rows = images[images["micrograph_id"].isin(labels) & images["detector"].notna()]
    has_objects = all(label.boxes is not None or label.points is not None for label in labels.values())
    if not has_objects or rows.empty:
        return pd.DataFrame(np.nan, pd.Index(list(labels)), QUALITY)
    detections = read_table(workspace, settings, "detections", rows)
    tables = []
    for detector, group in rows.groupby("detector"):
        own = detections[detections["detector"] == detector]
        truth = {key: labels[key] for key in group["micrograph_id"]}
        boxes = {key: label.boxes for key, label in truth.items() if label.boxes is not None}
        points = {key: label.points for key, label in truth.items() if key not in boxes}
        floor = settings.featurise.score_floor
        tables.append(compute_true_quality(own, boxes, *_find_matching(str(detector), settings), floor))
        tables.append(compute_point_quality(own, points, floor))
    true_f1 = pd.concat(tables).set_index("micrograph_id")["true_f1"].reindex(list(labels)).astype(float)
    is_trusted = true_f1.ge(settings.triage.trust_f1).astype(float)
    return pd.DataFrame({"f1": true_f1.fillna(0.0), "trusted": is_trusted, "has_f1": true_f1.notna().astype(float)})


def _find_matching(detector: str, settings: Settings) -> tuple[str, float]:
    """Rule and IoU of the first quality model of the detector that was fitted to boxes; MATCHING without one."""
    for name in select_fitting_models(settings.predict.models, settings.detect):
        if models.read_detector_and_floor(name)[0] == detector:
            model = load_quality_model(name)
            if model.rule not in RULES:
                return model.rule, model.iou_threshold
    return MATCHING[1], MATCHING[0]
