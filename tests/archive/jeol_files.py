"""Images of JEOL Analysis Station, entry by entry as it writes them."""

import struct
from pathlib import Path

import numpy as np

TYPES = {"B": 1, "H": 2, "i": 3, "f": 4, "d": 5, "s": 12}
CREATED_DAYS = 42832.756006944444  # 2017-04-07 18:08:39


def make_entry(key: str, layout: str, *values, children: bytes = b"") -> bytes:
    """One entry; layout "" for one that holds `children`."""
    name = key.encode() + b"\0"
    head = b"\x01" + struct.pack("<i", len(name)) + name
    if not layout:
        return head + struct.pack("<ii", 0, 0) + children + b"\xff"
    data = values[0].encode() + b"\0" if layout == "s" else struct.pack(f"<{len(values)}{layout}", *values)
    return head + struct.pack("<ii", TYPES[layout], len(data)) + data + b"\xff"


def write_jeol(path: Path, pixels: np.ndarray, *, element: int = 0, mag: int = 40000, kv: float = 200.0) -> None:
    instrument = make_entry("Instrument", "", children=b"".join([
        make_entry("Name", "s", "JEM-2100F"), make_entry("ScanSize", "f", 178.0), make_entry("AccV", "f", kv),
        make_entry("Mag", "i", mag)]))  # fmt: skip
    height, width = pixels.shape
    content = make_entry("Image", "", children=b"".join([
        make_entry("Created", "d", CREATED_DAYS), make_entry("Title", "s", "C K" if element else "IMG1"),
        make_entry("Size", "i", width, height),
        make_entry("Bits", {"u1": "B", "u2": "H"}[pixels.dtype.str[1:]], *pixels.ravel().tolist())]))  # fmt: skip
    maps = make_entry("Map", "", children=make_entry("ElementNo", "H", element)) if element else b""
    start = 80
    head = struct.pack("<I", 52) + b"JED-2200:LibJxImageForm".ljust(32, b"\0") + struct.pack("<III", 64, 0, start)
    path.write_bytes(head.ljust(start + 12, b"\0") + instrument + content + maps + b"\xff\xff\0")
