"""Nion Swift's .ndata -> frames: a ZIP archive of data.npy and metadata.json."""

import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path

from emqa_dask.archive.axes import NoImage, count_planes, identify_axes
from emqa_dask.archive.checks import guards
from emqa_dask.archive.checks.zip_members import check_member, read_member
from emqa_dask.archive.formats.numpy_arrays import MAX_NPY_HEADER_BYTES, UnpackedArrays, make_frames, parse_layout
from emqa_dask.archive.metadata.nion import parse_properties
from emqa_dask.archive.metadata.pixel_size import StatedSize, choose_pixel_size
from emqa_dask.archive.source import ReadError, Source

_MAX_METADATA_BYTES = 2**24


def open_ndata(path: Path, members: Mapping[str, zipfile.ZipInfo]) -> Source:
    """An .ndata -> Source; ReadError when it is broken."""
    data = members["data.npy"]
    metadata = members["metadata.json"]
    check_member(metadata, _MAX_METADATA_BYTES)
    try:
        properties = json.loads(read_member(path, metadata, metadata.file_size))
    except ValueError as error:
        if isinstance(error, ReadError):
            raise
        raise ReadError(f"broken metadata.json: {error}") from error
    layout = parse_layout(read_member(path, data, min(data.file_size, MAX_NPY_HEADER_BYTES)))
    check_member(data, layout.offset + layout.n_bytes)
    item = parse_properties(properties if isinstance(properties, dict) else {}, len(layout.shape))
    axes = identify_axes(layout.shape, layout.dtype, item.names, item.units)
    if isinstance(axes, NoImage):
        return Source("NDATA", axes.kind, axes.reason)
    guards.check_frames(count_planes(layout.shape, axes))
    x_nm = item.steps_nm[axes.x]
    y_nm = item.steps_nm[axes.y]
    sizes = [StatedSize(x_nm if not math.isnan(x_nm) else y_nm, y_nm, "dimensional_calibrations")]
    header = choose_pixel_size(item.header, sizes, layout.shape[axes.x])
    arrays = UnpackedArrays(path)
    frames = make_frames(layout, axes, lambda: arrays.get_path(data), header)
    return Source("NDATA", "stack" if len(frames) > 1 else "micrograph", "", frames)
