"""Outlines that a person drew (boxes, ellipses, polygons, masks, points), with box, diameter, area and mask.

The diameter is that of tables.DETECTIONS: 2 sqrt(d_min d_max) of the convex hull of a mask or polygon. An ellipse and
a box alone, which counts as the ellipse that fills it, have sqrt(height width): that of a circle.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emqa_dask.coco.masks import Mask
from emqa_dask.mask_runs import decode_objects, draw_runs, find_runs, measure_objects

N_ELLIPSE_CORNERS = 72  # of the polygon whose pixels are those of an ellipse: 0.1 % of the radius off
MAX_MASK_PX = 2**28  # of the box of an outline, whose pixels are drawn: those of an image of 16,384 x 16,384 px
TOLERANCE_PX = 1.0  # by which an outline may reach out of its image, as rounded coordinates do


class Outline(NamedTuple):
    """An object that a person drew."""

    box: tuple[float, float, float, float]  # y0, x0, y1, x1, half-open, px; of a point: y, x, y, x
    diameter_px: float = np.nan
    area_px: float = np.nan
    mask: Mask | None = None
    is_point: bool = False


def make_box(y0: float, x0: float, y1: float, x1: float) -> Outline:
    """The ellipse that fills a box."""
    sides = max(y1 - y0, 0.0) * max(x1 - x0, 0.0)
    return Outline((y0, x0, y1, x1), np.sqrt(sides), np.pi / 4 * sides)


def make_point(y: float, x: float) -> Outline:
    """A point inside an object of unknown size."""
    return Outline((y, x, y, x), is_point=True)


def make_ellipse(y: float, x: float, y_radius: float, x_radius: float, angle: float = 0.0) -> Outline:
    """An ellipse with its centre and half axes, px, turned by `angle` in radians from x towards y."""
    phases = np.linspace(0, 2 * np.pi, N_ELLIPSE_CORNERS, endpoint=False)
    xs = x + x_radius * np.cos(phases) * np.cos(angle) - y_radius * np.sin(phases) * np.sin(angle)
    ys = y + x_radius * np.cos(phases) * np.sin(angle) + y_radius * np.sin(phases) * np.cos(angle)
    half_height = np.hypot(x_radius * np.sin(angle), y_radius * np.cos(angle))
    half_width = np.hypot(x_radius * np.cos(angle), y_radius * np.sin(angle))
    box = (y - half_height, x - half_width, y + half_height, x + half_width)
    mask = draw_polygons([np.stack([xs, ys], axis=1)])
    return Outline(box, 2 * np.sqrt(x_radius * y_radius), np.pi * x_radius * y_radius, mask)


def make_polygons(polygons: Sequence[NDArray], box: tuple[float, float, float, float] | None = None) -> Outline:
    """Polygons (n, 2: x, y; px) of one object, with its box or, without one, the box of their corners."""
    points = np.concatenate(polygons)
    if box is None:
        x0, y0 = points.min(axis=0).tolist()
        x1, y1 = points.max(axis=0).tolist()
        box = (y0, x0, y1, x1)
    return make_mask(draw_polygons(polygons), box)


def make_mask(mask: Mask | None, box: tuple[float, float, float, float] | None = None) -> Outline:
    """A mask, with its box or, without one, the box of its pixels; None is a mask without a pixel."""
    if mask is None:
        return Outline(box or (0.0, 0.0, 0.0, 0.0), area_px=0.0)
    y0, x0, pixels = mask
    runs = find_runs(pixels.T)
    area, _, diameter = measure_objects(runs, np.array([0, len(runs)]))[0].tolist()
    limits = (float(y0), float(x0), float(y0 + pixels.shape[0]), float(x0 + pixels.shape[1]))
    return Outline(box or limits, diameter, area, mask)


def draw_polygons(polygons: Sequence[NDArray]) -> Mask | None:
    """The pixels of polygons (n, 2: x, y; px) as pycocotools draws them; None without a pixel."""
    from pycocotools import mask as coco_mask

    points = np.concatenate(polygons)
    x0, y0 = np.floor(points.min(axis=0)).astype(int).tolist()
    width, height = (np.ceil(points.max(axis=0)).astype(int) - (x0, y0) + 1).tolist()
    if height * width > MAX_MASK_PX:
        raise ValueError(f"covers {height} x {width} px: no object is so large")
    flat_polygons = [(polygon - (x0, y0)).ravel().tolist() for polygon in polygons]
    counts = coco_mask.merge(coco_mask.frPyObjects(flat_polygons, height, width))["counts"]
    text = np.frombuffer(counts, np.uint8)
    runs, _ = decode_objects(text, np.array([len(text)]), np.array([height]))
    if not len(runs):
        return None
    y, x, pixels = draw_runs(runs)
    return y0 + y, x0 + x, pixels


def clip_mask(mask: Mask, shape: tuple[int, int]) -> Mask | None:
    """The part of a mask in an image of `shape`; None without a pixel in it."""
    y0, x0, pixels = mask
    top = max(-y0, 0)
    left = max(-x0, 0)
    inner = pixels[top : max(shape[0] - y0, 0), left : max(shape[1] - x0, 0)]
    return (y0 + top, x0 + left, inner) if inner.any() else None


def find_fault(outline: Outline, shape: tuple[int, int] | None) -> str:
    """What is wrong with an outline in an image of `shape` (None: unknown); "" when nothing is."""
    y0, x0 = outline.box[:2]
    y1, x1 = outline.box[2:]
    if not np.isfinite(outline.box).all():
        return "has coordinates that are not finite"
    if outline.is_point:
        if shape is not None and not (0 <= y0 <= shape[0] and 0 <= x0 <= shape[1]):
            return f"is at y {y0:g}, x {x0:g}, outside its image of {shape[0]} x {shape[1]} px"
        return ""
    if not (y1 > y0 and x1 > x0):
        return f"has a box of {x1 - x0:g} x {y1 - y0:g} px"
    if outline.area_px == 0:
        return "has a mask without a pixel"
    if shape is None:
        return ""
    rows, columns = shape
    if min(y0, x0) < -TOLERANCE_PX or y1 > rows + TOLERANCE_PX or x1 > columns + TOLERANCE_PX:
        return f"reaches outside its image of {rows} x {columns} px"
    return ""
