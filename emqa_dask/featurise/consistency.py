"""How consistent the detections of an image are: with those in a copy of the image, and among the classes."""

import numpy as np
from numpy.typing import NDArray

from emqa_dask.tables import CONSISTENCY_FEATURES


def summarise_consistency(stability: NDArray, class_margin: NDArray, labels: NDArray) -> dict[str, float]:
    """CONSISTENCY_FEATURES of n detections of one detector.

    stability, class_margin: (n,) float64, NaN where they are unknown; labels: (n,) of text. NaN without detections.
    """
    if len(labels) == 0:
        return dict.fromkeys(CONSISTENCY_FEATURES, float("nan"))
    counts = np.unique(labels.astype(str), return_counts=True)[1]
    return {
        "mean_stability": float(stability.mean()),
        "mean_class_margin": float(class_margin.mean()),
        "label_purity": float(counts.max() / len(labels)),
    }
