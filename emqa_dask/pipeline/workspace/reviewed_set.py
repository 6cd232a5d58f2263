"""Accepted images of a workspace with their objects, as a COCO set for the training of a detector."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from emqa_dask import tables
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pipeline.workspace.reviewed import read_reviewed
from emqa_dask.review.labels.micrograph import LabelledMicrograph
from emqa_dask.store import files, marker, micrographs
from emqa_dask.store.layout import Workspace

COLUMNS = ["micrograph_id", "uri", "frame", "pixel_sha256", "height_px", "width_px", "stack", "index"]
CATEGORY = {"id": 1, "name": "object"}  # decisions have no classes
SUFFIX = ".npy"


def write_reviewed_set(root: str, folder: Path, say: Callable[[str], None] = print) -> tuple[str, str]:
    """A COCO file in `folder`, and the folder with its images as .npy, of the accepted images with boxes.

    A box counts as the ellipse that fills it. Raises ValueError where no accepted image has boxes.
    """
    marker.read_source(root)
    workspace = Workspace(root)
    empty = tables.empty(tables.MICROGRAPHS)[COLUMNS]
    ledger = pd.concat([empty, *micrograph_ledger.iter_current(workspace, COLUMNS)]).set_index("micrograph_id")
    reviewed = read_reviewed(workspace, ledger.reset_index())
    labels = {key: label for key, label in reviewed.labels.items() if label.boxes is not None}
    for line in reviewed.lines:
        say(line)
    if n_points := len(reviewed.labels) - len(labels):
        say(f"  {n_points:,} accepted images with points are left out: a detector needs boxes")
    if not labels:
        raise ValueError(f"{files.redact(root)}: no accepted image has boxes: emqa review serve {files.redact(root)}")
    document: dict[str, list[dict]] = {"images": [], "annotations": [], "categories": [CATEGORY]}
    for key, label in labels.items():
        row = ledger.loc[key]
        np.save(folder / f"{key}{SUFFIX}", micrographs.read_window(root, row["stack"], int(row["index"])))
        shape = {"height": int(row["height_px"]), "width": int(row["width_px"])}
        document["images"].append({"id": key, "file_name": f"{key}{SUFFIX}", **shape})
        document["annotations"] += _list_annotations(key, label, len(document["annotations"]))
    path = folder / f"{Path(root.rstrip('/')).name}.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return str(path), str(folder)


def _list_annotations(key: str, label: LabelledMicrograph, first_id: int) -> list[dict]:
    boxes = np.zeros((0, 4)) if label.boxes is None else label.boxes
    return [
        {"id": first_id + k, "image_id": key, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
        for k, (y0, x0, y1, x1) in enumerate(boxes.tolist())
    ]
