"""Labels of YOLO: a folder with a text file per image, a line per object in fractions of the image's sides."""

import csv
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from emqa_dask.review.labels.collection import LabelCollection
from emqa_dask.review.labels.micrograph import LabelledMicrograph
from emqa_dask.review.labels.parsing import parse_number, parse_size
from emqa_dask.review.labels.shapes import Outline, make_box, make_polygons
from emqa_dask.uris import parse_frame_name

ShapeFinder = Callable[[str, int], tuple[int, int] | None]  # name and frame of an image -> height, width, px
LIST_NAMES = ("classes.txt", "obj.names")  # files with a class per line, beside the labels or above
INDEX_NAME = "images.csv"  # of a folder that emqa export wrote: which image each text file is of
OTHER_TEXTS = ("classes.txt", "train.txt", "val.txt", "test.txt", "images.txt")  # that hold no labels


def list_label_texts(folder: Path) -> list[Path]:
    """The text files of labels in `folder` and the folders in it."""
    return sorted(path for path in folder.rglob("*.txt") if path.name not in OTHER_TEXTS)


def read_yolo(folder: Path, find_shape: ShapeFinder) -> list[LabelledMicrograph]:
    """The labelled images of a folder; ValueError names file and line.

    Boxes are `class x y width height` (centre), polygons `class x1 y1 x2 y2 x3 y3 ...`; a further number is a score.
    `find_shape` gives the size of an image: the files do not have it. An empty file is an image without objects.
    """
    labels = LabelCollection(folder)
    class_names = _read_class_names(folder)
    index = _read_index(folder)
    for file in list_label_texts(folder):
        name = file.relative_to(folder).as_posix()
        row = index.get(name, {})
        uri, frame = parse_frame_name(row.get("name") or name.removeprefix("labels/").removesuffix(".txt"))
        shape = parse_size(row.get("height_px"), row.get("width_px")) or find_shape(uri, frame)
        if shape is None:
            labels.add_error(f"{name} is of no single image of the workspace, whose size is needed")
            continue
        labels.add_image(name, uri, frame, shape, row.get("content_sha256", ""))
        for number, line in enumerate(_read_text(file).splitlines(), start=1):
            if not line.strip():
                continue
            item = f"line {number} of {name}"
            try:
                outline = _parse_outline(line.split(), shape)
            except ValueError as error:
                labels.add_error(f"{item} {error}")
                continue
            label = line.split()[0]
            labels.add_object(name, item, outline, class_names.get(label, label), str(number - 1))
    return labels.list_micrographs()


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except ValueError as error:
        raise ValueError(f"{file}: not a text in UTF-8 ({error})") from error


def _parse_outline(cells: list[str], shape: tuple[int, int]) -> Outline:
    """The outline of a line; ValueError without the file's name."""
    numbers = np.array([parse_number({"value": cell}, "value") for cell in cells[1:]])
    height, width = shape
    if len(numbers) in (4, 5):
        x, y = numbers[:2] * (width, height)
        half_width, half_height = numbers[2:4] * (width, height) / 2
        return make_box(y - half_height, x - half_width, y + half_height, x + half_width)
    if len(numbers) < 6:
        raise ValueError(f"has {len(numbers)} numbers after the class: 4 of a box, or at least 6 of a polygon")
    return make_polygons([numbers[: len(numbers) // 2 * 2].reshape(-1, 2) * (width, height)])


def _read_class_names(folder: Path) -> dict[str, str]:
    """Names of the classes by their numbers, from a list or from data.yaml; none without these."""
    for place in (folder, folder.parent):
        for name in LIST_NAMES:
            if (place / name).is_file():
                return {str(k): text.strip() for k, text in enumerate(_read_text(place / name).splitlines())}
        for file in sorted(place.glob("*.yaml")):
            if names := _parse_yaml_names(file):
                return names
    return {}


def _parse_yaml_names(file: Path) -> dict[str, str]:
    """The entry `names`, a list or a mapping, of a YAML file."""
    import yaml

    try:
        content = yaml.safe_load(_read_text(file))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{file}: not YAML ({str(error).splitlines()[0]})") from error
    names = content.get("names") if isinstance(content, Mapping) else None
    pairs = names.items() if isinstance(names, Mapping) else enumerate(names) if isinstance(names, list) else ()
    return {str(key): str(value) for key, value in pairs}


def _read_index(folder: Path) -> dict[str, dict[str, str]]:
    """Rows of INDEX_NAME by the text file's name; none without it."""
    file = folder / INDEX_NAME
    rows = csv.DictReader(_read_text(file).splitlines()) if file.is_file() else ()
    return {row["file"]: row for row in rows if row.get("file")}
