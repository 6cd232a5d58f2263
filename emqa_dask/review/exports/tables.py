"""CSV with a row per object."""

from collections.abc import Iterable
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv

from emqa_dask.review.exports.batch import Batch

IMAGE_CELLS = ("micrograph_id", "uri", "frame", "verdict", "height_px", "width_px", "nm_per_pixel", "nm_per_pixel_y")
OBJECT_CELLS = (
    *("object", "detector", "label", "score", "y_px", "x_px", "y0", "x0", "y1", "x1", "area_px", "circularity"),
    *("diameter_px", "diameter_nm", "mask_rle"),
)


def write_csv(batches: Iterable[Batch], stream: BinaryIO) -> None:
    """Write IMAGE_CELLS and OBJECT_CELLS; empty cells are unknown values. Images without objects are absent."""
    writer = None
    for batch in batches:
        columns = {name: batch.repeat(name) for name in IMAGE_CELLS} | {k: batch.objects[k] for k in OBJECT_CELLS}
        table = pa.table({name: _clear_nan(column) for name, column in columns.items()})
        if writer is None:
            options = pyarrow.csv.WriteOptions(quoting_style="needed")
            writer = pyarrow.csv.CSVWriter(stream, table.schema, write_options=options)
        writer.write_table(table)
    if writer is None:
        stream.write((",".join((*IMAGE_CELLS, *OBJECT_CELLS)) + "\n").encode())
    else:
        writer.close()


def _clear_nan(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column with null in place of NaN."""
    if not pa.types.is_floating(column.type):
        return column
    return pa.chunked_array([pa.array(column.to_numpy(), from_pandas=True)])
