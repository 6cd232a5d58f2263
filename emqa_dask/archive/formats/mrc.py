"""MRC and MRCS files (Cheng et al. 2015, MRC2014): sections as frames, rows by offset, pixel size from Angstrom."""

import math
from functools import partial
from pathlib import Path

import numpy as np

from emqa_dask.archive.checks import guards
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import set_pixel_size
from emqa_dask.archive.metadata.values import parse_positive
from emqa_dask.archive.source import WINDOW_BYTES, Frame, ReadError, Source, record_damage

# https://www.ccpem.ac.uk/mrc-format/mrc2014/ ; complex (3, 4) and packed 4-bit (101) data are not read.
DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 7: "i4", 12: "f2"}
_HEADER_FIELDS = {
    "n": "3i4", "mode": "i4", "start": "3i4", "m": "3i4", "cell": "3f4", "angles": "3f4", "axes": "3i4",
    "stats": "3f4", "ispg": "i4", "nsymbt": "i4", "extra": "V100", "origin": "3f4", "map": "S4", "stamp": "4u1",
    "rms": "f4", "nlabl": "i4", "labels": "10S80",
}  # fmt: skip
_HEADER_DTYPE = np.dtype(list(_HEADER_FIELDS.items()))
# Extended header of FEI/ThermoFisher software, 128 bytes a section (von Loeffelholz; as RosettaSciIO reads it).
_FEI_FIELDS = ("a_tilt", "b_tilt", "x_stage", "y_stage", "z_stage", "x_shift", "y_shift", "defocus", "exp_time",
               "mean_int", "tilt_axis", "pixel_size", "magnification")  # fmt: skip


def parse_header(data: bytes) -> np.ndarray | None:
    """The first 1024 bytes as one record in native order, or None when they are no MRC header."""
    if len(data) < 1024:
        return None
    for order in "<>":
        record = np.frombuffer(data, _HEADER_DTYPE.newbyteorder(order), count=1)[0]
        n = record["n"].astype(int)
        mode = int(record["mode"])
        axes = record["axes"]
        is_sane = (n > 0).all() and (n < 2**24).all() and 0 <= record["nsymbt"] < 2**31 - 1
        is_marked = record["map"][:3] == b"MAP" or (axes == (1, 2, 3)).all() or (axes == 0).all()
        if is_sane and is_marked and mode in (*DTYPES, 3, 4, 101):
            return record
    return None


def open_mrc(path: str | Path) -> Source:
    """MRC -> Source with one frame per section; ReadError for headers that make no sense."""
    with open(path, "rb") as file:
        start = file.read(1024)
        record = parse_header(start)
        if record is None:
            raise ReadError("not an MRC file: the header's sizes and mode make no sense")
        extended = file.read(min(int(record["nsymbt"]), 2**20))
        n_bytes = file.seek(0, 2)
    mode = int(record["mode"])
    (width, height, n_sections) = (int(v) for v in record["n"])
    if mode not in DTYPES:
        content = "complex values (a Fourier transform)" if mode in (3, 4) else "packed 4-bit values"
        return Source("MRC", "signal", f"MRC of mode {mode}: {content}, not read as micrographs")
    dtype = np.dtype(DTYPES[mode]).newbyteorder(record.dtype["mode"].byteorder)
    offset = 1024 + int(record["nsymbt"])
    header = _make_header(record, extended)
    present = max(0, n_bytes - offset) // max(1, width * height * dtype.itemsize)
    expected = n_sections * width * height * dtype.itemsize
    reason = ""
    if present < n_sections:
        reason = (
            f"truncated MRC: {max(0, n_bytes - offset):,} of {expected:,} bytes, {present} of {n_sections} sections"
        )
        if present == 0:
            raise ReadError(reason)
    surplus = n_bytes - offset - expected
    rows = max(1, WINDOW_BYTES // (width * dtype.itemsize))
    present = min(present, n_sections)
    guards.check_frames(present)
    frames = tuple(
        Frame(height, width, dtype.newbyteorder("=").name, header,
              partial(_read_rows, path, offset + k * width * height * dtype.itemsize, width, dtype, surplus),
              min(rows, height))
        for k in range(present)
    )  # fmt: skip
    return Source("MRC", "stack" if n_sections > 1 else "micrograph", reason, frames)


def _read_rows(path, offset: int, width: int, dtype: np.dtype, surplus: int, y0: int, y1: int) -> np.ndarray:
    if surplus > 0:  # then the sections may lie elsewhere, or be of another size
        record_damage(f"the MRC file has {surplus:,} bytes more than its header says")
    with open(path, "rb") as file:
        file.seek(offset + y0 * width * dtype.itemsize)
        data = file.read((y1 - y0) * width * dtype.itemsize)
    if len(data) < (y1 - y0) * width * dtype.itemsize:
        raise ReadError("truncated MRC: the file became shorter while it was read")
    return np.frombuffer(data, dtype).reshape(y1 - y0, width)


def _make_header(record: np.ndarray, extended: bytes) -> Header:
    labels = [b.decode("latin-1").strip("\x00 ") for b in record["labels"][: max(0, min(10, int(record["nlabl"])))]]
    foreign = {k: record[k].item() for k in ("mode", "ispg", "nsymbt")}
    foreign |= {f"m{a}": int(v) for a, v in zip("xyz", record["m"])}
    foreign |= {f"cell_{a}": float(v) for a, v in zip("xyz", record["cell"])}
    foreign |= {f"label_{i}": v for i, v in enumerate(labels) if v}
    if int(record["nsymbt"]) == 128 * 1024 and len(extended) >= 128:
        fei = dict(zip(_FEI_FIELDS, np.frombuffer(extended, "<f4", count=len(_FEI_FIELDS)).tolist()))
        header = Header(magnification=parse_positive(fei["magnification"]), exposure_s=parse_positive(fei["exp_time"]),
                       foreign=foreign | fei)  # fmt: skip
        return set_pixel_size(header, parse_positive(fei["pixel_size"], 1e9))
    # In float32 and in this order, so that the size equals RosettaSciIO's to the last digit.
    with np.errstate(all="ignore"):
        nm = float(record["cell"][0] / record["m"][0]) / 10 if record["m"][0] > 0 else math.nan
    # Many programs write 1 Angstrom for an unknown scale; it is kept, and find_pixel_size_outliers() may flag it.
    return set_pixel_size(Header(foreign=foreign), nm if math.isfinite(nm) else math.nan)
