"""The 18 features of an image's detections, from which a forest predicts the detector's F1."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from emqa_dask import boxes as bx
from emqa_dask.tables import DETECTION_FEATURES, SCORE_BINS

# Not np.arange(0.1, 1.0, 0.1), whose third edge is 0.30000000000000004: a score of 0.3 belongs to [0.3, 0.4).
SCORE_EDGES = np.arange(1, 10) / 10


def detection_features(
    boxes: ArrayLike,
    scores: ArrayLike,
    image_shape: tuple[int, int],
    masks: Sequence[NDArray] | None = None,
    *,
    circularity: ArrayLike | None = None,
) -> dict[str, float]:
    """The features `tables.DETECTION_FEATURES` of one image, as floats (n_detections too).

    boxes: n x 4, y0, x0, y1, x1, px; scores: n, in [0, 1]; image_shape: (height, width), px; masks: n boolean arrays
    of any shape, one object each, in the order of the boxes; `circularity`: n, where it is known already.

    - `score_fraction_k`, k = 0...8: the fraction of scores in [0.1, 0.2), ..., [0.9, 1.0]. Scores below 0.1 count in
      no bin but in everything else, so detections are cut at a score floor first.
    - `area_ratio`: sum(a) / (H W), a the area of the box (never the mask's); overlaps count twice, it can exceed 1.
    - `image_confidence`: sum(a s) / sum(a). `mean_score`, `std_score` of s; `mean_size`, `std_size` of a / (H W);
      all with ddof = 0.
    - `mean_circularity`, `std_circularity`: Heywood's P / (2 sqrt(pi A)), 1 for a disk and larger for all else, of the
      convex hull of each mask's pixels; without masks of the ellipse inscribed in the box, since a blob detector's
      object is a disk and its box still says when it is not.

    No detections: fractions, area_ratio and n_detections are 0 (zero is known), the others NaN (nothing to average).
    Raises ValueError for malformed boxes, scores outside [0, 1], unequal lengths and an image without pixels.
    Li et al., Digital Discovery 4 (2025) 987; definitions as in the released code.
    """
    boxes = bx.as_boxes(boxes)
    scores = np.asarray(scores)
    height, width = image_shape
    n = len(boxes)
    if scores.shape != (n,):
        raise ValueError(f"scores have shape {scores.shape} for {n} boxes")
    if masks is not None and len(masks) != n:
        raise ValueError(f"{len(masks)} masks for {n} boxes")
    if height < 1 or width < 1:
        raise ValueError(f"image_shape is {image_shape}: it needs at least one pixel")
    if n == 0:
        known = dict.fromkeys((*SCORE_BINS, "n_detections", "area_ratio"), 0.0)
        return {name: known.get(name, np.nan) for name in DETECTION_FEATURES}
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("scores have to be in [0, 1]")
    # The edges take the scores' dtype, so that a float32 0.7 is in the bin of 0.7.
    bins = np.searchsorted(SCORE_EDGES.astype(scores.dtype if scores.dtype.kind == "f" else float), scores, "right")
    scores = scores.astype(np.float64)
    areas = bx.compute_areas(boxes)
    sizes = areas / (height * width)
    if circularity is None:
        circularity = _ellipse_circularity(boxes) if masks is None else _hull_circularity(masks)
    circularity = np.asarray(circularity, np.float64)
    if circularity.shape != (n,):
        raise ValueError(f"circularity has shape {circularity.shape} for {n} boxes")
    total = areas.sum()
    return {
        **dict(zip(SCORE_BINS, (np.bincount(bins, minlength=10)[1:] / n).tolist())),
        "n_detections": float(n),
        "area_ratio": float(sizes.sum()),
        "image_confidence": float(areas @ scores / total) if total > 0 else np.nan,
        "mean_score": float(scores.mean()),
        "std_score": float(scores.std()),
        "mean_size": float(sizes.mean()),
        "std_size": float(sizes.std()),
        **_mean_and_std(circularity),
    }


def _mean_and_std(circularity: NDArray) -> dict[str, float]:
    known = circularity[np.isfinite(circularity)]
    mean, std = (known.mean(), known.std()) if known.size else (np.nan, np.nan)
    return {"mean_circularity": float(mean), "std_circularity": float(std)}


def _ellipse_circularity(boxes: NDArray) -> NDArray[np.float64]:
    """Heywood's circularity of the ellipses inscribed in n boxes; NaN for boxes without area."""
    a, b = (boxes[:, 2:] - boxes[:, :2]).T / 2
    # Ramanujan's perimeter; its relative error is below 1e-3 up to an aspect of 1:20, and 0 for a circle.
    perimeter = np.pi * (3 * (a + b) - np.sqrt((3 * a + b) * (a + 3 * b)))
    equal_circle = 2 * np.pi * np.sqrt(a * b)
    return np.divide(perimeter, equal_circle, out=np.full(len(a), np.nan), where=equal_circle > 0)


def _hull_circularity(masks: Sequence[NDArray]) -> NDArray[np.float64]:
    """Heywood's circularity of the convex hulls of n masks, pixels taken as unit squares; NaN for empty masks."""
    found = np.full(len(masks), np.nan)
    for k, mask in enumerate(masks):
        y, x = np.nonzero(mask)
        if len(y):
            corners = np.concatenate([np.column_stack([x + i, y + j]) for i in (0, 1) for j in (0, 1)])
            hull = cv2.convexHull(corners.astype(np.int32))
            found[k] = cv2.arcLength(hull, True) / (2 * np.sqrt(np.pi * cv2.contourArea(hull)))
    return found
