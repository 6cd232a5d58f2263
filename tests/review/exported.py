"""A batch of micrographs with masks, boxes and odd names, which tests export."""

import numpy as np
import pyarrow as pa

from emqa_dask import tables
from emqa_dask.mask_runs import encode_objects, find_runs, measure_objects
from emqa_dask.review.exports.batch import IMAGE_COLUMNS, OBJECT_COLUMNS, Batch

SHAPE = (300, 260)
NAMES = ("day 1/a.tif", 'day 1/é "b" & <c>.tif', "night/d.mrc")


def draw_masks(n, seed=0):
    """Masks (h, w) of `n` blobs of noise, one with two parts and a hole."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    masks = []
    for k in range(n):
        radius = rng.uniform(6, 25)
        centre = rng.uniform([0, 0], SHAPE)
        angle = np.arctan2(y - centre[0], x - centre[1])
        limit = radius * (1 + 0.2 * np.sin(3 * angle + k))
        masks.append((y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= limit**2)
        masks[-1][tuple(np.clip(centre.astype(int), 0, np.array(SHAPE) - 1))] = True
    return masks


def make_batch(n_images=3, n_objects=5, has_masks=True, frame=0):
    """A batch whose images have `n_objects` each, but the last none, and the masks (or None) of its objects."""
    images = pa.Table.from_pylist(
        [
            {
                "micrograph_id": f"{k:032x}",
                "uri": NAMES[k],
                "frame": frame,
                "content_sha256": f"{k + 1:064x}",
                "height_px": SHAPE[0],
                "width_px": SHAPE[1],
                "nm_per_pixel": np.nan if k == 1 else 0.31,
                "nm_per_pixel_y": np.nan if k == 1 else 0.31,
                "stack": "300x260-uint8-0.31nm",
                "index": 2 * k,
                "verdict": "trust",
            }
            for k in range(n_images)
        ],
        pa.schema([*(tables.MICROGRAPHS.field(name) for name in IMAGE_COLUMNS), pa.field("verdict", pa.string())]),
    )
    masks = draw_masks(n_objects * (n_images - 1))
    runs = [find_runs(mask.T) for mask in masks]
    rows = [make_object(k, run, k // n_objects, k % n_objects, has_masks) for k, run in enumerate(runs)]
    fields = [tables.DETECTIONS.field(name) for name in OBJECT_COLUMNS if name != "micrograph_id"]
    schema = pa.schema([*fields, pa.field("image", pa.int32()), pa.field("object", pa.int32())])
    return Batch(images, pa.Table.from_pylist(rows, schema), (b"jpeg",) * n_images), masks


def make_object(k, run, image, number, has_mask):
    """A row of a batch's objects; its box reaches 0.25 px beyond its mask."""
    y0, y1 = run[:, 1].min() - 0.25, run[:, 2].max() + 0.25
    x0, x1 = run[0, 0] - 0.125, run[-1, 0] + 1.125
    y0, x0 = max(y0, 0.0), max(x0, 0.0)
    y1, x1 = min(y1, SHAPE[0]), min(x1, SHAPE[1])
    text, _ = encode_objects(run, np.array([0, len(run)]), SHAPE[0], SHAPE[0] * SHAPE[1])
    area, circularity, diameter = measure_objects(run, np.array([0, len(run)]))[0].tolist()
    return {
        "y_px": (y0 + y1) / 2 - 0.5,
        "x_px": (x0 + x1) / 2 - 0.5,
        "y0": y0,
        "x0": x0,
        "y1": y1,
        "x1": x1,
        "area_px": area,
        "score": 1 / (k + 3),
        "label": ("cavity", 'a "loop" & <so>')[k % 2] if has_mask else None,
        "detector": "net" if has_mask else "log",
        "mask_rle": text.tobytes().decode() if has_mask else None,
        "circularity": circularity if has_mask else np.nan,
        "diameter_px": diameter,
        "diameter_nm": np.nan if image == 1 else 0.31 * diameter,
        "image": image,
        "object": number,
    }
