"""TIA .ser files as they are on disk: elements with their calibrations, and rows of them by offset (Boothroyd 2010)."""

import math
import struct
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from emqa_dask.archive.checks import guards
from emqa_dask.archive.source import ReadError

SERIES_ID = 0x0197
DATA_1D = 0x4120
DATA_2D = 0x4122
TAG_POSITION = 0x4142  # time and position of the beam; the other tag type, 0x4152, has the time alone
VERSION_64_BIT = 0x0220  # offsets of 8 bytes, since TIA 4.7.3
DTYPES = {1: "u1", 2: "u2", 3: "u4", 4: "i1", 5: "i2", 6: "i4", 7: "f4", 8: "f8", 9: "c8", 10: "c16"}
MAX_DIMENSIONS = 16  # TIA writes at most 2
MAX_TEXT_BYTES = 4096  # of a description or a unit


@dataclass(frozen=True)
class SerDimension:
    """One axis along which the elements of a series lie."""

    size: int
    step: float
    description: str
    unit: str


@dataclass(frozen=True)
class SerImage:
    """One 2-D element: where its pixels start, and its calibration (in m, or in 1/m for a diffraction pattern)."""

    offset: int
    width_px: int
    height_px: int
    dtype: str
    step_x: float
    step_y: float
    time_s: int  # since 1970, UTC; 0 where the file has none


@dataclass(frozen=True)
class SerSeries:
    """Contents of a .ser file; `images` are those whose pixels are all in the file."""

    is_spectral: bool
    has_positions: bool
    n_total: int  # elements that were planned
    n_valid: int  # elements that were acquired
    dimensions: tuple[SerDimension, ...]
    images: tuple[SerImage, ...]
    problem: str  # of the first element that could not be read


class _Head(NamedTuple):
    """First values of a .ser file."""

    mark: int
    series_id: int
    version: int
    data_type: int
    tag_type: int
    n_total: int
    n_valid: int


def read_series(path: str | Path) -> SerSeries:
    """Contents of a .ser file, without its pixels. Raises ReadError for files that are none, or without any element."""
    with open(path, "rb") as file:
        n_bytes = file.seek(0, 2)
        file.seek(0)
        head = _Head(*_unpack(file, "HHHIIII"))
        if head.mark != 0x4949 or head.series_id != SERIES_ID or head.data_type not in (DATA_1D, DATA_2D):
            raise ReadError("broken SER: its first bytes are not those of a TIA series")
        offset_type = "Q" if head.version >= VERSION_64_BIT else "I"
        (table_offset,) = _unpack(file, offset_type)
        (n_dimensions,) = _unpack(file, "I")
        if n_dimensions > MAX_DIMENSIONS:
            raise ReadError(f"broken SER: it says that it has {n_dimensions:,} dimensions")
        dimensions = tuple(_read_dimension(file) for _ in range(n_dimensions))
        has_positions = head.tag_type == TAG_POSITION
        if head.data_type == DATA_1D:
            return SerSeries(True, has_positions, head.n_total, head.n_valid, dimensions, (), "")
        guards.check_frames(head.n_valid)
        file.seek(min(table_offset, n_bytes))
        offsets = _unpack(file, f"{head.n_valid}{offset_type}")
        images, problem = _read_images(file, offsets, head.tag_type, n_bytes)
    return SerSeries(False, has_positions, head.n_total, head.n_valid, dimensions, images, problem)


def _unpack(file: BinaryIO, layout: str) -> tuple:
    data = file.read(struct.calcsize("<" + layout))
    if len(data) < struct.calcsize("<" + layout):
        raise ReadError("truncated SER: the file ends within its header")
    return struct.unpack("<" + layout, data)


def _read_dimension(file: BinaryIO) -> SerDimension:
    fields = _unpack(file, "IddI")
    description = _read_text(file)
    return SerDimension(fields[0], fields[2], description, _read_text(file))


def _read_text(file: BinaryIO) -> str:
    (n_bytes,) = _unpack(file, "I")
    if n_bytes > MAX_TEXT_BYTES:
        raise ReadError(f"broken SER: a text of {n_bytes:,} bytes in its header")
    return _unpack(file, f"{n_bytes}s")[0].decode("latin-1").strip("\0 ")


def _read_images(
    file: BinaryIO, offsets: tuple[int, ...], tag_type: int, n_bytes: int
) -> tuple[tuple[SerImage, ...], str]:
    """The whole images of a series, and the problem of the first one that is not whole."""
    images = []
    problem = ""
    for offset in offsets:
        try:
            images.append(_read_image(file, offset, tag_type, n_bytes))
        except ReadError as error:
            problem = problem or str(error)
    total = sum(image.height_px * image.width_px * np.dtype(image.dtype).itemsize for image in images)
    if total > n_bytes:
        raise ReadError(f"broken SER: images of {total:,} bytes in a file of {n_bytes:,}")
    return tuple(images), problem


def _read_image(file: BinaryIO, offset: int, tag_type: int, n_bytes: int) -> SerImage:
    file.seek(min(offset, n_bytes))
    fields = _unpack(file, "ddiddiHII")
    step_x = fields[1]
    step_y = fields[4]
    data_type = fields[6]
    width, height = fields[7:]
    if data_type not in DTYPES:
        raise ReadError(f"broken SER: an image of the unknown data type {data_type}")
    start = file.tell()
    expected = width * height * np.dtype(DTYPES[data_type]).itemsize
    if not expected:
        raise ReadError(f"broken SER: an image of {height} x {width} pixels")
    if start + expected > n_bytes:
        raise ReadError(f"truncated SER: {n_bytes - start:,} of {expected:,} bytes of an image")
    file.seek(start + expected)
    tag = file.read(8)  # behind the pixels, wherever the table of the tags points (in some files to the end)
    is_tag = len(tag) == 8 and struct.unpack_from("<H", tag)[0] == tag_type
    time_s = struct.unpack_from("<I", tag, 4)[0] if is_tag else 0
    return SerImage(start, width, height, DTYPES[data_type], step_x, step_y, time_s)


def make_row_reader(path: str | Path, image: SerImage) -> partial:
    """Function (y0, y1) -> these rows of one image, the uppermost one first."""
    return partial(_read_rows, path, image)


def _read_rows(path: str | Path, image: SerImage, y0: int, y1: int) -> np.ndarray:
    dtype = np.dtype("<" + image.dtype)
    n_values = (y1 - y0) * image.width_px
    with open(path, "rb") as file:  # TIA stores the lowest row first
        file.seek(image.offset + (image.height_px - y1) * image.width_px * dtype.itemsize)
        data = file.read(n_values * dtype.itemsize)
    if len(data) < n_values * dtype.itemsize:
        raise ReadError("truncated SER: the file became shorter while it was read")
    return np.frombuffer(data, dtype).reshape(y1 - y0, image.width_px)[::-1]


def is_finite_step(step: float) -> bool:
    """Whether a calibration is a number other than 0."""
    return math.isfinite(step) and step != 0
