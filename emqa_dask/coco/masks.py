"""Masks of COCO annotations: polygons, run lengths, and the ellipse of an annotation with a box alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from emqa_dask.coco.values import format_value, parse_numbers
from emqa_dask.mask_runs import decode_objects, draw_runs

Mask = tuple[int, int, np.ndarray]  # (y0, x0, crop): one object's pixels, as bool, rows from y0, columns from x0
TOLERANCE_PX = 1.0  # by which a box may reach out of its image, as rounded coordinates do
NO_PIXEL = "its mask has no pixel in the image"
Shape = tuple[int, int]  # height, width, px


class AnnotationErrorMaker(NamedTuple):
    """Makes errors that name a file and an annotation in it."""

    file: Path
    place: str

    def __call__(self, text: str) -> ValueError:
        return ValueError(f"{self.file}: {self.place}: {text}")


def decode_mask(segmentation: object, shape: Shape, make_error: AnnotationErrorMaker) -> Mask:
    """The mask of polygons or run lengths, cut to its object."""
    if isinstance(segmentation, dict):
        rle = _check_run_lengths(segmentation, shape, make_error)
    elif isinstance(segmentation, list) and all(_is_polygon(points) for points in segmentation):
        rle = _encode_polygons(segmentation, shape, make_error)
    else:
        raise make_error("its segmentation is neither run lengths nor polygons of three points or more")
    text = np.frombuffer(rle["counts"], np.uint8)
    runs, _ = decode_objects(text, np.array([len(text)]), np.array([shape[0]]))
    if not len(runs):
        raise make_error(NO_PIXEL)
    return draw_runs(runs)


def _check_run_lengths(segmentation: dict, shape: Shape, make_error: AnnotationErrorMaker) -> dict:
    """Run lengths as pycocotools takes them; ValueError unless they make as many pixels as the image has."""
    from pycocotools import mask as coco_mask

    size = segmentation.get("size")
    n_px = shape[0] * shape[1]
    if not isinstance(size, list) or size != list(shape):
        raise make_error(f"its mask is of size {format_value(size)}, the image {list(shape)} (height, width)")
    counts = segmentation.get("counts")
    if isinstance(counts, list):
        if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in counts):
            raise make_error("its run lengths are not all whole numbers from 0")
        if sum(counts) != n_px:
            raise make_error(f"its run lengths add up to {sum(counts)}, the image has {n_px} px")
        return coco_mask.frPyObjects(segmentation, *shape)
    if not isinstance(counts, str):
        raise make_error("its mask has no counts")
    if count_run_length_pixels(counts) != n_px:
        raise make_error(f"its compressed run lengths do not make {n_px} px: it is damaged")
    return {"size": list(shape), "counts": counts.encode()}


def _encode_polygons(polygons: list, shape: Shape, make_error: AnnotationErrorMaker) -> dict:
    """Run lengths of polygons; ValueError for one that reaches out of the image."""
    from pycocotools import mask as coco_mask

    points = np.concatenate([np.array(polygon, np.float64).reshape(-1, 2) for polygon in polygons])
    excess_px = max((-points).max(), (points - np.array(shape[::-1])).max())
    if not excess_px <= TOLERANCE_PX:
        raise make_error(f"a polygon reaches {excess_px:g} px out of the image of {shape[1]} x {shape[0]} px")
    return coco_mask.merge(coco_mask.frPyObjects(polygons, *shape))


def _is_polygon(points: object) -> bool:
    is_list = isinstance(points, list) and len(points) >= 6 and len(points) % 2 == 0
    return is_list and parse_numbers(points) is not None


def count_run_length_pixels(text: str) -> int:
    """Number of pixels of COCO's compressed run lengths; -1 for an invalid text.

    pycocotools reads and writes beyond the end of a mask whose run lengths are too long. A run is a series of letters
    of six bits: five bits of the number, and one bit that is set when another letter follows. From the third run on the
    number is the difference to the run before the last.
    """
    runs: list[int] = []
    value = 0
    shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 60:
            return -1
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            if runs[-1] < 0:
                return -1
            value = 0
            shift = 0
    return -1 if shift else sum(runs)


def draw_ellipse(box: Sequence[float], shape: Shape, make_error: AnnotationErrorMaker) -> Mask:
    """The ellipse inscribed in a box x, y, width, height: pixels whose centres lie in it, at least the central one."""
    x, y = box[:2]
    width, height = box[2:]
    y0 = max(0, int(np.floor(y)))
    x0 = max(0, int(np.floor(x)))
    y1 = min(shape[0], int(np.ceil(y + height)))
    x1 = min(shape[1], int(np.ceil(x + width)))
    rows = (np.arange(y0, y1) + 0.5 - y - height / 2) / (height / 2)
    columns = (np.arange(x0, x1) + 0.5 - x - width / 2) / (width / 2)
    pixels = rows[:, None] ** 2 + columns[None] ** 2 <= 1
    if pixels.size and not pixels.any():
        pixels[pixels.shape[0] // 2, pixels.shape[1] // 2] = True
    return _trim_mask(y0, x0, pixels, make_error)


def _trim_mask(y0: int, x0: int, pixels: np.ndarray, make_error: AnnotationErrorMaker) -> Mask:
    """The mask cut to its object; ValueError for a mask without a pixel."""
    rows = np.flatnonzero(pixels.any(axis=1))
    columns = np.flatnonzero(pixels.any(axis=0))
    if rows.size == 0:
        raise make_error(NO_PIXEL)
    cropped = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()
    return y0 + int(rows[0]), x0 + int(columns[0]), cropped
