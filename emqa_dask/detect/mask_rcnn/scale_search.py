"""The scale at which the network sees an image best: small objects are enlarged, large ones reduced.

A network is surest of objects as large as those that it was trained on. The scale with the highest mean score is
taken; the search goes from 1 up where objects are small, and down where they are not.
"""

from collections.abc import Callable, Sequence

import numpy as np

from emqa_dask.detect.mask_rcnn.image_result import ImageResult

SMALL_PX = 32.0  # median side of the boxes at scale 1, below which an image is enlarged, else reduced
SURE_SCORE = 0.9  # mean, from which small objects are clear enough: enlarging costs four times the pixels

Examine = Callable[[list[int], float], list[ImageResult]]


def measure_median_side(result: ImageResult) -> float:
    """Median over the selected detections of the side of a square with the area of a box, px; infinite without any."""
    boxes = result.detections[["y0", "x0", "y1", "x1"]].head(result.n_selected).to_numpy(float)
    if not len(boxes):
        return np.inf
    return float(np.median(np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))))


def list_steps(result: ImageResult, scales: Sequence[float]) -> list[float]:
    """Scales to try after scale 1 gave `result`, in order; none where it is sure of small objects."""
    if measure_median_side(result) >= SMALL_PX:
        return sorted((scale for scale in scales if scale < 1), reverse=True)
    if result.mean_score >= SURE_SCORE:
        return []
    return sorted(scale for scale in scales if scale > 1)


def search_scales(examine: Examine, n_images: int, scales: Sequence[float]) -> list[ImageResult]:
    """The result of every image at its scale of `scales`; `examine` gives those of images (by number) at one scale.

    A step that does not raise the mean score of an image is its last. Images that try the same scale go together.
    """
    results = examine(list(range(n_images)), 1.0)
    steps = {k: list_steps(result, scales) for k, result in enumerate(results)}
    while waiting := {k: rest for k, rest in steps.items() if rest}:
        scale = next(iter(waiting.values()))[0]
        numbers = [k for k, rest in waiting.items() if rest[0] == scale]
        for k, result in zip(numbers, examine(numbers, scale), strict=True):
            if result.mean_score > results[k].mean_score:
                results[k] = result
                steps[k] = steps[k][1:]
            else:
                steps[k] = []
    return results
