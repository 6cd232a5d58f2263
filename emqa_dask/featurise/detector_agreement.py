"""Agreement of several detectors on one image."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from emqa_dask.boxes import match_boxes

IOU_THRESHOLD = 0.3  # of two boxes of one object: lower than among true boxes, since detectors outline differently


def compute_agreement(boxes: Mapping[str, ArrayLike]) -> dict[str, float]:
    """Mean F1 of each detector's boxes (n x 4: y0, x0, y1, x1) against those of the other detectors.

    Boxes are matched one to one, optimally, at an IoU of IOU_THRESHOLD; F1 is symmetric, so neither detector counts as
    the truth. Two detectors without detections agree: 1. NaN for a single detector.
    """
    f1_by_detector: dict[str, list[float]] = {name: [] for name in boxes}
    names = list(boxes)
    for k, name in enumerate(names):
        for other_name in names[k + 1 :]:
            f1 = match_boxes(boxes[name], boxes[other_name], IOU_THRESHOLD, "optimal").f1
            f1 = 1.0 if np.isnan(f1) else f1
            f1_by_detector[name].append(f1)
            f1_by_detector[other_name].append(f1)
    return {name: float(np.mean(values)) if values else float("nan") for name, values in f1_by_detector.items()}
