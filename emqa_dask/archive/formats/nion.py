"""Nion Swift's .ndata -> frames: a ZIP archive of data.npy and metadata.json."""

import json
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from emqa_dask.archive.axes import NoImage, count_planes
from emqa_dask.archive.checks import guards
from emqa_dask.archive.checks.zip_members import check_member, read_member
from emqa_dask.archive.formats.hdf5.nion import find_nion_axes, list_scales, make_nion_header
from emqa_dask.archive.formats.numpy_arrays import MAX_NPY_HEADER_BYTES, UnpackedArrays, make_frames, parse_layout
from emqa_dask.archive.metadata.nion import merge_data_source
from emqa_dask.archive.source import ReadError, Source

_MAX_METADATA_BYTES = 2**24


def open_ndata(path: Path, members: Mapping[str, zipfile.ZipInfo]) -> Source:
    """An .ndata -> Source; ReadError when it is broken."""
    data = members["data.npy"]
    metadata = members["metadata.json"]
    check_member(metadata, _MAX_METADATA_BYTES)
    text = read_member(path, metadata, metadata.file_size)
    try:
        properties = merge_data_source(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise ReadError(f"broken metadata.json: {error}") from error
    layout = parse_layout(read_member(path, data, min(data.file_size, MAX_NPY_HEADER_BYTES)))
    check_member(data, layout.offset + layout.n_bytes)
    scales = list_scales(properties, len(layout.shape))
    axes = find_nion_axes(properties, layout.shape, layout.dtype, scales)
    if isinstance(axes, NoImage):
        return Source("Nion Swift (.ndata)", axes.kind, axes.reason)
    guards.check_frames(count_planes(layout.shape, axes))
    header = make_nion_header(properties, scales, axes, layout.shape[axes.x])
    frames = make_frames(layout, axes, partial(UnpackedArrays(path).get_path, data), header)
    return Source("Nion Swift (.ndata)", "stack" if len(frames) > 1 else "micrograph", "", frames)
