"""Digital Micrograph files (DM3 and DM4), tag by tag as Gatan's software writes them."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

DATA_TYPES = {"int16": 1, "float32": 2, "complex64": 3, "uint8": 6, "int32": 7, "int8": 9, "uint16": 10, "uint32": 11,
              "float64": 12, "complex128": 13, "rgb": 23}  # fmt: skip
_ELEMENT_TYPES = {"int16": 2, "int32": 3, "uint16": 4, "uint32": 5, "float32": 6, "float64": 7, "uint8": 10, "int8": 9}


class Pixels:
    """An array that is written as ImageData.Data."""

    def __init__(self, array: np.ndarray):
        self.array = array


def make_image(
    pixels: np.ndarray,
    *,
    scales: Sequence[float] = (0.5, 0.5),
    units: Sequence[str] = ("nm", "nm"),
    tags: Mapping | None = None,
    name: str = "x",
    data_type: int | None = None,
) -> dict[str, Any]:
    """Tags of one image; scales and units of the axes, x first."""
    is_rgb = pixels.ndim == 3 and pixels.dtype == np.uint8 and pixels.shape[-1] == 4
    shape = pixels.shape[:-1] if is_rgb else pixels.shape
    axes = [{"Origin": 0.0, "Scale": float(s), "Units": u} for s, u in zip(scales, units, strict=True)]
    return {
        "ImageData": {
            "Calibrations": {
                "Brightness": {"Origin": 0.0, "Scale": 1.0, "Units": ""},
                "Dimension": {f"\0{k}": axis for k, axis in enumerate(axes)},
            },
            "Data": Pixels(pixels),
            "DataType": data_type or DATA_TYPES["rgb" if is_rgb else pixels.dtype.name],
            "Dimensions": {f"\0{k}": n for k, n in enumerate(reversed(shape))},
            "PixelDepth": 4 if is_rgb else pixels.dtype.itemsize,
        },
        "ImageTags": dict(tags or {}),
        "Name": name,
    }


def write_dm(path: Path, *images: Mapping, version: int = 3, extra: Mapping | None = None) -> None:
    """A DM3 or DM4 file of `images`, as make_image() gives them. extra: other groups of the file."""
    tree = {"ImageList": {f"\0{k}": image for k, image in enumerate(images)}, **(extra or {})}
    body = _write_group(tree, version)
    size = struct.pack(">I" if version == 3 else ">Q", len(body) + 4)
    path.write_bytes(struct.pack(">I", version) + size + struct.pack(">I", 1) + body + bytes(8))


def _write_group(tree: Mapping, version: int) -> bytes:
    length = ">I" if version == 3 else ">Q"
    entries = b"".join(_write_tag(key, value, version) for key, value in tree.items())
    return struct.pack(">??", False, False) + struct.pack(length, len(tree)) + entries


def _write_tag(key: str, value: Any, version: int) -> bytes:
    name = b"" if key.startswith("\0") else key.encode("latin-1")  # a tag of a list has no name
    is_group = isinstance(value, Mapping)
    content = _write_group(value, version) if is_group else _write_data(value, version)
    head = struct.pack(">BH", 20 if is_group else 21, len(name)) + name
    if version == 4:
        head += struct.pack(">Q", len(content))
    return head + content


def _write_data(value: Any, version: int) -> bytes:
    number = ">I" if version == 3 else ">Q"

    def pack(*numbers: int) -> bytes:
        return b"%%%%" + b"".join(struct.pack(number, n) for n in (len(numbers), *numbers))

    if isinstance(value, Pixels):
        array = value.array
        if array.dtype.kind == "c":
            array = array.view(np.float32 if array.dtype.itemsize == 8 else np.float64)
        kind = 5 if array.ndim == 3 and array.shape[-1] == 4 and array.dtype == np.uint8 else None
        n = array.size // 4 if kind else array.size
        return pack(20, kind or _ELEMENT_TYPES[array.dtype.name], n) + array.tobytes()
    if isinstance(value, str):
        data = value.encode("utf-16-le")
        return pack(20, 4, len(data) // 2) + data
    if isinstance(value, int):
        return pack(3 if -(2**31) <= value < 2**31 else 11) + struct.pack("<i" if abs(value) < 2**31 else "<q", value)
    return pack(7) + struct.pack("<d", value)
