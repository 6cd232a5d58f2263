"""XML of CVAT for images 1.1: boxes, masks or polygons, with score and identity as attributes."""

import shutil
import tempfile
from collections.abc import Iterable
from typing import BinaryIO
from xml.sax.saxutils import escape

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emqa_dask.review.exports.batch import Batch
from emqa_dask.review.exports.coco import DEFAULT_LABEL, NumberedBatch, number_batches
from emqa_dask.review.exports.outlines import decode_masks, find_row_lengths, trace_objects
from emqa_dask.review.exports.texts import (
    escape_attribute,
    format_numbers,
    join_columns,
    join_integers,
    join_lists,
    quote_texts,
    write_texts,
)
from emqa_dask.review.exports.threads import map_in_order
from emqa_dask.uris import name_frame

ATTRIBUTES = ("score", "object", "detector", "box", "diameter_nm")  # of an object
IMAGE_TAG = "micrograph"  # label of a tag that every image has, with its attributes
IMAGE_ATTRIBUTES = ("verdict", "micrograph_id", "nm_per_pixel", "nm_per_pixel_y")


def write_cvat(batches: Iterable[Batch], stream: BinaryIO, has_polygons: bool = False) -> None:
    """Write one XML document; memory holds one batch.

    The name of an image is its URI, with the frame unless it is the first. An object without a mask is a box; a mask is
    a mask, or with `has_polygons` its largest outline. The box of the detection is the attribute `box` (y0 x0 y1 x1).
    """
    labels: dict[str, None] = {}
    n_images = 0

    def format_batch(numbered: NumberedBatch) -> tuple[list[str], pa.Array]:
        batch = numbered.batch
        names = batch.objects["label"].combine_chunks().fill_null(DEFAULT_LABEL)
        offsets = np.concatenate([[0], np.cumsum(batch.count_objects())])
        objects = join_lists(_format_objects(batch, names, has_polygons), offsets, "")
        images = _format_images(batch, numbered.first_image - 1)
        return pc.unique(names).to_pylist(), join_columns(images, objects, "  </image>\n")

    with tempfile.TemporaryFile() as rows:
        for names, texts in map_in_order(format_batch, number_batches(batches, {})):
            labels |= dict.fromkeys(names)
            n_images += len(texts)
            write_texts(rows, texts)
        stream.write(_format_head(list(labels), n_images).encode())
        rows.seek(0)
        shutil.copyfileobj(rows, stream)
    stream.write(b"</annotations>\n")


def _format_head(labels: list[str], n_images: int) -> str:
    """The document up to its first image."""
    texts = [_format_label(IMAGE_TAG, "tag", IMAGE_ATTRIBUTES)]
    texts += [_format_label(label, "any", ATTRIBUTES) for label in labels if label != IMAGE_TAG]
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>\n    <task>\n'
        f"      <name>emqa</name>\n      <size>{n_images}</size>\n      <mode>annotation</mode>\n"
        f"      <labels>\n{''.join(texts)}      </labels>\n    </task>\n  </meta>\n"
    )


def _format_label(name: str, kind: str, attributes: Iterable[str]) -> str:
    rows = "".join(
        f"<attribute><name>{key}</name><mutable>False</mutable><input_type>text</input_type><default_value>"
        "</default_value><values></values></attribute>"
        for key in attributes
    )
    text = escape("".join(c if c >= " " else "?" for c in name))
    return f"        <label><name>{text}</name><type>{kind}</type><attributes>{rows}</attributes></label>\n"


def _format_images(batch: Batch, first: int) -> pa.Array:
    """The start of each image, with its tag."""
    images = batch.images
    names = [name_frame(*pair) for pair in zip(images["uri"].to_pylist(), images["frame"].to_pylist(), strict=True)]
    return join_columns(
        '  <image id="',
        format_numbers(np.arange(first, first + len(images))),
        '" name=',
        pa.array([escape_attribute(name) for name in names], pa.string()),
        ' width="',
        format_numbers(images["width_px"]),
        '" height="',
        format_numbers(images["height_px"]),
        f'">\n    <tag label="{IMAGE_TAG}" source="auto">',
        *(f'<attribute name="{IMAGE_ATTRIBUTES[0]}">', images["verdict"], "</attribute>"),
        *(f'<attribute name="{IMAGE_ATTRIBUTES[1]}">', images["micrograph_id"], "</attribute>"),
        *(f'<attribute name="{IMAGE_ATTRIBUTES[2]}">', format_numbers(images["nm_per_pixel"]), "</attribute>"),
        *(f'<attribute name="{IMAGE_ATTRIBUTES[3]}">', format_numbers(images["nm_per_pixel_y"]), "</attribute>"),
        "</tag>\n",
    )


def _format_objects(batch: Batch, names: pa.Array, has_polygons: bool) -> pa.Array:
    """The element of each object."""
    objects = batch.objects
    box = [format_numbers(objects[name]) for name in ("y0", "x0", "y1", "x1")]
    label = join_columns(" label=", quote_texts(names, escape_attribute), ' source="auto" occluded="0"')
    boxes = join_columns("    <box", label, ' xtl="', box[1], '" ytl="', box[0], '" xbr="', box[3], '" ybr="', box[2])
    boxes = join_columns(boxes, '" z_order="0">')
    starts = boxes
    kinds = pa.array(["box"] * len(objects), pa.string())
    has_mask = pc.is_valid(objects["mask_rle"]).combine_chunks()
    if pc.any(has_mask).as_py():
        kind = "polygon" if has_polygons else "mask"
        shapes = _format_polygons(batch) if has_polygons else _format_masks(batch)
        starts = pc.if_else(has_mask, join_columns(f"    <{kind}", label, shapes, ' z_order="0">'), boxes)
        kinds = pc.if_else(has_mask, kind, "box")
    return join_columns(
        starts,
        *('<attribute name="score">', format_numbers(objects["score"]), "</attribute>"),
        *('<attribute name="object">', format_numbers(objects["object"]), "</attribute>"),
        *('<attribute name="detector">', quote_texts(objects["detector"], escape), "</attribute>"),
        *('<attribute name="box">', box[0], " ", box[1], " ", box[2], " ", box[3], "</attribute>"),
        *('<attribute name="diameter_nm">', format_numbers(objects["diameter_nm"]), "</attribute>"),
        *("</", kinds, ">\n"),
    )


def _format_masks(batch: Batch) -> pa.Array:
    """Attributes of each mask: run lengths along the rows of its box."""
    runs, offsets = decode_masks(batch.objects["mask_rle"], batch.repeat("height_px").to_numpy())
    lengths, length_offsets, boxes = find_row_lengths(runs, offsets)
    texts = join_integers(lengths[:, None], length_offsets, ("", "", "", ", "))
    top, left = (format_numbers(column) for column in boxes.T[:2].copy())
    height, width = (format_numbers(column) for column in boxes.T[2:].copy())
    return join_columns(
        *(' rle="', texts, '" left="', left, '" top="', top, '" width="', width, '" height="', height, '"')
    )


def _format_polygons(batch: Batch) -> pa.Array:
    """Attribute of each polygon."""
    rings = trace_objects(batch.objects, batch.repeat("height_px").to_numpy()).select_largest()
    return join_columns(' points="', rings.join_points(("", ",", "", ";")), '"')
