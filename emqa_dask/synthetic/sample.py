"""A synthetic micrograph with its known answer: image, exact boxes, masks, labels, pixel size."""

from dataclasses import dataclass, field

import numpy as np

Mask = tuple[
    int, int, np.ndarray
]  # (y0, x0, crop): the object's pixels inside the image, rows from y0, columns from x0


@dataclass(frozen=True)
class Sample:
    """A micrograph and what is in it.

    `image` is 2-D uint8, uint16 or float32. `boxes` is n x 4 float64, `y0, x0, y1, x1`, half-open, px: the tight boxes
    of `masks`. `masks` are bool crops `(y0, x0, crop)`, one an object, so that overlapping objects keep whole masks.
    `labels` has a class name an object. `nm_per_pixel` is positive. `meta` holds what was drawn: family, lot, defocus,
    sizes, sites, dose, ...
    """

    image: np.ndarray
    boxes: np.ndarray
    masks: list[Mask]
    labels: list[str]
    nm_per_pixel: float
    meta: dict = field(default_factory=dict)


def trim_mask(y0: int, x0: int, patch: np.ndarray, shape: tuple[int, int]) -> Mask | None:
    """The mask clipped to an image of `shape` and cut to its tight box; None when no pixel is left."""
    top, left = max(0, -y0), max(0, -x0)
    crop = patch[top : max(top, shape[0] - y0), left : max(left, shape[1] - x0)]
    rows, columns = np.flatnonzero(crop.any(axis=1)), np.flatnonzero(crop.any(axis=0))
    if rows.size == 0:
        return None
    tight = np.ascontiguousarray(crop[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    return int(y0 + top + rows[0]), int(x0 + left + columns[0]), tight


def compute_tight_boxes(masks: list[Mask]) -> np.ndarray:
    """Boxes of trimmed masks: n x 4 float64, `y0, x0, y1, x1`, half-open; 0 x 4 for no mask."""
    boxes = [(y0, x0, y0 + crop.shape[0], x0 + crop.shape[1]) for y0, x0, crop in masks]
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def merge_masks(masks: list[Mask], shape: tuple[int, int]) -> np.ndarray:
    """The union of `masks` as one bool image of `shape`."""
    union = np.zeros(shape, dtype=bool)
    for y0, x0, crop in masks:
        union[y0 : y0 + crop.shape[0], x0 : x0 + crop.shape[1]] |= crop
    return union


def draw_log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """One number whose logarithm is uniform between those of `low` and `high`."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def use_given(value, fallback):
    """`value` unless it is None, then `fallback`; drawn all the same, so that one choice never shifts the rest."""
    return fallback if value is None else value
