"""Rows of one TIFF page, from its strips or tiles or from pixels that lie as they are; the file is open only then."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import tifffile

from emqa_dask.archive.checks.jpeg import find_jpeg_damage
from emqa_dask.archive.source import ReadError, is_damage_recorded, record_damage

JPEG = (6, 7, 34892, 33007)
_JPEG2000 = (33003, 33004, 33005, 34712)
_LZW = 5
_SLACK_BYTES = 2**20  # a compressed strip or tile may be so much larger than twice its pixels


@dataclass(frozen=True)
class PageLayout:
    """All that is needed to read the pixels of one page: tifffile looks some of it up in the file, when it is asked."""

    number: int  # of the page, from 1
    n_planes: int  # samples that are stored one behind the other; 1 where they are interleaved
    depth: int
    height: int
    width: int
    n_samples: int  # that are interleaved
    dtype: np.dtype
    segment_shape: tuple[int, int, int]  # depth, rows and columns of a strip or tile
    offsets: tuple[int, ...] = field(repr=False)
    byte_counts: tuple[int, ...] = field(repr=False)
    decode: Callable = field(repr=False)
    compression: int
    tables: dict[str, bytes | None] = field(repr=False)  # arguments of `decode`
    row_bits: int  # of a row of a strip or tile
    is_reversed: bool  # the bits of each byte
    nodata: float
    stored_dtype: np.dtype | None  # of pixels that lie in one piece as they are in the file; None for others

    def shift(self, n_bytes: int) -> "PageLayout":
        """The layout of an image that lies so many bytes behind, where no page lists it."""
        return replace(self, offsets=(self.offsets[0] + n_bytes, *self.offsets[1:])) if n_bytes else self

    @property
    def n_segments(self) -> int:
        """Number of strips or tiles that the page has to have."""
        sizes = zip((self.depth, self.height, self.width), self.segment_shape, strict=True)
        return self.n_planes * math.prod(-(-size // step) for size, step in sizes)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of the image with all its interleaved samples, decoded."""
        return max(1, self.width * self.n_samples * self.dtype.itemsize)


def describe_layout(page: tifffile.TiffPage, number: int) -> PageLayout:
    """The layout of `page`, whose file is open; ValueError where its pixels cannot be decoded at all."""
    n_planes = page.shaped[0]
    depth, height, width = page.shaped[1:4]
    n_samples = page.shaped[4]
    dtype = np.dtype(page.dtype)
    segment_shape = (1, min(page.rowsperstrip, height), width)
    if page.is_tiled:
        segment_shape = (max(1, page.tiledepth), page.tilelength, page.tilewidth)
    is_plain = page.is_final and page.compression == 1 and page.bitspersample % 8 == 0
    tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if page.compression in JPEG else {}
    return PageLayout(
        number, n_planes, depth, height, width, n_samples, dtype, segment_shape,
        tuple(page.dataoffsets), tuple(page.databytecounts), page.decode, int(page.compression), tables,
        segment_shape[2] * n_samples * _count_bits(page), page.fillorder == 2, page.nodata,
        dtype.newbyteorder(page.parent.byteorder) if is_plain else None,
    )  # fmt: skip


def _count_bits(page: tifffile.TiffPage) -> int:
    bits = page.bitspersample
    return -(-sum(bits) // len(bits)) if isinstance(bits, tuple) else bits


def read_rows(path, layout: PageLayout, z: int, plane: int | None, y0: int, y1: int) -> np.ndarray:
    """Rows y0:y1 at depth z as (h, w, samples): of one plane, or of all planes side by side for `plane` None."""
    planes = range(layout.n_planes) if plane is None else (plane,)
    read = _read_segments if layout.stored_dtype is None else _read_contiguous
    parts = [read(path, layout, z, number, y0, y1) for number in planes]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def _read_contiguous(path, layout: PageLayout, z: int, plane: int, y0: int, y1: int) -> np.ndarray:
    """Rows of pixels that lie as they are in the file."""
    n_rows = y1 - y0
    first_row = (plane * layout.depth + z) * layout.height + y0
    with open(path, "rb") as file:
        file.seek(layout.offsets[0] + first_row * layout.row_bytes)
        data = file.read(n_rows * layout.row_bytes)
        if len(data) < n_rows * layout.row_bytes:
            have = max(0, file.seek(0, 2) - layout.offsets[0])
            n_bytes = layout.n_planes * layout.depth * layout.height * layout.row_bytes
            raise ReadError(f"truncated TIFF: page {layout.number} ends after {have:,} of {n_bytes:,} bytes")
    return np.frombuffer(data, layout.stored_dtype).reshape(n_rows, layout.width, layout.n_samples)


def _read_segments(path, layout: PageLayout, z: int, plane: int, y0: int, y1: int) -> np.ndarray:
    """Rows from the strips or tiles that touch them; those that a sparse file does not hold have its value for none."""
    out = np.full((y1 - y0, layout.width, layout.n_samples), layout.nodata, layout.dtype)
    segment_depth, segment_rows, segment_columns = layout.segment_shape
    n_across = -(-layout.width // segment_columns)
    n_down = -(-layout.height // segment_rows)
    n_deep = -(-layout.depth // segment_depth)
    if min(len(layout.offsets), len(layout.byte_counts)) < layout.n_segments:
        raise ReadError(
            f"truncated TIFF: page {layout.number} lists {len(layout.offsets)} of {layout.n_segments} strips or tiles"
        )
    slab = (plane * n_deep + z // segment_depth) * n_down
    with open(path, "rb") as file:
        for index in range((slab + y0 // segment_rows) * n_across, (slab - (-y1 // segment_rows)) * n_across):
            data = _read_segment(file, layout, index)
            if data is not None:
                _copy_segment(out, layout, _decode_segment(layout, data, index), z % segment_depth, y0)
    return out


def _read_segment(file, layout: PageLayout, index: int) -> bytes | None:
    """The bytes of a strip or tile; None where the file does not hold it."""
    name = f"page {layout.number}, strip or tile {index + 1}"
    offset = layout.offsets[index]
    n_bytes = layout.byte_counts[index]
    if offset == 0 or n_bytes == 0:
        record_damage(f"{name} of {layout.n_segments} is absent from the file")
        return None
    depth, rows, columns = layout.segment_shape
    if n_bytes > 2 * depth * rows * columns * layout.n_samples * layout.dtype.itemsize + _SLACK_BYTES:
        raise ReadError(f"TIFF data are broken: {name} of {n_bytes:,} bytes")
    file.seek(offset)
    data = file.read(n_bytes)
    if len(data) < n_bytes:
        raise ReadError(f"truncated TIFF: {name} of {layout.n_segments} ends after {len(data):,} of {n_bytes:,} bytes")
    return data


def _decode_segment(layout: PageLayout, data: bytes, index: int) -> tuple[np.ndarray | None, int, int]:
    """Pixels of a strip or tile (depth, rows, columns, samples), and the row and column of its corner."""
    name = f"page {layout.number}, strip or tile {index + 1}"
    damage = _find_segment_damage(layout, data, index) if is_damage_recorded() else ""
    if damage:
        record_damage(f"{name}: {damage}")
    try:
        block, (_, _, top, left, _), _ = layout.decode(data, index, **layout.tables)
    except Exception as error:  # imagecodecs has an exception class for each codec
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise ReadError(f"TIFF data are broken: {name}: {text}") from error
    return block, top, left


def _copy_segment(out: np.ndarray, layout: PageLayout, segment: tuple, z: int, y0: int) -> None:
    """Copy to `out`, whose first row is y0, the part of a strip or tile at depth z in it that lies there."""
    block, top, left = segment
    if block is None or z >= block.shape[0]:
        return
    rows = block[z]
    a = max(top, y0)
    b = min(top + rows.shape[0], y0 + out.shape[0])
    right = min(left + rows.shape[1], layout.width)
    if b > a:
        out[a - y0 : b - y0, left:right] = rows[a - top : b - top, : right - left]


def _find_segment_damage(layout: PageLayout, data: bytes, index: int) -> str:
    """What is wrong with one compressed strip or tile that its decoder passes over; "" for nothing."""
    if layout.compression in JPEG:
        return find_jpeg_damage(data, layout.tables["jpegtables"] or b"") if not layout.tables["jpegheader"] else ""
    if layout.compression == _LZW and not layout.is_reversed:
        return _find_lzw_damage(layout, data, index)
    if layout.compression in _JPEG2000 and data[:4] == b"\xff\x4f\xff\x51" and b"\xff\xd9" not in data[-4:]:
        return "its end is missing"
    return ""


def _find_lzw_damage(layout: PageLayout, data: bytes, index: int) -> str:
    """LZW has no checksum; but a code that changed gives another number of bytes, mostly."""
    import imagecodecs

    depth, segment_rows, columns = layout.segment_shape
    is_tiled = columns != layout.width or segment_rows > layout.height
    row_bytes = (layout.row_bits + 7) // 8
    n_down = -(-layout.height // segment_rows)
    n_rows = segment_rows if is_tiled else min(segment_rows, layout.height - index % n_down * segment_rows)
    whole = depth * segment_rows * row_bytes
    try:
        n_bytes = len(imagecodecs.lzw_decode(data, out=whole + 1))
    except (RuntimeError, ValueError):
        return ""  # its decoder says so
    if n_bytes in (n_rows * row_bytes, whole):  # some write the last strip as long as the others
        return ""
    return f"it decodes to {n_bytes:,} bytes or more instead of {n_rows * row_bytes:,}"
