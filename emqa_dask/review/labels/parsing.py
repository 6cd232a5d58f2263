"""Values of files of labels, checked: JSON, numbers and names."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emqa_dask.coco.values import MAX_SIDE_PX, format_value

LABEL_KEYS = ("label", "class", "name", "type", "category")  # of an attribute that is the object's class, in this order


def parse_json(text: str, path: str | Path) -> object:
    """The JSON in `text`; ValueError names the file."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error}): export it again") from error


def parse_number(values: Mapping, key: str, limit: float = MAX_SIDE_PX) -> float:
    """A number under `key`, also one in a text, of at most `limit`; ValueError says what is there."""
    value = values.get(key)
    try:
        number = math.nan if value is None or isinstance(value, bool) else float(value)
    except (ValueError, TypeError, OverflowError):
        number = math.nan
    if not abs(number) <= limit:
        raise ValueError(f"has {key} {format_value(value)}: a number of pixels")
    return number


def parse_points(xs: Sequence, ys: Sequence, n_min: int = 3) -> NDArray[np.float64]:
    """Corners (n, 2: x, y) of a polygon; ValueError for fewer than `n_min`, and for other than finite numbers."""
    if not isinstance(xs, list | tuple) or not isinstance(ys, list | tuple) or len(xs) != len(ys) or len(xs) < n_min:
        raise ValueError(f"has no outline: it needs at least {n_min} points")
    rows = [{"x": x, "y": y} for x, y in zip(xs, ys, strict=True)]
    return np.array([[parse_number(row, "x"), parse_number(row, "y")] for row in rows], dtype=np.float64)


def parse_size(height: object, width: object) -> tuple[int, int] | None:
    """Height and width, px; None where they are not whole numbers from 1."""
    sizes = [int(v) for v in (height, width) if str(v).isascii() and str(v).isdigit() and 0 < len(str(v)) < 9]
    return (sizes[0], sizes[1]) if len(sizes) == 2 and min(sizes) > 0 else None


def select_label(attributes: object) -> str:
    """The class among the attributes of an object: that of LABEL_KEYS, or the only text; "" without any."""
    if not isinstance(attributes, Mapping):
        return ""
    for key in LABEL_KEYS:
        if isinstance(attributes.get(key), str):
            return attributes[key]
    texts = [value for value in attributes.values() if isinstance(value, str) and value]
    return texts[0] if len(texts) == 1 else ""
