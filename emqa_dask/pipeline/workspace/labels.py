"""Labels that people made: true boxes of some of a workspace's micrographs, from COCO JSON."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask.train import coco_json as coco

TOLERANCE_PX = 1.0  # that a box may stick out of its image, as rounded coordinates do
MAX_LISTED_ERRORS = 10  # findings that an error names


class LabelledMicrograph(NamedTuple):
    """An image of a COCO file."""

    name: str
    frame: int
    shape: tuple[int, int]
    boxes: NDArray[np.float64]  # n x 4: y0, x0, y1, x1, half-open, px


def read_labels(path: str | Path) -> list[LabelledMicrograph]:
    """The images of the COCO file at `path`, those without an object too; crowds are left out.

    An image may say which `frame` of its file it is (0). ValueError names the file and the annotation for JSON that is
    no COCO, ids that occur twice, unknown images, and boxes without width or height or outside their image.
    """
    image_list, annotations = coco.read_lists(path, ("images", "annotations"))
    images = coco.index_by_id(image_list, "image", ("height", "width", "file_name"), path)
    shapes = {key: coco.parse_shape(row, path) for key, row in images.items()}
    names = {key: coco.parse_file_name(row, path) for key, row in images.items()}
    wrong = [
        f"image {key!r} has the frame {coco.format_value(row['frame'])}"
        for key, row in images.items()
        if _has_bad_frame(row)
    ]
    found: dict[object, list] = {key: [] for key in images}
    for key, row in coco.index_by_id(annotations, "annotation", (), path).items():
        text = _find_fault(row, shapes)
        if text:
            wrong.append(f"annotation {key!r} {text}")
        elif not row.get("iscrowd", 0):
            x, y, width, height = row["bbox"]
            found[row["image_id"]].append([y, x, y + height, x + width])
    if wrong:
        more = f"; and {len(wrong) - MAX_LISTED_ERRORS} more" if len(wrong) > MAX_LISTED_ERRORS else ""
        raise ValueError(f"{path}: {'; '.join(wrong[:MAX_LISTED_ERRORS])}{more}")
    if not found:
        raise ValueError(f"{path}: it has no images")
    return [
        LabelledMicrograph(names[key], images[key].get("frame", 0), shapes[key], np.array(rows, float).reshape(-1, 4))
        for key, rows in found.items()
    ]


def _has_bad_frame(image: Mapping) -> bool:
    frame = image.get("frame", 0)
    return isinstance(frame, bool) or not isinstance(frame, int) or not 0 <= frame < 2**31


def _find_fault(row: Mapping, shapes: Mapping) -> str:
    """What is wrong with an annotation; "" if nothing is."""
    if not coco.is_id(row.get("image_id")) or row["image_id"] not in shapes:
        return f"is of image {coco.format_value(row.get('image_id'))}, which the file does not list"
    box = coco.parse_numbers(row.get("bbox"))
    if box is None or len(box) != 4:
        return f"has no box: bbox is {coco.format_value(row.get('bbox'))}, not x, y, width, height"
    x, y, width, height = box
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

    A label's name is the URI, or the end of one single URI ("day 1/a.tif" of "scans/day 1/a.tif"). ValueError names the
    labels of images that the workspace does not have, that could be several, or that have another size.
    """
    of_uri = ledger.groupby("uri").groups
    by_end: dict[str, set[str]] = {}
    for uri in of_uri:
        for k in range(uri.count("/") + 1):
            by_end.setdefault(uri.split("/", k)[-1], set()).add(uri)
    found = {}
    wrong = []
    for label in labels:
        uris = {label.name} if label.name in of_uri else by_end.get(label.name, set())
        if len(uris) != 1:
            wrong.append(
                f"{label.name!r} is " + (f"one of {len(uris)} micrographs" if uris else "not in the workspace")
            )
            continue
        rows = ledger.loc[of_uri[next(iter(uris))]]
        rows = rows[rows["frame"] == label.frame]
        if rows.empty:
            wrong.append(f"{label.name!r} has no frame {label.frame}")
        elif (shape := (int(rows["height_px"].iloc[0]), int(rows["width_px"].iloc[0]))) != label.shape:
            wrong.append(
                f"{label.name!r} is {shape[0]} x {shape[1]} px, labelled as {label.shape[0]} x {label.shape[1]}"
            )
        elif (key := rows["micrograph_id"].iloc[0]) in found:
            wrong.append(f"{label.name!r} is labelled twice")
        else:
            found[key] = label.boxes
    if wrong:
        more = f"; and {len(wrong) - MAX_LISTED_ERRORS} more" if len(wrong) > MAX_LISTED_ERRORS else ""
        raise ValueError(f"{path}: {len(wrong)} labelled images: {'; '.join(wrong[:MAX_LISTED_ERRORS])}{more}")
    return found
