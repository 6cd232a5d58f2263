"""Text files of YOLO: a folder with labels, names of the classes, scores, and which image each file is of."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emqa_dask.review.exports.batch import Batch
from emqa_dask.review.exports.coco import number_categories
from emqa_dask.review.exports.names import UniqueNames, name_image_file
from emqa_dask.review.exports.outlines import trace_objects
from emqa_dask.review.exports.texts import format_numbers, join_columns, join_lists
from emqa_dask.uris import name_frame

INDEX_COLUMNS = ("file", "name", "content_sha256", "height_px", "width_px", "nm_per_pixel", "verdict", "micrograph_id")
SCORE_COLUMNS = ("file", "line", "object", "score", "detector")


def write_yolo(batches: Iterable[Batch], folder: Path) -> None:
    """Write labels/<URI without suffix>.txt, a line per object: `class x y width height` in fractions of the image.

    An object with a mask is the polygon of its largest outline: `class x1 y1 x2 y2 ...`. Scores are in scores.csv,
    because labels for training must not have them; images.csv names image, size and pixel size of each file, data.yaml
    the classes. Memory holds one batch, and some 70 bytes for each image.
    """
    categories: dict[str, int] = {}
    names = UniqueNames()
    with (
        open(folder / "images.csv", "w", newline="", encoding="utf-8") as index_stream,
        open(folder / "scores.csv", "w", newline="", encoding="utf-8") as score_stream,
    ):
        index = csv.writer(index_stream)
        scores = csv.writer(score_stream)
        index.writerow(INDEX_COLUMNS)
        scores.writerow(SCORE_COLUMNS)
        for batch in batches:
            lines = _format_lines(batch, categories)
            offsets = np.concatenate([[0], np.cumsum(batch.count_objects())])
            texts = join_lists(lines, offsets, "").to_pylist()
            files = [_name_file(image, names) for image in batch.images.to_pylist()]
            for file, text in zip(files, texts, strict=True):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_text(text, encoding="utf-8")
            index.writerows(_list_images(batch, files))
            scores.writerows(_list_scores(batch, files, offsets))
    rows = "".join(f"  {number - 1}: {json.dumps(name)}\n" for name, number in categories.items())
    text = f"path: .\ntrain: images\nval: images\nnames:\n{rows}" if rows else "path: .\nnames: {}\n"
    (folder / "data.yaml").write_text(text, encoding="utf-8")


def _name_file(image: dict, names: UniqueNames) -> str:
    stem = name_image_file(image["uri"], image["frame"], image["micrograph_id"])
    return names.claim(f"labels/{stem}.txt", f"labels/{stem}-{image['micrograph_id'][:8]}.txt")


def _list_images(batch: Batch, files: list[str]) -> Iterable[tuple]:
    """Rows of INDEX_COLUMNS."""
    for file, image in zip(files, batch.images.to_pylist(), strict=True):
        cells = (image[name] for name in INDEX_COLUMNS[2:])
        yield file, name_frame(image["uri"], image["frame"]), *cells


def _list_scores(batch: Batch, files: list[str], offsets: np.ndarray) -> Iterable[tuple]:
    """Rows of SCORE_COLUMNS."""
    owners = batch.objects["image"].to_numpy()
    lines = np.arange(len(owners)) - offsets[owners] + 1
    columns = [batch.objects[name].to_pylist() for name in SCORE_COLUMNS[2:]]
    return zip((files[k] for k in owners), lines.tolist(), *columns, strict=True)


def _format_lines(batch: Batch, categories: dict[str, int]) -> pa.Array:
    """A line for each object, with its end."""
    objects = batch.objects
    height, width = (batch.repeat(name).to_numpy().astype(float) for name in ("height_px", "width_px"))
    numbers = format_numbers(pc.subtract(number_categories(objects["label"], categories), 1))
    y0, x0 = (objects[name].to_numpy() for name in ("y0", "x0"))
    y1, x1 = (objects[name].to_numpy() for name in ("y1", "x1"))
    cells = [(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height]
    coordinates = pc.binary_join_element_wise(*map(format_numbers, cells), " ")
    has_mask = pc.is_valid(objects["mask_rle"]).combine_chunks()
    if pc.any(has_mask).as_py():
        rings = trace_objects(objects, height.astype(np.int64)).select_largest()
        fractions = rings.points / np.repeat(np.stack([width, height], axis=1), np.diff(rings.point_offsets), axis=0)
        polygons = join_lists(format_numbers(fractions.ravel()), 2 * rings.point_offsets, " ")
        coordinates = pc.if_else(has_mask, polygons, coordinates)
    return join_columns(numbers, " ", coordinates, "\n")
