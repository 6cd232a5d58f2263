"""NumPy's .npy and .npz -> frames. Arrays of Python objects are pickles, which are never loaded."""

import io
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from emqa_dask.archive.axes import ImageAxes, NoImage, count_planes, identify_axes, iterate_planes, read_plane
from emqa_dask.archive.checks import guards
from emqa_dask.archive.checks.zip_members import check_member, iterate_blocks, read_member
from emqa_dask.archive.formats.packed import TemporaryCopy
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import StatedSize, choose_pixel_size
from emqa_dask.archive.metadata.values import parse_number
from emqa_dask.archive.source import Frame, ReadError, Source

PIXEL_SIZE_NAMES = ("nm_per_pixel", "pixel_size_nm")  # of scalars in an .npz
MAX_NPY_HEADER_BYTES = 10_000 + 16  # numpy's own limit, and what precedes the text
_MAX_ARRAYS = 10_000  # of an .npz


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
    """Layout of the .npy that begins with `head`; ReadError where it is broken or holds Python objects."""
    file = io.BytesIO(head)
    try:
        is_first_version = np.lib.format.read_magic(file) == (1, 0)  # version 3 has the layout of version 2
        read_header = np.lib.format.read_array_header_1_0 if is_first_version else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read_header(file)
    except Exception as error:  # numpy evaluates a text: anything can come
        raise ReadError(f"broken NumPy header: {' '.join(str(error).split())[:120]}") from error
    if dtype.hasobject:
        raise ReadError("an array of Python objects, which are pickles that run any code: not loaded")
    if any(n < 0 for n in shape):
        raise ReadError(f"broken NumPy header: a shape of {shape}")
    return ArrayLayout(shape, is_fortran, dtype, file.tell())


def open_npy(path: Path) -> Source:
    """An .npy -> Source; ReadError when it is broken or cut."""
    with open(path, "rb") as file:
        layout = parse_layout(file.read(MAX_NPY_HEADER_BYTES))
        n_bytes = file.seek(0, 2)
    axes = identify_axes(layout.shape, layout.dtype)
    if isinstance(axes, NoImage):
        return Source("NumPy", axes.kind, axes.reason)
    if n_bytes < layout.offset + layout.n_bytes:
        raise ReadError(f"truncated: {n_bytes - layout.offset:,} of {layout.n_bytes:,} bytes of its array are there")
    guards.check_frames(count_planes(layout.shape, axes))
    frames = make_frames(layout, axes, lambda: path, Header())
    return Source("NumPy", "stack" if len(frames) > 1 else "micrograph", "", frames)


def open_npz(path: Path, members: list[zipfile.ZipInfo]) -> Source:
    """An .npz -> Source: each array that is an image or a stack; the reason names the other arrays."""
    images: list[tuple[zipfile.ZipInfo, ArrayLayout, ImageAxes]] = []
    remarks = []
    kind = "signal"
    sizes = []
    if len(members) > _MAX_ARRAYS:
        raise ReadError(f"an .npz of over {_MAX_ARRAYS:,} arrays is not read")
    for info in members:
        name = info.filename.removesuffix(".npy")
        try:
            layout = parse_layout(read_member(path, info, min(info.file_size, MAX_NPY_HEADER_BYTES)))
            check_member(info, layout.offset + layout.n_bytes)
        except ReadError as error:
            remarks.append(f"{name}: {error}")
            continue
        if name in PIXEL_SIZE_NAMES and layout.n_bytes <= 64:
            data = read_member(path, info, layout.offset + layout.n_bytes)[layout.offset :]
            sizes.append(StatedSize(parse_number(np.frombuffer(data, layout.dtype)), origin=name))
            continue
        axes = identify_axes(layout.shape, layout.dtype)
        if isinstance(axes, ImageAxes):
            images.append((info, layout, axes))
        elif len(layout.shape) >= 2:
            kind = axes.kind
            remarks.append(f"{name} is {axes.reason}")
    masks = [image for image in images if image[1].dtype.kind == "b"]
    if len(masks) < len(images):
        images = [image for image in images if image not in masks]
        remarks += [f"{info.filename.removesuffix('.npy')} is a mask" for info, _, _ in masks]
    frames = _make_npz_frames(path, images, sizes)
    if not frames:
        return Source("NumPy (.npz)", kind, "; ".join(remarks[:3]) or "no array of it is an image")
    return Source("NumPy (.npz)", "stack" if len(frames) > 1 else "micrograph", "; ".join(remarks[:3]), frames)


def _make_npz_frames(path: Path, images: list, sizes: list[StatedSize]) -> tuple[Frame, ...]:
    guards.check_frames(sum(count_planes(layout.shape, axes) for _, layout, axes in images))
    arrays = UnpackedArrays(path)
    frames: list[Frame] = []
    for info, layout, axes in images:
        header = choose_pixel_size(Header(foreign={"npz.name": info.filename}), sizes, layout.shape[axes.x])
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
