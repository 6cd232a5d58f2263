"""Manual labels: true boxes of some micrographs of a workspace, from COCO JSON."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask.train import coco_json as coco

TOLERANCE_PX = 1.0  # by which a box may reach out of its image, as rounded coordinates do
MAX_LISTED_ERRORS = 10  # findings that an error names


class LabelledMicrograph(NamedTuple):
    """An image of a COCO file."""

    name: str
    frame: int
    shape: tuple[int, int]
    boxes: NDArray[np.float64]  # n x 4: y0, x0, y1, x1, half-open, px


def read_labels(path: str | Path) -> list[LabelledMicrograph]:
    """The images of the COCO file at `path`, also those without an object; crowds are left out.

    An image may have the key `frame`, the number of the frame in its file (0). Raises ValueError, naming the
    file and the annotation, for JSON that is no COCO, ids that occur twice, unknown images, and boxes without width or
    height or outside their image.
    """
    image_rows, annotation_rows = coco.read_lists(path, ("images", "annotations"))
    images = coco.index_by_id(image_rows, "image", ("height", "width", "file_name"), path)
    shapes = {key: coco.parse_shape(row, path) for key, row in images.items()}
    names = {key: coco.parse_file_name(row, path) for key, row in images.items()}
    errors = []
    for key, row in images.items():
        if _has_bad_frame(row):
            errors.append(f"image {key!r} has the frame {coco.format_value(row['frame'])}")
    boxes: dict[object, list] = {key: [] for key in images}
    for key, row in coco.index_by_id(annotation_rows, "annotation", (), path).items():
        fault = _find_fault(row, shapes)
        if fault:
            errors.append(f"annotation {key!r} {fault}")
        elif not row.get("iscrowd", 0):
            x, y = row["bbox"][:2]
            width, height = row["bbox"][2:]
            boxes[row["image_id"]].append([y, x, y + height, x + width])
    if errors:
        raise ValueError(f"{path}: {_list_errors(errors)}")
    if not boxes:
        raise ValueError(f"{path}: it has no images")
    return [
        LabelledMicrograph(names[key], images[key].get("frame", 0), shapes[key], np.array(rows, float).reshape(-1, 4))
        for key, rows in boxes.items()
    ]


def _list_errors(errors: list[str]) -> str:
    """The first errors and the number of the others."""
    ending = f"; and {len(errors) - MAX_LISTED_ERRORS} more" if len(errors) > MAX_LISTED_ERRORS else ""
    return "; ".join(errors[:MAX_LISTED_ERRORS]) + ending


def _has_bad_frame(image: Mapping) -> bool:
    frame = image.get("frame", 0)
    return isinstance(frame, bool) or not isinstance(frame, int) or not 0 <= frame < 2**31


def _find_fault(row: Mapping, shapes: Mapping) -> str:
    """The fault of an annotation; "" without any."""
    if not coco.is_id(row.get("image_id")) or row["image_id"] not in shapes:
        return f"is of image {coco.format_value(row.get('image_id'))}, which the file does not list"
    box = coco.parse_numbers(row.get("bbox"))
    if box is None or len(box) != 4:
        return f"has no box: bbox is {coco.format_value(row.get('bbox'))}, not x, y, width, height"
    x, y = box[:2]
    width, height = box[2:]
    if not (width > 0 and height > 0):
        return f"has a box of {width:g} x {height:g} px"
    rows, columns = shapes[row["image_id"]]
    if min(x, y) < -TOLERANCE_PX or y + height > rows + TOLERANCE_PX or x + width > columns + TOLERANCE_PX:
        return f"reaches outside its image of {rows} x {columns} px"
    return ""


def match_labels(
    labels: list[LabelledMicrograph], ledger: pd.DataFrame, path: str | Path
) -> dict[str, NDArray[np.float64]]:
    """micrograph_id -> true boxes, for labels of `ledger` (micrograph_id, uri, frame, height_px, width_px).

    A label's name is the URI, or the end of exactly one URI ("day 1/a.tif" of "scans/day 1/a.tif"). ValueError names
    the labels of images that the workspace does not have, that match several micrographs, or that have another size.
    """
    rows_by_uri = ledger.groupby("uri").groups
    uris_by_ending = _index_endings(rows_by_uri)
    boxes: dict[str, NDArray[np.float64]] = {}
    errors = []
    for label in labels:
        uris = {label.name} if label.name in rows_by_uri else uris_by_ending.get(label.name, set())
        if len(uris) != 1:
            count = f"one of {len(uris)} micrographs" if uris else "not in the workspace"
            errors.append(f"{label.name!r} is {count}")
            continue
        rows = ledger.loc[rows_by_uri[next(iter(uris))]]
        rows = rows[rows["frame"] == label.frame]
        fault = _find_mismatch(label, rows, boxes)
        if fault:
            errors.append(f"{label.name!r} {fault}")
        else:
            boxes[rows["micrograph_id"].iloc[0]] = label.boxes
    if errors:
        raise ValueError(f"{path}: {len(errors)} labelled images: {_list_errors(errors)}")
    return boxes


def _index_endings(uris: Mapping) -> dict[str, set[str]]:
    """URIs by each of their endings that begins with a name of a folder or file."""
    endings: dict[str, set[str]] = {}
    for uri in uris:
        for k in range(uri.count("/") + 1):
            endings.setdefault(uri.split("/", k)[-1], set()).add(uri)
    return endings


def _find_mismatch(label: LabelledMicrograph, rows: pd.DataFrame, boxes: Mapping) -> str:
    """The reason why a label does not fit the micrograph of its name and frame; "" when it fits."""
    if rows.empty:
        return f"has no frame {label.frame}"
    shape = (int(rows["height_px"].iloc[0]), int(rows["width_px"].iloc[0]))
    if shape != label.shape:
        return f"is {shape[0]} x {shape[1]} px, labelled as {label.shape[0]} x {label.shape[1]}"
    return "is labelled twice" if rows["micrograph_id"].iloc[0] in boxes else ""
