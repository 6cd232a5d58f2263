"""Labels that people made: true boxes of some of a workspace's micrographs, from COCO JSON."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

TOLERANCE_PX = 1.0  # that a box may stick out of its image, as rounded coordinates do
NAMED = 10  # findings that an error names


class Labelled(NamedTuple):
    """An image of a COCO file."""

    name: str
    frame: int
    shape: tuple[int, int]
    boxes: NDArray[np.float64]  # n x 4: y0, x0, y1, x1, half-open, px


def read_labels(path: str | Path) -> list[Labelled]:
    """The images of the COCO file at `path`, those without an object too; crowds are left out.

    An image may say which `frame` of its file it is (0). ValueError names the file and the annotation for JSON that is
    no COCO, ids that occur twice, unknown images, and boxes without width or height or outside their image.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        images = {row["id"]: row for row in content["images"]}
        annotations = list(content["annotations"])
        shapes = {key: (int(row["height"]), int(row["width"])) for key, row in images.items()}
        names = {key: str(row["file_name"]) for key, row in images.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: no COCO JSON (images, annotations): {type(error).__name__} {error}") from error
    wrong = [f"image id {key!r} occurs {n} times" for key, n in _twice(content["images"])]
    wrong += [f"annotation id {key!r} occurs {n} times" for key, n in _twice(annotations)]
    found: dict[object, list] = {key: [] for key in images}
    for row in annotations:
        text = _wrong(row, shapes)
        if text:
            wrong.append(f"annotation {row.get('id')!r} {text}")
        elif not row.get("iscrowd", 0):
            x, y, width, height = row["bbox"]
            found[row["image_id"]].append([y, x, y + height, x + width])
    if wrong:
        more = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise ValueError(f"{path}: {'; '.join(wrong[:NAMED])}{more}")
    if not found:
        raise ValueError(f"{path}: it has no images")
    return [
        Labelled(names[key], int(images[key].get("frame", 0)), shapes[key], np.array(rows, float).reshape(-1, 4))
        for key, rows in found.items()
    ]


def _twice(rows: list[dict]) -> list[tuple[object, int]]:
    return [(key, n) for key, n in Counter(row.get("id") for row in rows).items() if n > 1]


def _wrong(row: Mapping, shapes: Mapping) -> str:
    """What is wrong with an annotation; "" if nothing is."""
    if row.get("image_id") not in shapes:
        return f"is of image {row.get('image_id')!r}, which the file does not list"
    try:
        x, y, width, height = (float(v) for v in row["bbox"])
    except (KeyError, TypeError, ValueError):
        return "has no box (bbox: x, y, width, height)"
    if not (np.isfinite([x, y, width, height]).all() and width > 0 and height > 0):
        return f"has a box of {width:g} x {height:g} px"
    rows, columns = shapes[row["image_id"]]
    if min(x, y) < -TOLERANCE_PX or y + height > rows + TOLERANCE_PX or x + width > columns + TOLERANCE_PX:
        return f"reaches outside its image of {rows} x {columns} px"
    return ""


def assigned(labels: list[Labelled], ledger: pd.DataFrame, path: str | Path) -> dict[str, NDArray[np.float64]]:
    """micrograph_id -> true boxes, for labels of `ledger` (micrograph_id, uri, frame, height_px, width_px).

    A label's name is the URI, or the end of one single URI ("day 1/a.tif" of "scans/day 1/a.tif"). ValueError names the
    labels of images that the workspace does not have, that could be several, or that have another size.
    """
    of_uri = ledger.groupby("uri").groups
    by_end: dict[str, set[str]] = {}
    for uri in of_uri:
        for k in range(uri.count("/") + 1):
            by_end.setdefault(uri.split("/", k)[-1], set()).add(uri)
    found, wrong = {}, []
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
        more = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise ValueError(f"{path}: {len(wrong)} labelled images: {'; '.join(wrong[:NAMED])}{more}")
    return found
