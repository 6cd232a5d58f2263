"""GeoJSON of detections, as QuPath reads it: a feature per object, coordinates in px."""

from collections.abc import Iterable
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emqa_dask.review.exports.batch import Batch
from emqa_dask.review.exports.coco import DEFAULT_LABEL
from emqa_dask.review.exports.outlines import Rings, trace_objects
from emqa_dask.review.exports.texts import format_numbers, join_columns, join_lists, quote_texts, write_texts
from emqa_dask.review.exports.threads import map_in_order


def write_geojson(batches: Iterable[Batch], stream: BinaryIO) -> None:
    """Write one FeatureCollection; memory holds one batch.

    An object in one piece is a Polygon with its holes, one in several a MultiPolygon of their outlines, one without a
    mask the corners of its box. Its image is in its properties.
    """
    stream.write(b'{"type": "FeatureCollection", "features": [')
    is_first = True
    for rows in map_in_order(_format_features, batches):
        if is_first and len(rows):
            stream.write(rows[0].as_py()[1:].encode())
            rows = rows.slice(1)
            is_first = False
        write_texts(stream, rows)
    stream.write(b"\n]}\n")


def _format_features(batch: Batch) -> pa.Array:
    """A row for each object, with a comma and a line break before it."""
    objects = batch.objects
    labels = objects["label"].combine_chunks().fill_null(DEFAULT_LABEL)
    rings = trace_objects(objects, batch.repeat("height_px").to_numpy())
    return join_columns(
        ',\n{"type": "Feature", "geometry": ',
        _format_geometries(rings),
        ', "properties": {"objectType": "detection", "classification": {"name": ',
        quote_texts(labels),
        '}, "uri": ',
        quote_texts(batch.repeat("uri")),
        ', "frame": ',
        format_numbers(batch.repeat("frame")),
        ', "micrograph_id": ',
        quote_texts(batch.repeat("micrograph_id")),
        ', "object": ',
        format_numbers(objects["object"]),
        ', "detector": ',
        quote_texts(objects["detector"]),
        ', "measurements": {"score": ',
        format_numbers(objects["score"], "null"),
        ', "area_px": ',
        format_numbers(objects["area_px"], "null"),
        ', "diameter_px": ',
        format_numbers(objects["diameter_px"], "null"),
        ', "diameter_nm": ',
        format_numbers(objects["diameter_nm"], "null"),
        ', "nm_per_pixel": ',
        format_numbers(batch.repeat("nm_per_pixel"), "null"),
        "}}}",
    )


def _format_geometries(rings: Rings) -> pa.Array:
    """The geometry of each object."""
    outer_rings = rings.drop_holes()
    has_parts = np.diff(outer_rings.ring_offsets) > 1
    polygons = join_columns('{"type": "Polygon", "coordinates": [', _join_rings(rings), "]}")
    if not has_parts.any():
        return polygons
    parts = _join_rings(outer_rings, "], [")
    several = join_columns('{"type": "MultiPolygon", "coordinates": [[', parts, "]]}")
    return pc.if_else(pa.array(has_parts), several, polygons)


def _join_rings(rings: Rings, separator: str = ", ") -> pa.Array:
    """The closed rings of each object: [[x, y], ...], with `separator` between them."""
    closed = rings.close()
    texts = join_columns("[", closed.join_points(("[", ", ", "]", ", ")), "]")
    return join_lists(texts, closed.ring_offsets, separator)
