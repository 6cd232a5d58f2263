"""Frames of Zarr arrays whose axes are known or can be identified."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from emqa_dask.archive.axes import (
    ImageAxes,
    NoImage,
    find_other_array,
    identify_axes,
    iterate_planes,
    list_spans,
    read_plane,
)
from emqa_dask.archive.checks.zarr_chunks import check_chunks, count_absent_chunks
from emqa_dask.archive.checks.zarr_files import ZarrFiles
from emqa_dask.archive.formats.hdf5.calibration import read_header, state_pixel_sizes
from emqa_dask.archive.frame_blocks import read_plane_of_block
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import StatedSize, choose_pixel_size
from emqa_dask.archive.source import WINDOW_BYTES, Frame, ReadError, is_damage_recorded, record_damage


@dataclass(frozen=True)
class ZarrImages:
    """A Zarr array that may hold images, and what is known of it."""

    array: Any
    names: Sequence[str | None] = ()  # of its axes, or empty
    units: Sequence[str | None] = ()  # of its axes, or empty
    steps_nm: Sequence[float] = ()  # pixel size along each axis; NaN for none
    origin: str = "scale"  # where steps_nm are stated
    other_sizes: tuple[StatedSize, ...] = ()  # pixel sizes that other places state
    header: Header = field(default_factory=Header)
    settings: Mapping[str, Any] = field(default_factory=dict)  # attributes of free names, in lower case

    @property
    def title(self) -> str:
        """Name of the array for a reason."""
        return self.array.path.rpartition("/")[2] or "the array"


@dataclass(frozen=True)
class ZarrContents:
    """What a Zarr hierarchy holds: arrays that may be images, and remarks about the others."""

    images: list[ZarrImages] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    n_frames_lost: int = 0
    kind: str = "signal"  # where there are no images


def identify_images(images: ZarrImages) -> ImageAxes | NoImage:
    """Axes of the images in an array; NoImage for other arrays and for types that numpy has not."""
    array = images.array
    try:
        dtype = np.dtype(array.dtype)
    except TypeError:
        return NoImage("signal", f"values of type {array.dtype}, not an image")
    axes = identify_axes(array.shape, dtype, images.names, images.units)
    if isinstance(axes, NoImage) or any(images.names):
        return axes
    return find_other_array(array.shape, axes) or axes


def make_frames(files: ZarrFiles, images: ZarrImages, axes: ImageAxes) -> list[Frame]:
    """One frame for each image of an array."""
    array = images.array
    height = int(array.shape[axes.y])
    width = int(array.shape[axes.x])
    dtype = np.dtype(array.dtype).newbyteorder("=")
    block_rows = max(1, min(height, (array.shards or array.chunks)[axes.y]))
    row_bytes = width * dtype.itemsize * (1 if axes.colour is None else 3)
    rows = max(1, WINDOW_BYTES // max(1, row_bytes) // block_rows) * block_rows
    header = _add_pixel_size(images, axes, width)
    checked_array = _CheckedArray(files, array)
    return [
        Frame(
            height,
            width,
            dtype.name,
            header,
            partial(_read_rows, checked_array, axes, plane),
            min(rows, height),
            axes.colour is not None,
        )
        for plane in iterate_planes(array.shape, axes)
    ]


def _add_pixel_size(images: ZarrImages, axes: ImageAxes, width: int) -> Header:
    sizes = list(images.other_sizes)
    header = images.header
    if images.settings:
        header = read_header(images.settings, images.array.shape, axes)
        header = replace(header, nm_per_pixel=math.nan, nm_per_pixel_y=math.nan, pixel_size_problem=None)
        sizes += state_pixel_sizes(images.settings, images.array.shape, axes)
    if len(images.steps_nm) == images.array.ndim:
        x_nm = images.steps_nm[axes.x]
        y_nm = images.steps_nm[axes.y]
        sizes.insert(0, StatedSize(x_nm if not math.isnan(x_nm) else y_nm, y_nm, images.origin))
    header = choose_pixel_size(header, sizes, width)
    path = images.array.path
    return replace(header, foreign={**header.foreign, "zarr.path": path}) if path else header


class _CheckedArray:
    """A Zarr array that is sliced by integers and slices; the chunks of a slice are checked before they are decoded."""

    def __init__(self, files: ZarrFiles, array: Any):
        self.files = files
        self.array = array
        self.shape = array.shape
        self.dtype = np.dtype(array.dtype)

    def __getitem__(self, index: tuple) -> np.ndarray:
        spans = [
            k.indices(n)[:2] if isinstance(k, slice) else (k, k + 1) for k, n in zip(index, self.shape, strict=True)
        ]
        check_chunks(self.files, self.array, spans)
        return np.asarray(self.array[index])


def _read_rows(array: _CheckedArray, axes: ImageAxes, plane: tuple[int, ...], y0: int, y1: int) -> np.ndarray:
    try:
        rows = _decode_rows(array, axes, plane, y0, y1)
        if is_damage_recorded():
            spans = list_spans(array.shape, axes, plane, y0, y1)
            n_absent, n_chunks = count_absent_chunks(array.files, array.array, spans)
            if n_absent:
                record_damage(
                    f"{n_absent:,} of {n_chunks:,} chunks of rows {y0:,} to {y1:,} are absent: they read as fill"
                )
        return rows
    except ReadError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise ReadError(f"Zarr chunks are broken: {type(error).__name__}: {text}") from error


def _decode_rows(array: _CheckedArray, axes: ImageAxes, plane: tuple[int, ...], y0: int, y1: int) -> np.ndarray:
    """Rows of one image; all frames of a chunk are decoded at once, unless one of their chunks is broken."""
    try:
        return read_plane_of_block(array, axes, plane, y0, y1, chunks=array.array.chunks, key=array)
    except Exception:
        return read_plane(array, axes, plane, y0, y1)
