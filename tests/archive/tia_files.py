"""TIA files, byte by byte as TIA writes them."""

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

DATA_TYPES = {"uint8": 1, "uint16": 2, "uint32": 3, "int8": 4, "int16": 5, "int32": 6, "float32": 7, "float64": 8,
              "complex64": 9, "complex128": 10}  # fmt: skip
MODE_STEM = " STEM nP SA Zoom Diffraction"
TIME_S = 1456073551  # 2016-02-21 16:52:31 UTC


def _dimension(size: int, step: float, description: str, unit: str) -> bytes:
    texts = b"".join(struct.pack("<I", len(t)) + t.encode() for t in (description, unit))
    return struct.pack("<Iddi", size, 0.0, step, 0) + texts


def write_ser(path: Path, images: Sequence[np.ndarray], step_m: tuple[float, float] = (2e-9, 2e-9), *,
              version: int = 0x220, n_total: int | None = None, grid: tuple[int, int] | None = None,
              time_s: int = TIME_S) -> None:  # fmt: skip
    """A series of 2-D images (or of 1-D spectra); `step_m` along x and y; `grid`: positions (rows, columns)."""
    is_2d = np.ndim(images[0]) == 2
    n_total = len(images) if n_total is None else n_total
    offset_type = "Q" if version >= 0x220 else "I"
    dimensions = [_dimension(n_total, 1.0, "Number", "")]
    if grid:
        dimensions = [_dimension(n, 1e-9, "Position", "meters") for n in reversed(grid)]
    start = 26 + struct.calcsize(offset_type) + sum(map(len, dimensions))
    position = start + 2 * n_total * struct.calcsize(offset_type)
    blocks = []
    data_offsets = []
    tag_offsets = []
    for k, image in enumerate(images):
        data_type = struct.pack("<H", DATA_TYPES[image.dtype.name])
        sizes = struct.pack(f"<{image.ndim}I", *reversed(image.shape))
        calibration = struct.pack("<ddi", 0.0, step_m[0], 0) + struct.pack("<ddi", 0.0, step_m[1], 0) * is_2d
        stored = image[::-1] if is_2d else image
        data = calibration + data_type + sizes + stored.astype(image.dtype.newbyteorder("<")).tobytes()
        tag = struct.pack("<HHI", 0x4142 if grid else 0x4152, 0, time_s + k)
        if grid:
            tag += struct.pack("<dd", *[1e-9 * n for n in divmod(k, grid[1])][::-1])
        data_offsets.append(position)
        tag_offsets.append(position + len(data))
        position += len(data) + len(tag)
        blocks += [data, tag]
    padding = [0] * (n_total - len(images))
    # TIA keeps room for every planned element behind the table of those that were acquired.
    table = struct.pack(f"<{2 * n_total}{offset_type}", *data_offsets, *padding, *tag_offsets, *padding)
    head = struct.pack("<HHHIIII" + offset_type + "I", 0x4949, 0x0197, version, 0x4122 if is_2d else 0x4120,
                       0x4142 if grid else 0x4152, n_total, len(images), start, len(dimensions))  # fmt: skip
    path.write_bytes(head + b"".join(dimensions) + table + b"".join(blocks))


def make_object(
    ser: str,
    mode: str = MODE_STEM,
    *,
    camera: str | None = None,
    display: str = "Search BF",
    space: str = "Real",
    date: str = "Sun Feb 21 17:52:31 2016",
    values: dict | None = None,
) -> bytes:
    """What a .emi has about one image: names of its display and its .ser file, then the XML."""
    entries = {"Microscope": ("Microscope Tecnai 200 kV D2267 SuperTwin", ""), "High tension": ("200", "kV"),
               "Mode": (mode, ""), "Magnification": ("10000", "x"), "Stage X": ("-0.158", "um"),
               "Stage Y": ("19", "nm"), "Stage Z": ("0.021", "um"), "Stage A": ("12.50", "deg"),
               **(values or {})}  # fmt: skip
    data = "".join(
        f"<Data><Label>{k}</Label><Value>{v}</Value><Unit>{u}</Unit></Data>" for k, (v, u) in entries.items()
    )
    conditions = (
        "<ExperimentalConditions><MicroscopeConditions><AcceleratingVoltage>200000</AcceleratingVoltage>"
        "</MicroscopeConditions></ExperimentalConditions>"
    )
    device = f"<CameraNamePath>{camera}</CameraNamePath>" if camera else "<FrameTime>0.5</FrameTime>"
    xml = (
        f"<ObjectInfo><Uuid>6c49c5b9</Uuid>{conditions}<ExperimentalDescription><Root>{data}</Root></ExperimentalDescription>"
        f"<AcquireDate>{date}</AcquireDate><AcquireInfo><DwellTimePath>0.1</DwellTimePath>{device}</AcquireInfo>"
        "<Manufacturer>FEI</Manufacturer></ObjectInfo>"
    )
    kind = "Image" if camera else "Scanning"
    file_name = f"F:\\Work\\{ser}".encode()
    return (
        b"PE\x00\x04`\x00\x00\x04" + f"{display} {kind} Display1".encode() + b"\x01`\x00\x00\x04\n\x00\x00\x00"
        + f"{space} Space".encode() + b"`\x00@\x04" + struct.pack("<I", len(file_name)) + file_name + b"2\x00B\x04\x02"
        + xml.encode()
    )  # fmt: skip


def write_emi(path: Path, *objects: bytes) -> None:
    path.write_bytes(b"JK\x00\x02M\x01" + b"\x00\x04".join(objects) + b"\x00M\x00")
