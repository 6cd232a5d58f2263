"""Images of JEOL Analysis Station (.img, .map): one image with its microscope, or an element map of an EDS scan."""

import struct
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from emqa_dask.archive.metadata.headers import Header, flatten_metadata, get_entry
from emqa_dask.archive.metadata.pixel_size import StatedSize, choose_pixel_size
from emqa_dask.archive.metadata.values import clean_text, parse_number, parse_positive
from emqa_dask.archive.source import Frame, ReadError, Source

MAX_DEPTH = 32  # of nested entries; JEOL writes about 5
MAX_KEY_BYTES = 1024
MAX_FILE_BYTES = 2**29  # an image of 8192 x 8192 pixels of 4 bytes has half of this
FIRST_DAY = datetime(1899, 12, 30)  # of the dates, which are days
_FORMATS = {1: "u1", 2: "u2", 3: "i4", 4: "f4", 5: "f8", 6: "u1", 7: "u2", 8: "i4", 9: "f4", 10: "f8", 11: "?",
            14: "u2", 65552: "?", 65553: "?"}  # fmt: skip
_TEXT_TYPES = (12, 13, 20)


@dataclass(frozen=True)
class _Bits:
    """Where the pixels lie in the file."""

    offset: int
    n_bytes: int
    dtype: np.dtype


def open_jeol_image(path: str | Path) -> Source:
    """JEOL .img or .map -> Source with one frame; the frame of an element map is only for read_micrograph()."""
    if Path(path).stat().st_size > MAX_FILE_BYTES:
        raise ReadError(f"a JEOL image of over {MAX_FILE_BYTES:,} bytes is not read")
    data = Path(path).read_bytes()
    if len(data) < 48:
        raise ReadError("truncated JEOL image: it ends within its header")
    tree = _parse_tags(data, struct.unpack_from("<I", data, 44)[0] + 12)
    size = np.atleast_1d(get_entry(tree, "Image.Size"))
    bits = get_entry(tree, "Image.Bits")
    if not isinstance(bits, _Bits) or len(size) != 2 or min(parse_number(v) for v in size) < 1:
        raise ReadError("broken JEOL image: it has no pixels, or no size of them")
    width, height = (int(v) for v in size)
    expected = width * height * bits.dtype.itemsize
    if bits.n_bytes < expected or bits.offset + expected > len(data):
        raise ReadError(f"truncated JEOL image: {len(data) - bits.offset:,} of {expected:,} bytes of pixels")
    reader = partial(_read_rows, path, bits, width)
    frame = Frame(height, width, bits.dtype.newbyteorder("=").name, _make_header(tree, width, height), reader, height)
    if parse_number(get_entry(tree, "Map.ElementNo")) > 0:
        title = clean_text(get_entry(tree, "Map.Title")) or clean_text(get_entry(tree, "Image.Title")) or ""
        return Source("JEOL image", "signal", f"an element map ({title}) of an EDS scan, not a micrograph", (frame,))
    return Source("JEOL image", "micrograph", "", (frame,))


def _parse_tags(data: bytes, position: int) -> dict[str, Any]:
    """Nested entries from `position`: each a mark 1, key, type and value, then its children, then a mark -1."""
    tree: dict[str, Any] = {}
    branches = [tree]
    while position < len(data) and data[position] in (1, 255):
        position += 1
        if data[position - 1] == 255:
            if len(branches) == 1:
                break
            branches.pop()
            continue
        try:
            key, value, position = _parse_entry(data, position)
        except struct.error as error:
            raise ReadError("truncated JEOL image: it ends within its header") from error
        if len(branches) > MAX_DEPTH:
            raise ReadError("broken JEOL image: its entries are nested too deeply")
        branches[-1][key] = value
        branches.append(value if isinstance(value, dict) else {})
    return tree


def _parse_entry(data: bytes, position: int) -> tuple[str, Any, int]:
    """Key and value of one entry, and the position behind it; a value without a type holds other entries."""
    (n_key,) = struct.unpack_from("<I", data, position)
    if n_key > MAX_KEY_BYTES:
        raise ReadError(f"broken JEOL image: a key of {n_key:,} bytes")
    position += 4
    key = data[position : position + n_key].rstrip(b"\0").decode("utf-8", "replace")
    position += n_key
    kind, n_bytes = struct.unpack_from("<II", data, position)
    position += 8
    if kind == 0:
        return key, {}, position
    if position + n_bytes > len(data):
        raise ReadError(
            f"truncated JEOL image: {key} has {n_bytes:,} bytes, of which {len(data) - position:,} are left"
        )
    if kind in _TEXT_TYPES:
        return key, data[position : position + n_bytes].rstrip(b"\0").decode("utf-8", "replace"), position + n_bytes
    if kind not in _FORMATS:
        raise ReadError(f"broken JEOL image: {key} is of the unknown type {kind}")
    dtype = np.dtype(_FORMATS[kind]).newbyteorder("<")
    if key == "Bits":
        return key, _Bits(position, n_bytes, dtype), position + n_bytes
    values = np.frombuffer(data, dtype, count=n_bytes // dtype.itemsize, offset=position)
    return key, values[0] if len(values) == 1 else values, position + n_bytes


def _make_header(tree: dict[str, Any], width: int, height: int) -> Header:
    instrument = get_entry(tree, "Instrument") or {}
    field_nm = parse_positive(instrument.get("ScanSize"), 1e6) / parse_positive(instrument.get("Mag"))
    days = parse_number(get_entry(tree, "Image.Created"))
    header = Header(
        voltage_kv=parse_positive(instrument.get("AccV")),
        magnification=parse_positive(instrument.get("Mag")),
        instrument=clean_text(instrument.get("Name")),
        acquired=(FIRST_DAY + timedelta(days=days)).isoformat(timespec="seconds") if 1 < days < 1e5 else None,
        foreign=flatten_metadata({k: v for k, v in tree.items() if k in ("Instrument", "Image", "Map", "FileType")}),
    )
    return choose_pixel_size(header, [StatedSize(field_nm / width, field_nm / height, "ScanSize / Mag")], width)


def _read_rows(path: str | Path, bits: _Bits, width: int, y0: int, y1: int) -> np.ndarray:
    row_bytes = width * bits.dtype.itemsize
    with open(path, "rb") as file:
        file.seek(bits.offset + y0 * row_bytes)
        data = file.read((y1 - y0) * row_bytes)
    if len(data) < (y1 - y0) * row_bytes:
        raise ReadError("truncated JEOL image: the file became shorter while it was read")
    return np.frombuffer(data, bits.dtype).reshape(y1 - y0, width)
