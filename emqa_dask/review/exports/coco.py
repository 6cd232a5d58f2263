"""COCO JSON of detections: boxes, masks as run lengths or polygons, scores, pixel sizes."""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emqa_dask.review.exports.batch import Batch
from emqa_dask.review.exports.outlines import trace_objects
from emqa_dask.review.exports.texts import (
    format_numbers,
    join_columns,
    join_lists,
    quote_run_lengths,
    quote_texts,
    write_texts,
)
from emqa_dask.review.exports.threads import map_in_order

DEFAULT_LABEL = "object"  # of detections without a class


def write_coco(
    batches: Iterable[Batch],
    stream: BinaryIO,
    has_polygons: bool = False,
    name_files: Callable[[pa.Table], pa.Array] = lambda images: images["uri"],
) -> None:
    """Write one JSON object: annotations, then images and categories, which are complete only at the end.

    `file_name` of an image is what `name_files` gives, its URI; further keys are frame, micrograph_id, content_sha256,
    verdict, nm_per_pixel and nm_per_pixel_y. An annotation has score, detector, diameter_px, diameter_nm and `object`,
    its number among the micrograph's detections. One without a mask has no segmentation. Memory holds one batch.
    """
    categories: dict[str, int] = {}

    def format_batch(numbered: NumberedBatch) -> tuple[pa.Array, pa.Array]:
        rows = _format_annotations(numbered, has_polygons)
        return rows, _format_images(numbered, name_files(numbered.batch.images))

    is_first_object = True
    is_first_image = True
    with tempfile.TemporaryFile() as image_rows:
        stream.write(b'{"annotations": [')
        for annotations, images in map_in_order(format_batch, number_batches(batches, categories)):
            _write_items(stream, annotations, is_first_object)
            _write_items(image_rows, images, is_first_image)
            is_first_object &= not len(annotations)
            is_first_image &= not len(images)
        stream.write(b'\n],\n"images": [')
        image_rows.seek(0)
        shutil.copyfileobj(image_rows, stream)
    names = quote_texts(pa.array(list(categories), pa.string())).to_pylist()
    rows = [f'{{"id": {number}, "name": {name}}}' for name, number in zip(names, categories.values(), strict=True)]
    stream.write(f'\n],\n"categories": [{", ".join(rows)}]}}\n'.encode())


class NumberedBatch(NamedTuple):
    """A batch with the numbers of its rows in the whole export."""

    batch: Batch
    first_image: int
    first_object: int
    categories: pa.Array  # of each object, from 1


def number_batches(batches: Iterable[Batch], categories: dict[str, int]) -> Iterator[NumberedBatch]:
    """The batches, numbered from 1; new labels are added to `categories`."""
    first_image = 1
    first_object = 1
    for batch in batches:
        numbers = number_categories(batch.objects["label"], categories)
        yield NumberedBatch(batch, first_image, first_object, numbers)
        first_image += len(batch.images)
        first_object += len(batch.objects)


def _write_items(stream: BinaryIO, rows: pa.Array, is_first: bool) -> None:
    """Write `rows`, each of which begins with a comma; without that of the first, if it is the first of all."""
    if is_first and len(rows):
        stream.write(rows[0].as_py()[1:].encode())
        rows = rows.slice(1)
    write_texts(stream, rows)


def number_categories(labels: pa.ChunkedArray, categories: dict[str, int]) -> pa.Array:
    """The number of each label, from 1; new labels are added to `categories`."""
    array = labels.combine_chunks().fill_null(DEFAULT_LABEL)
    encoded = pc.dictionary_encode(array)
    numbers = [categories.setdefault(label, len(categories) + 1) for label in encoded.dictionary.to_pylist()]
    return pa.array(numbers, pa.int32()).take(encoded.indices)


def _format_annotations(numbered: NumberedBatch, has_polygons: bool) -> pa.Array:
    """A row of JSON for each object, with a comma and a line break before it."""
    batch = numbered.batch
    objects = batch.objects
    n = len(objects)
    y0, x0 = objects["y0"], objects["x0"]
    height, width = pc.subtract(objects["y1"], y0), pc.subtract(objects["x1"], x0)
    return join_columns(
        ',\n{"id": ',
        format_numbers(np.arange(n) + numbered.first_object),
        ', "image_id": ',
        format_numbers(pc.add(objects["image"], numbered.first_image)),
        ', "category_id": ',
        format_numbers(numbered.categories),
        ', "bbox": [',
        *(format_numbers(x0), ", ", format_numbers(y0), ", "),
        *(format_numbers(width), ", ", format_numbers(height)),
        '], "area": ',
        format_numbers(objects["area_px"], "0"),
        ', "iscrowd": 0, "score": ',
        format_numbers(objects["score"], "null"),
        ', "object": ',
        format_numbers(objects["object"]),
        ', "detector": ',
        quote_texts(objects["detector"]),
        ', "diameter_px": ',
        format_numbers(objects["diameter_px"], "null"),
        ', "diameter_nm": ',
        format_numbers(objects["diameter_nm"], "null"),
        _format_segmentations(batch, has_polygons),
        "}",
    )


def _format_segmentations(batch: Batch, has_polygons: bool) -> pa.Array:
    """The key segmentation of each object; no text without a mask."""
    counts = batch.objects["mask_rle"]
    if counts.null_count == len(counts):
        return pa.nulls(len(counts), pa.string())
    if has_polygons:
        rings = trace_objects(batch.objects, batch.repeat("height_px").to_numpy()).drop_holes()
        texts = join_columns("[", rings.join_points(("", ", ", "", ", ")), "]")
        polygons = join_columns(', "segmentation": [', join_lists(texts, rings.ring_offsets, ", "), "]")
        return pc.if_else(pc.is_valid(counts.combine_chunks()), polygons, pa.scalar(None, pa.string()))
    return pc.binary_join_element_wise(
        ', "segmentation": {"size": [',
        format_numbers(batch.repeat("height_px")),
        ", ",
        format_numbers(batch.repeat("width_px")),
        '], "counts": ',
        quote_run_lengths(counts),
        "}",
        "",
    )


def _format_images(numbered: NumberedBatch, file_names: pa.Array) -> pa.Array:
    """A row of JSON for each image, with a comma and a line break before it."""
    images = numbered.batch.images
    first = numbered.first_image
    return join_columns(
        ',\n{"id": ',
        format_numbers(np.arange(first, first + len(images))),
        ', "file_name": ',
        quote_texts(file_names),
        ', "height": ',
        format_numbers(images["height_px"]),
        ', "width": ',
        format_numbers(images["width_px"]),
        ', "frame": ',
        format_numbers(images["frame"]),
        ', "micrograph_id": ',
        quote_texts(images["micrograph_id"]),
        ', "uri": ',
        quote_texts(images["uri"]),
        ', "content_sha256": ',
        quote_texts(images["content_sha256"]),
        ', "verdict": ',
        quote_texts(images["verdict"]),
        ', "nm_per_pixel": ',
        format_numbers(images["nm_per_pixel"], "null"),
        ', "nm_per_pixel_y": ',
        format_numbers(images["nm_per_pixel_y"], "null"),
        "}",
    )
