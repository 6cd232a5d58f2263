"""ROIs and a results table of Fiji (ImageJ): a zip of ROIs per image, and a CSV with a row per object.

The bytes of a ROI are those that ImageJ's RoiDecoder documents: a header of 64 bytes, coordinates, a second header of
64 bytes, the name and properties.
"""

import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from emqa_dask.review.exports.batch import Batch
from emqa_dask.review.exports.coco import DEFAULT_LABEL
from emqa_dask.review.exports.names import UniqueNames, name_image_file
from emqa_dask.review.exports.outlines import trace_objects
from emqa_dask.review.exports.texts import format_numbers, join_columns
from emqa_dask.uris import name_frame

VERSION = 227  # of ROI files with sub-pixel boxes and properties
POLYGON, OVAL = 0, 2  # types of ROIs
SUB_PIXEL = 128  # option: the box is four floats
MAX_SIDE_PX = 65535  # that 16 bits hold; ImageJ reads larger coordinates as negative ones
MAX_CORNERS = 65535  # of a polygon


def write_fiji(batches: Iterable[Batch], folder: Path) -> None:
    """Write rois/<URI without suffix>.zip and Results.csv; memory holds one batch, and 70 bytes for each image.

    An object with a mask is the polygon of its largest outline, any other the oval in its box. The properties of a ROI
    are image, object, label, score, box (y0 x0 y1 x1) and nm_per_pixel. Results.csv has the names of ImageJ's
    measurements, in px, with Score, Class, Diameter and the pixel size.
    """
    names = UniqueNames()
    writer = None
    with open(folder / "Results.csv", "wb") as stream:
        n_objects = 0
        for batch in batches:
            table = _make_results(batch, n_objects + 1)
            writer = writer or pyarrow.csv.CSVWriter(stream, table.schema)
            writer.write_table(table)
            _write_rois(batch, folder, names)
            n_objects += len(batch.objects)
        if writer is not None:
            writer.close()


def _make_results(batch: Batch, first: int) -> pa.Table:
    """Rows of a results table, numbered from `first`."""
    objects = batch.objects
    box = {name: objects[name].to_numpy() for name in ("y0", "x0", "y1", "x1")}
    circularity = objects["circularity"].to_numpy()
    names = [name_frame(*pair) for pair in zip(batch.repeat("uri").to_pylist(), batch.repeat("frame").to_pylist())]
    columns = {
        " ": np.arange(first, first + len(objects)),
        "Label": pa.array(names, pa.string()),
        "Area": objects["area_px"],
        "X": objects["x_px"].to_numpy() + 0.5,  # ImageJ has the corner of the first pixel at 0
        "Y": objects["y_px"].to_numpy() + 0.5,
        "BX": box["x0"],
        "BY": box["y0"],
        "Width": box["x1"] - box["x0"],
        "Height": box["y1"] - box["y0"],
        "Circ.": np.where(circularity > 0, circularity, np.nan) ** -2.0,  # 4 pi area / perimeter^2
        "Diameter": objects["diameter_px"],
        "Score": objects["score"],
        "Class": objects["label"],
        "Detector": objects["detector"],
        "nm_per_pixel": batch.repeat("nm_per_pixel"),
        "Micrograph": batch.repeat("micrograph_id"),
        "Object": objects["object"],
    }
    return pa.table(columns)


def _write_rois(batch: Batch, folder: Path, names: UniqueNames) -> None:
    """Write the ROIs of each image with objects."""
    rois = _encode_objects(batch)
    ends = np.cumsum(batch.count_objects()).tolist()
    start = 0
    objects = batch.objects["object"].to_pylist()
    for image, end in zip(batch.images.to_pylist(), ends, strict=True):
        if end > start:
            stem = name_image_file(image["uri"], image["frame"], image["micrograph_id"])
            path = folder / names.claim(f"rois/{stem}.zip", f"rois/{stem}-{image['micrograph_id'][:8]}.zip")
            path.parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                for number, roi in zip(objects[start:end], rois[start:end], strict=True):
                    archive.writestr(f"{number:06d}.roi", roi)
        start = end


def _encode_objects(batch: Batch) -> list[bytes]:
    """The ROI file of each object."""
    objects = batch.objects
    image_names = [
        name_frame(*pair) for pair in zip(batch.images["uri"].to_pylist(), batch.images["frame"].to_pylist())
    ]
    lines = {
        "image": pa.array(image_names, pa.string()).take(objects["image"]),
        "object": format_numbers(objects["object"]),
        "label": objects["label"].combine_chunks().fill_null(DEFAULT_LABEL),
        "score": format_numbers(objects["score"]),
        "box": join_columns(*_interleave([format_numbers(objects[name]) for name in ("y0", "x0", "y1", "x1")])),
        "nm_per_pixel": format_numbers(batch.repeat("nm_per_pixel")),
    }
    properties = join_columns(
        *(part for key, column in lines.items() for part in (f"{key}: ", column, "\n"))
    ).to_pylist()
    boxes = np.stack([objects[name].to_numpy() for name in ("y0", "x0", "y1", "x1")], axis=1)
    has_mask = objects["mask_rle"].is_valid().to_numpy()
    rings = trace_objects(objects, batch.repeat("height_px").to_numpy()).select_largest()
    rois = []
    for k, (number, text) in enumerate(zip(objects["object"].to_pylist(), properties, strict=True)):
        points = rings.points[rings.point_offsets[k] : rings.point_offsets[k + 1]]
        is_polygon = has_mask[k] and len(points) <= MAX_CORNERS
        rois.append(_encode_roi(f"{number:06d}", text, points if is_polygon else None, boxes[k]))
    return rois


def _interleave(columns: list[pa.Array]) -> list:
    """The columns with blanks between them."""
    return [part for column in columns for part in (column, " ")][:-1]


def _encode_roi(name: str, properties: str, points: NDArray | None, box: NDArray) -> bytes:
    """A polygon of `points` (n, 2: x, y) or, without them, the oval in `box` (y0, x0, y1, x1)."""
    if points is None:
        top, left = np.floor(box[:2]).astype(int).tolist()
        bottom, right = np.ceil(box[2:]).astype(int).tolist()
        kind, options = OVAL, SUB_PIXEL
        coordinates = b""
        sides = struct.pack(">4f", box[1], box[0], box[3] - box[1], box[2] - box[0])
    else:
        left, top = points.min(axis=0).astype(int).tolist()
        right, bottom = points.max(axis=0).astype(int).tolist()
        kind, options = POLYGON, 0
        sides = bytes(16)
        coordinates = (points - (left, top)).astype(">u2").tobytes(order="F")
    limits = [value & 0xFFFF for value in (top, left, bottom, right)]
    header2 = 64 + len(coordinates)
    head = b"Iout" + struct.pack(">hBx4HH", VERSION, kind, *limits, 0 if points is None else len(points)) + sides
    head += struct.pack(">hi4s4shhBBhii", 0, 0, bytes(4), bytes(4), 0, options, 0, 0, 0, 0, header2)
    texts = [text.encode("utf-16-be") for text in (name, properties)]
    offsets = (header2 + 64, len(texts[0]) // 2, header2 + 64 + len(texts[0]), len(texts[1]) // 2)
    second = struct.pack(">4x3iii4shBBifiii12x", 0, 0, 0, *offsets[:2], bytes(4), 0, 0, 0, 0, 0.0, *offsets[2:], 0)
    return b"".join([head, coordinates, second, *texts])
