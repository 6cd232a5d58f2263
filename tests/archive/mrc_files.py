"""MRC files of any header values, byte by byte."""

import struct
from pathlib import Path

import numpy as np
from mrcfile.dtypes import get_ext_header_dtype

IMOD_STAMP = 1146047817


def write_header(path: Path, data: bytes, shape: tuple[int, int, int], mode: int, *, order: str = "<",
                 cell: tuple | None = None, m: tuple | None = None, stats: tuple = (0.0, 0.0, 0.0),
                 imod: int | None = None,
                 extended: bytes = b"", exttyp: bytes = b"", counts: tuple = (0, 0), ispg: int = 0, axes=(1, 2, 3),
                 labels: tuple = (), mark: bytes = b"MAP ", stamp: bytes | None = None) -> None:  # fmt: skip
    """An MRC file of given header values. shape: (sections, rows, columns); counts: nint and nreal."""
    nz, ny, nx = shape
    header = bytearray(1024)

    def put(offset: int, layout: str, *values) -> None:
        struct.pack_into(order + layout, header, offset, *values)

    put(0, "4i", nx, ny, nz, mode)
    put(28, "3i", *(m or (nx, ny, nz)))
    put(40, "3f", *(cell or (5.0 * nx, 5.0 * ny, 5.0 * nz)))
    put(52, "3f", 90, 90, 90)
    put(64, "3i", *axes)
    put(76, "3f", *stats)
    put(88, "2i", ispg, len(extended))
    header[104 : 104 + len(exttyp)] = exttyp
    put(128, "2h", *counts)
    if imod is not None:
        put(152, "2i", IMOD_STAMP, imod)
    header[208:212] = mark
    header[212:216] = stamp or (b"DD\0\0" if order == "<" else b"\x11\x11\0\0")
    put(220, "i", len(labels))
    for k, label in enumerate(labels):
        header[224 + 80 * k : 224 + 80 * k + len(label)] = label.encode()
    path.write_bytes(bytes(header) + extended + data)


def make_fei_block(kind: bytes, order: str, values: dict) -> np.ndarray:
    dtype = get_ext_header_dtype(kind, order)
    block = np.zeros(1, dtype)
    block["Metadata size"] = dtype.itemsize
    block["Bitmask 1"] = 0xFFFFFFFF
    for name, value in values.items():
        block[name] = value
    return block


FEI_VALUES = {
    "HT": 300000.0, "Alpha tilt": -12.5, "X-Stage": 1e-5, "Y-Stage": -2e-6, "Z-Stage": 3e-7, "Pixel size X": 2e-9,
    "Pixel size Y": 2e-9, "Magnification": 5000.0, "Microscope type": b"TITAN", "Camera name": b"BM-Falcon",
    "Integration time": 1.5, "Dose": 4e21, "Timestamp": 44900.509108796294, "Instrument mode": 1, "Projection mode": 2,
}  # fmt: skip
