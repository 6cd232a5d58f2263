"""Small sets of bright discs, as COCO files with images, and a network small enough to learn them in seconds."""

import json

import cv2
import numpy as np
import pytest

from emqa_dask.train.detector import DetectorOptions
from emqa_dask.train.detector_data import CropOptions

SMALL = {
    "fpn_channels": 16,
    "anchor_sizes": [8, 16, 24, 32, 64],
    "box_channels": 32,
    "mask_channels": [16, 16],
    "max_detections": 20,
    "rpn_post_nms_top_n_test": 100,
}
FEW = DetectorOptions(crops=CropOptions(64, 2, (0.9, 1.1)), architecture=SMALL)


def silent(line):
    """Shows no message."""


def discs(rng, n=3, side=80):
    """A noisy image with up to `n` bright discs apart from each other, and their masks (whole images)."""
    y, x = np.mgrid[:side, :side]
    masks = []
    for _ in range(20 * n):
        radius = rng.uniform(7, 11)
        cy, cx = rng.uniform(12, side - 12, 2)
        mask = (y - cy) ** 2 + (x - cx) ** 2 <= radius**2
        if len(masks) < n and not any((mask & other).any() for other in masks):
            masks.append(mask)
    image = 60 + 120 * np.any(masks, axis=0) + rng.normal(0, 8, (side, side))
    return np.clip(image, 0, 255).astype(np.uint8), masks


def box_of(mask):
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]


@pytest.fixture
def disc_set(tmp_path):
    """Writes a set of `n` images; returns (COCO file, folder, content), boxes alone where `masks` is False."""

    def write(n=4, name="set", masks=True, seed=5):
        from pycocotools import mask as coco_mask

        folder = tmp_path / name
        folder.mkdir()
        content = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "disc"}]}
        for k in range(1, n + 1):
            image, results = discs(np.random.default_rng([seed, k]))
            cv2.imwrite(str(folder / f"{k}.png"), image)
            content["images"].append({"id": k, "file_name": f"{k}.png", "height": 80, "width": 80})
            for mask in results:
                row = {"id": len(content["annotations"]) + 1, "image_id": k, "category_id": 7, "bbox": box_of(mask)}
                if masks:
                    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
                    row["segmentation"] = {"size": [80, 80], "counts": rle["counts"].decode()}
                content["annotations"].append(row)
        file = folder / "labels.json"
        file.write_text(json.dumps(content))
        return file, folder, content

    return write


@pytest.fixture
def plain():
    """A normalisation that is enough here: percentiles to 0 and 1."""

    def normalise(image, low, high):
        a, b = np.percentile(image, [low, high])
        return ((image - a) / max(b - a, 1e-6)).astype(np.float32)

    return normalise
