"""NumPy's .npy and .npz -> frames. Arrays of Python objects are pickles, which are never loaded."""

import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from emqa_dask.archive.axes import (
    ImageAxes,
    NoImage,
    count_planes,
    find_other_array,
    identify_axes,
    iterate_planes,
    read_plane,
)
from emqa_dask.archive.checks import guards
from emqa_dask.archive.checks.zip_members import check_member, iterate_blocks, read_member
from emqa_dask.archive.formats.hdf5.attributes import convert_value, normalise_name
from emqa_dask.archive.formats.hdf5.calibration import read_header
from emqa_dask.archive.formats.hdf5.roles import describe_role
from emqa_dask.archive.formats.packed import TemporaryCopy
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.source import Frame, ReadError, Source

_MAX_SETTING_BYTES = 4096  # of numbers and texts in an .npz that are settings, as its pixel size
MAX_NPY_HEADER_BYTES = 10_000 + 16  # numpy's own limit, and what precedes the text
_OBJECTS_REASON = "an array of Python objects, which are pickles that run any code: not loaded"
_MAX_ARRAYS = 10_000  # of an .npz
_MAX_NAMED_ARRAYS = 3  # that are no images, in a reason


class ArrayLayout(NamedTuple):
    """What the header of an .npy states."""

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype
    offset: int  # of the first value

    @property
    def n_bytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.shape, dtype=object))


def parse_layout(head: bytes) -> ArrayLayout:
    """Layout of the .npy that begins with `head`; ReadError where it is broken."""
    file = io.BytesIO(head)
    try:
        is_first_version = np.lib.format.read_magic(file) == (1, 0)  # version 3 has the layout of version 2
        read_header = np.lib.format.read_array_header_1_0 if is_first_version else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read_header(file)
    except Exception as error:  # numpy evaluates a text: anything can come
        raise ReadError(f"broken NumPy header: {' '.join(str(error).split())[:120]}") from error
    if any(n < 0 for n in shape):
        raise ReadError(f"broken NumPy header: a shape of {shape}")
    return ArrayLayout(shape, is_fortran, dtype, file.tell())


def open_npy(path: Path) -> Source:
    """An .npy -> Source; ReadError when it is broken or cut."""
    with open(path, "rb") as file:
        layout = parse_layout(file.read(MAX_NPY_HEADER_BYTES))
        n_bytes = file.seek(0, 2)
    axes = _identify_unnamed_axes(layout)
    if isinstance(axes, NoImage):
        return Source("NumPy", axes.kind, _OBJECTS_REASON if layout.dtype.hasobject else axes.reason)
    if n_bytes < layout.offset + layout.n_bytes:
        raise ReadError(f"truncated: {n_bytes - layout.offset:,} of {layout.n_bytes:,} bytes of its array are there")
    guards.check_frames(count_planes(layout.shape, axes))
    frames = make_frames(layout, axes, lambda: path, Header())
    return Source("NumPy", "stack" if len(frames) > 1 else "micrograph", "", frames)


def open_npz(path: Path, members: list[zipfile.ZipInfo]) -> Source:
    """An .npz -> Source: each array that is an image or a stack; the reason names the other arrays."""
    if len(members) > _MAX_ARRAYS:
        raise ReadError(f"an .npz of over {_MAX_ARRAYS:,} arrays is not read")
    layouts, problems = _read_layouts(path, members)
    settings: dict[str, Any] = {}
    images: list[tuple[zipfile.ZipInfo, ArrayLayout, ImageAxes]] = []
    others: dict[str, NoImage] = {}
    for info, layout in layouts:
        name = info.filename.removesuffix(".npy")
        if layout.dtype.hasobject:
            others[name] = NoImage("signal", _OBJECTS_REASON)
        elif len(layout.shape) < 2:
            if layout.n_bytes <= _MAX_SETTING_BYTES and layout.dtype.kind in "biufUS":
                data = read_member(path, info, layout.offset + layout.n_bytes)[layout.offset :]
                settings[normalise_name(name)] = convert_value(np.frombuffer(data, layout.dtype))
        elif isinstance(axes := _identify_axes(name, layout), NoImage):
            others[name] = axes
        else:
            images.append((info, layout, axes))
    if problems and not images and not others:
        raise ReadError(problems[0])
    frames = _make_npz_frames(path, images, settings)
    remarks = [*problems, *(f"{name} is {other.reason}" for name, other in others.items())]
    reason = "; ".join(remarks[:_MAX_NAMED_ARRAYS])
    if not frames:
        kind = next((other.kind for other in others.values()), "signal")
        return Source("NumPy (.npz)", kind, reason or "no array of it is an image")
    kind = "stack" if len(frames) > 1 else "micrograph"
    return Source("NumPy (.npz)", kind, reason, frames, n_frames_lost=len(problems))


def _identify_axes(name: str, layout: ArrayLayout) -> ImageAxes | NoImage:
    """Axes of the images in an array of an .npz, or what it is by its name, type and shape."""
    if layout.dtype.kind == "b":
        return NoImage("signal", "a mask of true and false")
    return describe_role(name) or _identify_unnamed_axes(layout)


def _identify_unnamed_axes(layout: ArrayLayout) -> ImageAxes | NoImage:
    axes = identify_axes(layout.shape, layout.dtype)
    return axes if isinstance(axes, NoImage) else find_other_array(layout.shape, axes) or axes


def _read_layouts(
    path: Path, members: list[zipfile.ZipInfo]
) -> tuple[list[tuple[zipfile.ZipInfo, ArrayLayout]], list[str]]:
    """Layouts of the arrays, and what is wrong with the others."""
    layouts = []
    problems = []
    for info in members:
        try:
            layout = parse_layout(read_member(path, info, min(info.file_size, MAX_NPY_HEADER_BYTES)))
            check_member(info, 2**63 if layout.dtype.hasobject else layout.offset + layout.n_bytes)
            layouts.append((info, layout))
        except ReadError as error:
            problems.append(f"{info.filename.removesuffix('.npy')}: {error}")
    return layouts, problems


def _make_npz_frames(path: Path, images: list, settings: Mapping[str, Any]) -> tuple[Frame, ...]:
    guards.check_frames(sum(count_planes(layout.shape, axes) for _, layout, axes in images))
    arrays = UnpackedArrays(path)
    frames: list[Frame] = []
    for info, layout, axes in images:
        header = read_header(settings, layout.shape, axes)
        header = replace(header, foreign={**header.foreign, "npz.name": info.filename})
        frames += make_frames(layout, axes, partial(arrays.get_path, info), header)
    return tuple(frames)


class UnpackedArrays:
    """The array of an .npz that was read last, unpacked into a temporary file."""

    def __init__(self, path: Path):
        self.path = path
        self.name = ""
        self.copy: TemporaryCopy | None = None

    def get_path(self, info: zipfile.ZipInfo) -> Path:
        if self.copy is None or self.name != info.filename:
            self.copy = None  # removed before the next one is written
            self.copy = TemporaryCopy("array.npy", iterate_blocks(self.path, info, info.file_size), info.file_size)
            self.name = info.filename
        return self.copy.path


def make_frames(
    layout: ArrayLayout, axes: ImageAxes, get_path: Callable[[], Path], header: Header
) -> tuple[Frame, ...]:
    dtype = layout.dtype.newbyteorder("=")
    frame = Frame(
        layout.shape[axes.y],
        layout.shape[axes.x],
        dtype.name,
        header,
        lambda y0, y1: np.empty((0, 0)),
        is_colour=axes.colour is not None,
    )
    return tuple(
        replace(frame, read_rows=partial(_read_rows, get_path, layout, axes, plane))
        for plane in iterate_planes(layout.shape, axes)
    )


def _read_rows(
    get_path: Callable[[], Path], layout: ArrayLayout, axes: ImageAxes, plane: tuple[int, ...], y0: int, y1: int
) -> np.ndarray:
    try:
        array: Any = np.memmap(
            get_path(), layout.dtype, "r", layout.offset, layout.shape, "F" if layout.is_fortran else "C"
        )
        return np.array(read_plane(array, axes, plane, y0, y1))
    except ValueError as error:
        if isinstance(error, ReadError):
            raise
        raise ReadError(f"NumPy data are broken: {error}") from error
