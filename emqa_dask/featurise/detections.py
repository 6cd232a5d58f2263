"""Features of an image's detections, from which a quality model predicts F1."""

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
    """Features of one image's detections, `tables.DETECTION_FEATURES`, from which a quality model predicts F1.

    - `score_fraction_k`, k = 0...8: fraction of the scores in [0.1, 0.2), ..., [0.9, 1.0]. Scores below 0.1 are in no
      bin, but count in everything else, so cut detections at a score floor first.
    - `area_ratio`: sum(a) / (H W), a the area of the box (never the mask's). Overlaps count twice; it can exceed 1.
    - `image_confidence`: sum(a s) / sum(a). `mean_score`, `std_score` of s; `mean_size`, `std_size` of a / (H W);
      all with ddof = 0.
    - `mean_circularity`, `std_circularity`: Heywood's P / (2 sqrt(pi A)), 1 for a disk and larger for all else, of the
      convex hull of each mask's pixels; without masks of the ellipse inscribed in the box.

    Parameters
    ----------
    boxes : array (n, 4)
        y0, x0, y1, x1, px.
    scores : array (n,)
        In [0, 1].
    image_shape : tuple of int
        Height and width, px.
    masks : sequence of n boolean arrays, optional
        One object each, of any shape, in the order of the boxes.
    circularity : array (n,), optional
        Heywood's circularity of the objects where it was computed before; masks are not used then.

    Returns
    -------
    dict of str to float
        Without detections fractions, `area_ratio` and `n_detections` are 0 and the others NaN.

    Raises
    ------
    ValueError
        For malformed boxes, scores outside [0, 1], unequal lengths and an image without pixels.

    References
    ----------
    Li et al., Digital Discovery 4 (2025) 987; definitions as in the released code.
    """
    boxes = bx.as_boxes(boxes)
    scores = np.asarray(scores)
    _check_lengths(len(boxes), scores, image_shape, masks)
    if len(boxes) == 0:
        zeros = dict.fromkeys((*SCORE_BINS, "n_detections", "area_ratio"), 0.0)
        return {name: zeros.get(name, np.nan) for name in DETECTION_FEATURES}
    if circularity is None:
        circularity = _compute_ellipse_circularity(boxes) if masks is None else _compute_hull_circularity(masks)
    circularity = np.asarray(circularity, np.float64)
    if circularity.shape != scores.shape:
        raise ValueError(f"circularity has shape {circularity.shape} for {len(boxes)} boxes")
    return _compute_features(boxes, scores, circularity, image_shape)


def _check_lengths(n: int, scores: NDArray, image_shape: tuple[int, int], masks: Sequence[NDArray] | None) -> None:
    """ValueError unless `scores`, in [0, 1], and `masks` belong to `n` boxes and the image has pixels."""
    if scores.shape != (n,):
        raise ValueError(f"scores have shape {scores.shape} for {n} boxes")
    if masks is not None and len(masks) != n:
        raise ValueError(f"{len(masks)} masks for {n} boxes")
    if min(image_shape) < 1:
        raise ValueError(f"image_shape is {image_shape}: it needs at least one pixel")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("scores have to be in [0, 1]")


def _compute_features(
    boxes: NDArray, scores: NDArray, circularity: NDArray[np.float64], image_shape: tuple[int, int]
) -> dict[str, float]:
    """The features of at least one detection, from values that were checked."""
    score_fractions = _compute_score_fractions(scores)
    scores = scores.astype(np.float64)
    areas = bx.compute_areas(boxes)
    sizes = areas / (image_shape[0] * image_shape[1])
    total = areas.sum()
    return {
        **score_fractions,
        "n_detections": float(len(boxes)),
        "area_ratio": float(sizes.sum()),
        "image_confidence": float(areas @ scores / total) if total > 0 else np.nan,
        "mean_score": float(scores.mean()),
        "std_score": float(scores.std()),
        "mean_size": float(sizes.mean()),
        "std_size": float(sizes.std()),
        **_summarise_circularity(circularity),
    }


def _compute_score_fractions(scores: NDArray) -> dict[str, float]:
    # The edges take the scores' dtype, so that a float32 0.7 is in the bin of 0.7.
    edges = SCORE_EDGES.astype(scores.dtype if scores.dtype.kind == "f" else float)
    bins = np.searchsorted(edges, scores, "right")
    return dict(zip(SCORE_BINS, (np.bincount(bins, minlength=10)[1:] / len(scores)).tolist()))


def _summarise_circularity(circularity: NDArray) -> dict[str, float]:
    finite_circularity = circularity[np.isfinite(circularity)]
    return {
        "mean_circularity": float(finite_circularity.mean()) if finite_circularity.size else float("nan"),
        "std_circularity": float(finite_circularity.std()) if finite_circularity.size else float("nan"),
    }


def _compute_ellipse_circularity(boxes: NDArray) -> NDArray[np.float64]:
    """Heywood's circularity of the ellipses inscribed in n boxes; NaN for boxes without area."""
    a, b = (boxes[:, 2:] - boxes[:, :2]).T / 2
    # Ramanujan's perimeter; its relative error is below 1e-3 up to an aspect of 1:20, and 0 for a circle.
    perimeter = np.pi * (3 * (a + b) - np.sqrt((3 * a + b) * (a + 3 * b)))
    equal_circle = 2 * np.pi * np.sqrt(a * b)
    return np.divide(perimeter, equal_circle, out=np.full(len(a), np.nan), where=equal_circle > 0)


def _compute_hull_circularity(masks: Sequence[NDArray]) -> NDArray[np.float64]:
    """Heywood's circularity of the convex hulls of n masks, pixels taken as unit squares; NaN for empty masks."""
    circularity = np.full(len(masks), np.nan)
    for k, mask in enumerate(masks):
        y, x = np.nonzero(mask)
        if len(y):
            corners = np.concatenate([np.column_stack([x + i, y + j]) for i in (0, 1) for j in (0, 1)])
            hull = cv2.convexHull(corners.astype(np.int32))
            circularity[k] = cv2.arcLength(hull, True) / (2 * np.sqrt(np.pi * cv2.contourArea(hull)))
    return circularity
