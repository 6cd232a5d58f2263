"""Manual labels of some micrographs of a workspace: boxes and masks from COCO JSON, points and counts from CSV."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from emqa_dask.pipeline.workspace.label_tables import LabelledMicrograph, list_errors, read_label_table
from emqa_dask.train import coco_json as coco
from emqa_dask.train.coco_masks import TOLERANCE_PX, AnnotationErrorMaker, decode_mask


def read_labels(path: str | Path) -> list[LabelledMicrograph]:
    """The labelled images of the COCO file, or of the CSV file of points or counts, at `path`.

    COCO: also images without an object; crowds are left out. An image may have the key `frame`, the number of the
    frame in its file (0). An annotation with a segmentation alone has the box of its mask. Raises ValueError, naming
    the file and the annotation, for JSON that is no COCO, ids that occur twice, unknown images, and boxes without width
    or height or outside their image. CSV: see label_tables.read_label_table().
    """
    if Path(path).suffix.lower() == ".csv":
        return read_label_table(path)
    image_rows, annotation_rows = coco.read_lists(path, ("images", "annotations"))
    images = coco.index_by_id(image_rows, "image", ("height", "width", "file_name"), path)
    shapes = {key: coco.parse_shape(row, path) for key, row in images.items()}
    names = {key: coco.parse_file_name(row, path) for key, row in images.items()}
    errors = []
    for key, row in images.items():
        if _has_bad_frame(row):
            errors.append(f"image {key!r} has the frame {coco.format_value(row['frame'])}")
    boxes: dict[object, list] = {key: [] for key in images}
    has_crowds = dict.fromkeys(images, False)
    for key, row in coco.index_by_id(annotation_rows, "annotation", (), path).items():
        row = _complete_box(row, shapes, path)
        fault = _find_fault(row, shapes)
        if fault:
            errors.append(f"annotation {key!r} {fault}")
        elif row.get("iscrowd", 0):
            has_crowds[row["image_id"]] = True
        else:
            x, y = row["bbox"][:2]
            width, height = row["bbox"][2:]
            boxes[row["image_id"]].append([y, x, y + height, x + width])
    if errors:
        raise ValueError(f"{path}: {list_errors(errors)}")
    if not boxes:
        raise ValueError(f"{path}: it has no images")
    return [
        LabelledMicrograph(
            names[key],
            images[key].get("frame", 0),
            shapes[key],
            boxes=np.array(rows, float).reshape(-1, 4),
            has_crowds=has_crowds[key],
        )
        for key, rows in boxes.items()
    ]


def _complete_box(row: dict, shapes: Mapping, path: str | Path) -> dict:
    """The annotation, with the box of its mask where it has no box of its own; ValueError for a damaged mask."""
    image_id = row.get("image_id")
    if row.get("bbox") or not row.get("segmentation") or not coco.is_id(image_id) or image_id not in shapes:
        return row
    make_error = AnnotationErrorMaker(Path(path), f"annotation {row['id']}")
    y0, x0, pixels = decode_mask(row["segmentation"], shapes[image_id], make_error)
    return {**row, "bbox": [float(x0), float(y0), float(pixels.shape[1]), float(pixels.shape[0])]}


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
) -> dict[str, LabelledMicrograph]:
    """micrograph_id -> label, for labels of `ledger` (micrograph_id, uri, frame, height_px, width_px).

    A label's name is the URI, or the end of exactly one URI ("day 1/a.tif" of "scans/day 1/a.tif"). ValueError names
    the labels of images that the workspace does not have, that match several micrographs, or that have another size.
    """
    rows_by_uri = ledger.groupby("uri").groups
    uris_by_ending = _index_endings(rows_by_uri)
    matched: dict[str, LabelledMicrograph] = {}
    errors = []
    n_foreign = 0
    for label in labels:
        uris = {label.name} if label.name in rows_by_uri else uris_by_ending.get(label.name, set())
        if len(uris) != 1:
            count = f"one of {len(uris)} micrographs" if uris else "not in the workspace"
            errors.append(f"{label.name!r} is {count}")
            n_foreign += not uris
            continue
        rows = ledger.loc[rows_by_uri[next(iter(uris))]]
        rows = rows[rows["frame"] == label.frame]
        fault = _find_mismatch(label, rows, matched)
        if fault:
            errors.append(f"{label.name!r} {fault}")
        else:
            matched[rows["micrograph_id"].iloc[0]] = label
    if n_foreign == len(labels) > 1:
        raise ValueError(f"{path}: these are labels of another archive: {list_errors(errors)}")
    if errors:
        raise ValueError(f"{path}: {len(errors)} labelled images: {list_errors(errors)}")
    return matched


def _index_endings(uris: Mapping) -> dict[str, set[str]]:
    """URIs by each of their endings that begins with a name of a folder or file."""
    endings: dict[str, set[str]] = {}
    for uri in uris:
        for k in range(uri.count("/") + 1):
            endings.setdefault(uri.split("/", k)[-1], set()).add(uri)
    return endings


def _find_mismatch(label: LabelledMicrograph, rows: pd.DataFrame, matched: Mapping) -> str:
    """The reason why a label does not fit the micrograph of its name and frame; "" when it fits."""
    if rows.empty:
        return f"has no frame {label.frame}"
    shape = (int(rows["height_px"].iloc[0]), int(rows["width_px"].iloc[0]))
    if label.shape is not None and shape != label.shape:
        return f"is {shape[0]} x {shape[1]} px, labelled as {label.shape[0]} x {label.shape[1]}"
    if label.points is not None and ((label.points < 0) | (label.points > shape)).any():
        y, x = label.points[((label.points < 0) | (label.points > shape)).any(axis=1)][0]
        return f"is {shape[0]} x {shape[1]} px and has a point at y {y:g}, x {x:g}"
    return "is labelled twice" if rows["micrograph_id"].iloc[0] in matched else ""


def merge_labels(matched_files: Mapping[str, Mapping[str, LabelledMicrograph]]) -> dict[str, LabelledMicrograph]:
    """micrograph_id -> everything that several files of labels say about it.

    matched_files: file -> result of match_labels(). Raises ValueError, naming the images, where two files have labels
    of the same kind for an image, and where counts, boxes and points contradict each other.
    """
    merged: dict[str, LabelledMicrograph] = {}
    errors = []
    for path, matched in matched_files.items():
        for micrograph_id, label in matched.items():
            old_label = merged.get(micrograph_id, label)
            if old_label is not label and set(old_label.kinds) & set(label.kinds):
                errors.append(f"{label.name!r} has {' and '.join(label.kinds)} in {path} and in another file")
            merged[micrograph_id] = label.merge(old_label)
    errors += [f"{label.name!r} {fault}" for label in merged.values() if (fault := label.find_contradiction())]
    if errors:
        raise ValueError(f"{', '.join(map(str, matched_files))}: {list_errors(errors)}")
    return merged
