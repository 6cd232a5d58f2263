"""How far several detectors say the same of one image."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from emqa_dask.boxes import match_boxes

IOU_THRESHOLD = 0.3


def compute_agreement(boxes: Mapping[str, ArrayLike]) -> dict[str, float]:
    """F1 of each detector's boxes (n x 4: y0, x0, y1, x1) against each other one's, and of these the mean.

    Boxes are matched one to one, optimally, at an IoU of IOU_THRESHOLD; F1 does not ask which of two is right. Two
    detectors that found nothing agree: 1. A detector alone has NaN.
    """
    found: dict[str, list[float]] = {name: [] for name in boxes}
    names = list(boxes)
    for k, one in enumerate(names):
        for other in names[k + 1 :]:
            f1 = match_boxes(boxes[one], boxes[other], IOU_THRESHOLD, "optimal").f1
            f1 = 1.0 if np.isnan(f1) else f1
            found[one].append(f1)
            found[other].append(f1)
    return {name: float(np.mean(of)) if of else float("nan") for name, of in found.items()}
