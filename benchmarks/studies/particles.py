"""Labelled micrographs of particles as cohorts, and how well settings find their boxes."""

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from skimage.feature import blob_log

from emqa_dask import boxes

SHARED = Path(__file__).parents[3] / "shared" / "data"
CORNERS = ["y0", "x0", "y1", "x1"]
IOU = 0.3


class Labelled(NamedTuple):
    name: str
    image: np.ndarray  # (h, w) uint8
    boxes: np.ndarray  # n x 4, y0, x0, y1, x1, px


def cohorts(source: str) -> dict[str, list[Labelled]]:
    """Images of `source` by cohort: material and support for arda_stem_np; each image its own for emps."""
    folder = SHARED / source
    if not folder.exists():
        return {}
    labels = json.loads((folder / "annotations_coco.json").read_text())
    results: dict[str, list[Labelled]] = {}
    for entry in labels["images"]:
        name = Path(entry["file_name"]).name
        xywh = [a["bbox"] for a in labels["annotations"] if a["image_id"] == entry["id"]]
        x, y, w, h = np.array(xywh, float).reshape(-1, 4).T
        image = np.asarray(Image.open(folder / "images" / name).convert("L"))
        key = re.sub(r"\d*\.\w+$", "", name) if source == "arda_stem_np" else name
        results.setdefault(key, []).append(Labelled(name, image, np.stack([y, x, y + h, x + w], axis=1)))
    return results


def true_f1(points, labelled: Labelled) -> float:
    """F1 of the points' boxes against the labels at an IoU of 0.3, greedy; 0 when nothing is found."""
    results = points[CORNERS].to_numpy() if len(points) else np.zeros((0, 4))
    return boxes.match_boxes(results, labelled.boxes, IOU).f1


def middle(image: np.ndarray, side: int = 1024) -> np.ndarray:
    """The middle of an image, at most `side` px wide and high: enough to tune on."""
    y, x = (max(0, (size - side) // 2) for size in image.shape)
    return image[y : y + side, x : x + side]


def skimage_f1(labelled: Labelled) -> float:
    """F1 of `skimage.feature.blob_log` with its defaults."""
    y, x, sigma = blob_log(labelled.image).T
    r = np.sqrt(2) * sigma
    results = np.stack([y + 0.5 - r, x + 0.5 - r, y + 0.5 + r, x + 0.5 + r], axis=1)
    return boxes.match_boxes(results, labelled.boxes, IOU).f1
