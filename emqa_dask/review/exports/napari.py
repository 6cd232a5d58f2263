"""Layers of napari: a folder per OME-Zarr stack with points, outlines and a list of its images."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from emqa_dask.review.exports.batch import Batch
from emqa_dask.review.exports.outlines import trace_objects

POINT_PROPERTIES = ("score", "label", "detector", "area_px", "diameter_px", "diameter_nm", "object", "micrograph_id")
IMAGE_CELLS = ("index", "uri", "frame", "verdict", "nm_per_pixel", "nm_per_pixel_y", "height_px", "width_px")
POINT_HEADER = ("index", "axis-0", "axis-1", "axis-2", *POINT_PROPERTIES)
SHAPE_HEADER = ("index", "shape-type", "vertex-index", "axis-0", "axis-1", "axis-2")


def write_napari(batches: Iterable[Batch], folder: Path) -> None:
    """Write <stack>/points.csv, <stack>/shapes.csv and <stack>/images.csv; memory holds one batch.

    Axis 0 is the slot in the stack, axes 1 and 2 are y and x with 0 in the centre of the first pixel. Points have the
    properties POINT_PROPERTIES. Shapes are the largest outline of a mask, or the ellipse in the box of an object.
    """
    counts: dict[str, int] = {}
    for batch in batches:
        for stack in pc.unique(batch.images["stack"]).to_pylist():
            (folder / stack).mkdir(exist_ok=True)
            part = _select_stack(batch, stack)
            _append(folder / stack / "images.csv", IMAGE_CELLS, part.images.select(IMAGE_CELLS))
            first = counts.get(stack, 0)
            _append(folder / stack / "points.csv", POINT_HEADER, _make_points(part, first))
            _append(folder / stack / "shapes.csv", SHAPE_HEADER, _make_shapes(part, first))
            counts[stack] = first + len(part.objects)


def _append(path: Path, header: tuple[str, ...], table: pa.Table) -> None:
    """Add rows to the table at `path`; a new one gets its header."""
    with open(path, "ab") as stream:
        if not stream.tell():
            stream.write((",".join(header) + "\n").encode())
        pyarrow.csv.write_csv(table, stream, pyarrow.csv.WriteOptions(include_header=False, quoting_style="needed"))


def _select_stack(batch: Batch, stack: str) -> Batch:
    """The images of one stack with their objects; a partition is of one stack, as a rule."""
    is_own = pc.equal(batch.images["stack"], stack)
    if pc.all(is_own).as_py():
        return batch
    rows = np.flatnonzero(is_own.to_numpy())
    positions = np.full(len(batch.images), -1)
    positions[rows] = np.arange(len(rows))
    owners = positions[batch.objects["image"].to_numpy()]
    objects = batch.objects.filter(pa.array(owners >= 0))
    column = objects.schema.get_field_index("image")
    return Batch(batch.images.filter(is_own), objects.set_column(column, "image", pa.array(owners[owners >= 0])))


def _make_points(batch: Batch, first: int) -> pa.Table:
    """Rows of POINT_HEADER."""
    objects = batch.objects
    properties = {
        name: batch.repeat(name) if name in batch.images.column_names else objects[name] for name in POINT_PROPERTIES
    }
    index = np.arange(first, first + len(objects))
    return pa.table(
        {"index": index, "axis-0": batch.repeat("index"), "axis-1": objects["y_px"], "axis-2": objects["x_px"]}
        | properties
    )


def _make_shapes(batch: Batch, first: int) -> pa.Table:
    """Rows of SHAPE_HEADER: a row per corner."""
    rings = trace_objects(batch.objects, batch.repeat("height_px").to_numpy()).select_largest()
    lengths = np.diff(rings.point_offsets)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    kinds = pc.if_else(batch.objects["mask_rle"].is_valid(), "polygon", "ellipse")
    return pa.table(
        {
            "index": owners + first,
            "shape-type": kinds.take(pa.array(owners)),
            "vertex-index": np.arange(len(owners)) - rings.point_offsets[owners],
            "axis-0": batch.repeat("index").take(pa.array(owners)),
            "axis-1": rings.points[:, 1] - 0.5,
            "axis-2": rings.points[:, 0] - 0.5,
        }
    )
