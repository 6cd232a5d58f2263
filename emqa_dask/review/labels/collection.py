"""Labels of many images, collected object by object: every fault is named with the file and the object."""

from collections.abc import Hashable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from emqa_dask.review.labels.micrograph import LabelledMicrograph, list_errors
from emqa_dask.review.labels.shapes import Outline, clip_mask, find_fault


class LabelledObject(NamedTuple):
    """An object of an image; `item` names it in errors."""

    item: str
    outline: Outline
    label: str
    object_id: str


class LabelCollection:
    """The labels of a file, or of a folder of files."""

    def __init__(self, path: str | Path):
        self._path = path
        self._images: dict[Hashable, LabelledMicrograph] = {}
        self._objects: dict[Hashable, list[LabelledObject]] = {}
        self._errors: list[str] = []

    def add_error(self, text: str) -> None:
        """Add a fault; list_micrographs() raises an error with all of them."""
        self._errors.append(text)

    def add_image(
        self,
        key: Hashable,
        name: str,
        frame: int = 0,
        shape: tuple[int, int] | None = None,
        content_sha256: str = "",
    ) -> None:
        """Add an image without objects; one that is there already, by its `key`, stays as it is."""
        label = LabelledMicrograph(name, frame, shape, content_sha256=content_sha256.lower())
        self._images.setdefault(key, label)
        self._objects.setdefault(key, [])

    def add_crowd(self, key: Hashable) -> None:
        """Note that a group of objects of an image is left out."""
        self._images[key] = self._images[key]._replace(has_crowds=True)

    def add_object(self, key: Hashable, item: str, outline: Outline, label: str = "", object_id: str = "") -> None:
        """Add an object of the image `key`; `item` names it in errors, e.g. "annotation 7"."""
        shape = self._images[key].shape
        if outline.mask is not None and shape is not None:
            outline = outline._replace(mask=clip_mask(outline.mask, shape))
        fault = find_fault(outline, shape)
        if fault:
            self._errors.append(f"{item} {fault}")
        else:
            self._objects[key].append(LabelledObject(item, outline, label, object_id))

    def list_micrographs(self) -> list[LabelledMicrograph]:
        """The images in the order in which they were added; ValueError names the file and its faults, if it has any.

        Images without objects have no boxes, or no points where all objects of the file are points.
        """
        for key, objects in self._objects.items():
            n_points = sum(row.outline.is_point for row in objects)
            if 0 < n_points < len(objects):
                counts = f"{n_points} points and {len(objects) - n_points} outlines"
                self.add_error(f"image {self._images[key].name!r} has {counts}: label every object in one way")
            self._errors += _find_repeats(objects)
        if self._errors:
            raise ValueError(f"{self._path}: {list_errors(self._errors)}")
        if not self._images:
            raise ValueError(f"{self._path}: it has no images")
        first_objects = [objects[0] for objects in self._objects.values() if objects]
        has_points = bool(first_objects) and all(row.outline.is_point for row in first_objects)
        return [_join(self._images[key], objects, has_points) for key, objects in self._objects.items()]


def _join(image: LabelledMicrograph, objects: list[LabelledObject], has_points: bool) -> LabelledMicrograph:
    """An image with its objects; `has_points` decides for an image without any."""
    outlines = [row.outline for row in objects]
    boxes = np.array([outline.box for outline in outlines], float).reshape(-1, 4)
    image = image._replace(labels=tuple(row.label for row in objects), ids=tuple(row.object_id for row in objects))
    if outlines[0].is_point if outlines else has_points:
        return image._replace(points=boxes[:, :2].copy())
    return image._replace(
        boxes=boxes,
        diameters_px=np.array([outline.diameter_px for outline in outlines], float),
        areas_px=np.array([outline.area_px for outline in outlines], float),
        masks=tuple(outline.mask for outline in outlines),
    )


def _find_repeats(objects: list[LabelledObject]) -> list[str]:
    """Faults of objects that have the box, the area and the class of an earlier one."""
    first_rows: dict[tuple, LabelledObject] = {}
    faults = []
    for row in objects:
        identity = (row.outline.box, str(row.outline.area_px), row.label)  # the area of a point is NaN
        if identity in first_rows:
            faults.append(f"{row.item} repeats {first_rows[identity].item}")
        first_rows.setdefault(identity, row)
    return faults
