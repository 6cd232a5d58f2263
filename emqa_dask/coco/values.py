"""Values of a COCO file, checked one by one; every error names the file and the entry."""

import json
import os
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np

MAX_SIDE_PX = 2**20  # of an image; no camera has more, and its mask is an array in memory
MAX_IMAGE_PX = 2**32  # of an image
MAX_VALUE_LETTERS = 60  # of a value in an error


def read_lists(file: str | Path, keys: Sequence[str]) -> list[list]:
    """The lists that the JSON object in `file` has under `keys`; ValueError, naming the file, where it has not."""
    return select_lists(read_json(file), keys, file)


def read_json(file: str | Path) -> object:
    """The JSON in `file`; ValueError and OSError name it."""
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of JSON, of UTF-8, of a number with too many digits
        raise ValueError(f"{file}: not JSON ({error}): export it again as COCO JSON") from error
    except OSError as error:
        raise type(error)(f"{file} cannot be read ({error.strerror}): give a COCO JSON file") from error


def select_lists(content: object, keys: Sequence[str], file: str | Path) -> list[list]:
    """The lists that `content`, the JSON of `file`, has under `keys`; ValueError names the file where it has not."""
    if not isinstance(content, dict):
        raise ValueError(f"{file}: not a COCO file of instances: it holds {type(content).__name__}, not an object")
    missing_keys = [key for key in keys if not isinstance(content.get(key), list)]
    if missing_keys:
        raise ValueError(f"{file}: not a COCO file of instances: it has no list {missing_keys[0]!r}")
    return [content[key] for key in keys]


def index_by_id(rows: list, object_name: str, keys: Sequence[str], file: str | Path) -> dict[Hashable, dict]:
    """The objects `rows` by their ids, all with `keys`; ValueError names the file and an invalid entry."""
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not is_id(row.get("id")):
            fault = "is not an object" if not isinstance(row, dict) else f"has the id {format_value(row.get('id'))}"
            raise ValueError(
                f"{file}: {object_name} number {number} of the file {fault}: an id is a whole number or a text"
            )
        if absent := [key for key in keys if key not in row]:
            raise ValueError(f"{file}: {object_name} {format_value(row['id'])}: it has no {absent[0]}")
    for key, n in Counter(row["id"] for row in rows).items():
        if n > 1:
            raise ValueError(f"{file}: {object_name} {key}: the id occurs {n} times; give each its own")
    return {row["id"]: row for row in rows}


def parse_shape(row: dict, file: str | Path) -> tuple[int, int]:
    """Height and width of an image of a COCO file, px; ValueError names an image without a valid size."""
    for key in ("height", "width"):
        value = row[key]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 1 <= value <= MAX_SIDE_PX or value != int(value):
            fault = f"{key} is {format_value(value)}: a whole number of pixels from 1 to {MAX_SIDE_PX:,}"
            raise ValueError(f"{file}: image {format_value(row['id'])}: {fault}")
    if row["height"] * row["width"] > MAX_IMAGE_PX:
        raise ValueError(f"{file}: image {format_value(row['id'])}: {row['height']} x {row['width']} px are too many")
    return int(row["height"]), int(row["width"])


def parse_file_name(row: dict, file: str | Path) -> str:
    """The file_name of an image of a COCO file; ValueError names an image without a valid name."""
    name = row["file_name"]
    try:
        is_name = isinstance(name, str) and "\0" not in name and 0 < max(map(len, os.fsencode(name).split(b"/"))) < 256
    except UnicodeEncodeError:  # a lone surrogate
        is_name = False
    if not is_name:
        raise ValueError(
            f"{file}: image {format_value(row['id'])}: file_name is {format_value(name)}: it has to be a file's name"
        )
    return name


def is_id(value: object) -> bool:
    """Whether `value` can be an id: a whole number or a text."""
    return isinstance(value, int | str) and not isinstance(value, bool)


def format_value(value: object) -> str:
    """`value` as an error shows it, on one line and not long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= MAX_VALUE_LETTERS else f"{text[:MAX_VALUE_LETTERS]}..."


def parse_numbers(values: object) -> np.ndarray | None:
    """A list of finite numbers as float64; None for anything else, such as numbers in texts."""
    if not isinstance(values, list):
        return None
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return None
    try:
        array = np.array(values, dtype=np.float64)
    except OverflowError:  # a whole number of 400 digits
        return None
    return array if np.isfinite(array).all() else None
