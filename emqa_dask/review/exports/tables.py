"""CSV with a row per object."""

from collections.abc import Iterable
from typing import BinaryIO

import pyarrow as pa

from emqa_dask.review.exports.batch import Batch
from emqa_dask.review.exports.texts import format_numbers, join_columns, quote_texts, write_texts
from emqa_dask.review.exports.threads import map_in_order

IMAGE_CELLS = ("micrograph_id", "uri", "frame", "verdict", "height_px", "width_px", "nm_per_pixel", "nm_per_pixel_y")
OBJECT_CELLS = (
    *("object", "detector", "label", "score", "y_px", "x_px", "y0", "x0", "y1", "x1", "area_px", "circularity"),
    *("diameter_px", "diameter_nm", "mask_rle"),
)
UNQUOTED = ("micrograph_id", "mask_rle")  # texts without commas, quotation marks and line breaks


def write_csv(batches: Iterable[Batch], stream: BinaryIO) -> None:
    """Write IMAGE_CELLS and OBJECT_CELLS; empty cells are unknown values. Images without objects are absent."""
    stream.write((",".join((*IMAGE_CELLS, *OBJECT_CELLS)) + "\n").encode())
    for rows in map_in_order(_format_rows, batches):
        write_texts(stream, rows)


def _format_rows(batch: Batch) -> pa.Array:
    """The row of each object."""
    images = join_columns(*_separate([_format_cells(name, batch.images[name]) for name in IMAGE_CELLS]))
    cells = [_format_cells(name, batch.objects[name]) for name in OBJECT_CELLS]
    return join_columns(images.take(batch.objects["image"].combine_chunks()), ",", *_separate(cells), "\n")


def _format_cells(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    if not pa.types.is_string(column.type):
        return format_numbers(column)
    return column if name in UNQUOTED else quote_texts(column, _quote_cell, "")


def _quote_cell(text: str) -> str:
    """`text` as a cell, in quotation marks if it needs them."""
    has_marks = any(c in text for c in ',"\r\n')
    return '"' + text.replace('"', '""') + '"' if has_marks else text


def _separate(columns: list) -> list:
    """The columns with commas between them."""
    return [part for column in columns for part in (column, ",")][:-1]
