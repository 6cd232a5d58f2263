"""Pictures of the worst and the median images of a set, with true and detected boxes."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.studies.real_metrics import classify_failures, match_boxes
from benchmarks.studies.real_sets import RealImage
from emqa_dask.archive.readers import read_micrograph
from emqa_dask.detect.normalise import normalise

N_PICTURES = 4  # worst images, and as many around the median
SIDE_PX = 620  # longest side of a picture
HEADER_PX = 22
COLOURS = {  # blue, green, red
    "matched": (0, 200, 0),
    "missed": (0, 0, 255),
    "merged": (255, 0, 255),
    "split": (255, 128, 0),
    "badly_placed": (0, 165, 255),
    "false": (0, 255, 255),
}


def draw_sheet(path: Path, rows: pd.DataFrame, images: dict[str, RealImage], detected: dict[str, NDArray]) -> None:
    """Writes a picture of two rows of images: those of the lowest F1 at IoU 0.5, and those around its median.

    rows: of real_scores.score_images() of one set. detected: boxes (n, 4) above the score floor by image. True boxes
    are green where they are matched, red where they were missed, magenta where they were merged, blue where they were
    split and orange where the box is badly placed. Detections without a match are thin and yellow.
    """
    order = rows.sort_values("f1_iou_0.5", kind="stable")
    middle = max(0, len(order) // 2 - N_PICTURES // 2)
    parts = [order.iloc[:N_PICTURES], order.iloc[middle : middle + N_PICTURES]]
    lines = [
        np.hstack([_draw_image(images[row.image], detected[row.image], row) for row in _iterate(p)]) for p in parts
    ]
    width = max(line.shape[1] for line in lines)
    padded = [np.pad(line, ((0, 0), (0, width - line.shape[1]), (0, 0))) for line in lines]
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.vstack(padded))


def _iterate(rows: pd.DataFrame):
    return rows.rename(columns={"f1_iou_0.1": "f1_low", "f1_iou_0.5": "f1_high"}).itertuples()


def _draw_image(image: RealImage, detected: NDArray, row) -> NDArray:
    """An image of SIDE_PX with its boxes and a line of text above."""
    grey = (normalise(read_micrograph(image.path)[0], 0.5, 99.5).clip(0, 1) * 255).astype(np.uint8)
    scale = SIDE_PX / max(grey.shape)
    grey = cv2.resize(grey, (round(grey.shape[1] * scale), round(grey.shape[0] * scale)), interpolation=cv2.INTER_AREA)
    picture = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    kinds = classify_failures(detected, image.boxes)
    for k, box in enumerate(detected):
        if k not in set(match_boxes(detected, image.boxes, 0.5).pairs[:, 0].tolist()):
            _draw_box(picture, box * scale, COLOURS["false"], 1)
    for kind, box in zip(kinds.true, image.boxes):
        _draw_box(picture, box * scale, COLOURS[kind or "matched"], 1 if len(image.boxes) > 60 else 2)
    canvas = np.zeros((SIDE_PX + HEADER_PX, SIDE_PX + 4, 3), np.uint8)
    canvas[HEADER_PX : HEADER_PX + picture.shape[0], : picture.shape[1]] = picture
    text = f"{image.path.stem[:34]} F1 {row.f1_low:.2f} {row.f1_high:.2f}, {len(image.boxes)} true, {len(detected)} det"
    cv2.putText(canvas, text, (2, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1, cv2.LINE_AA)
    return canvas


def _draw_box(picture: NDArray, box: NDArray, colour: tuple[int, int, int], thickness: int) -> None:
    y0, x0, y1, x1 = (round(float(value)) for value in box)
    cv2.rectangle(picture, (x0, y0), (x1, y1), colour, thickness)
