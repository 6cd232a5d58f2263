"""What a person says about the objects of a micrograph."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emqa_dask.coco.masks import Mask

MAX_LISTED_ERRORS = 10  # findings that an error names


class LabelledMicrograph(NamedTuple):
    """Labels of an image: at least one of boxes, points and n_objects.

    Diameters, areas, masks, class names and identities belong to the boxes or, without boxes, to the points.
    """

    name: str  # URI, its end, or the base name without suffix; empty where content_sha256 names the file
    frame: int
    shape: tuple[int, int] | None  # height, width, px, where the file states it
    boxes: NDArray[np.float64] | None = None  # n x 4: y0, x0, y1, x1, half-open, px
    points: NDArray[np.float64] | None = None  # n x 2: y, x, px, one inside each object
    n_objects: int | None = None
    has_crowds: bool = False  # groups of objects were left out of the boxes
    diameters_px: NDArray[np.float64] | None = None  # (n,) of the boxes, see shapes.py
    areas_px: NDArray[np.float64] | None = None  # (n,) of the boxes
    masks: tuple[Mask | None, ...] = ()  # n of the boxes; None for an object with a box alone
    labels: tuple[str, ...] = ()  # n class names; "" where the file has none
    ids: tuple[str, ...] = ()  # n identities of the objects in their file
    content_sha256: str = ""  # of the micrograph's file, where the labels state it

    @property
    def kinds(self) -> tuple[str, ...]:
        """What is labelled: of boxes, points and counts, the most informative first."""
        values = {"boxes": self.boxes, "points": self.points, "counts": self.n_objects}
        return tuple(kind for kind, value in values.items() if value is not None)

    def merge(self, other: "LabelledMicrograph") -> "LabelledMicrograph":
        """This label with what it lacks from another label of the same image."""
        has_boxes = self.boxes is not None or other.boxes is None
        first, second = (self, other) if has_boxes else (other, self)
        return first._replace(
            shape=first.shape or second.shape,
            points=second.points if first.points is None else first.points,
            n_objects=second.n_objects if first.n_objects is None else first.n_objects,
            has_crowds=first.has_crowds or second.has_crowds,
            labels=first.labels or second.labels,
            ids=first.ids or second.ids,
        )

    def find_contradiction(self) -> str:
        """What the labels of this image contradict each other in; "" when they agree or nothing is known twice."""
        numbers = {
            "boxes": None if self.boxes is None else len(self.boxes),
            "points": None if self.points is None else len(self.points),
            "objects by its count": self.n_objects,
        }
        known_numbers = {kind: n for kind, n in numbers.items() if n is not None}
        if len(set(known_numbers.values())) < 2:
            return ""
        if self.has_crowds and self.boxes is not None and len(self.boxes) == min(known_numbers.values()):
            return ""  # the boxes of a group were left out
        return "has " + " but ".join(f"{n} {kind}" for kind, n in known_numbers.items())


def list_errors(errors: Sequence[str]) -> str:
    """The first errors and the number of the others."""
    ending = f"; and {len(errors) - MAX_LISTED_ERRORS} more" if len(errors) > MAX_LISTED_ERRORS else ""
    return "; ".join(errors[:MAX_LISTED_ERRORS]) + ending
