"""Text files that SEMs write beside an image (JEOL, Hitachi): pixel size and microscope of images without them."""

import math
import re
from dataclasses import replace
from pathlib import Path

from emqa_dask.archive import headers
from emqa_dask.archive.headers import Header, positive, text, to_nm
from emqa_dask.archive.source import Source, quiet

_MARKS = ("$CM_", "$$SM_", "[SemImageFile]")
_FORMATS = ("TIFF", "PNG", "JPEG", "BMP")


def is_sidecar(path: Path) -> bool:
    """Whether the text file at `path` was written by a microscope beside an image."""
    return path.suffix.lower() == ".txt" and any(mark in _read(path) for mark in _MARKS)


def _read(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(65536)
    except OSError:
        return ""
    return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1", "replace")


def complete(path: Path, source: Source) -> Source:
    """`source` with what the sidecar `path`.txt says, where there is one and the image has no pixel size itself."""
    if not source.frames or not (source.format or "").endswith(_FORMATS):
        return source
    if source.frames[0].header.nm_per_pixel == source.frames[0].header.nm_per_pixel:
        return source
    beside = path.with_suffix(".txt")
    words = _read(beside) if beside.is_file() else ""
    if not any(mark in words for mark in _MARKS):
        return source
    with quiet():
        found = parse(words)
    return replace(source, frames=tuple(replace(f, header=_merged(f.header, found)) for f in source.frames))


def _merged(own: Header, found: Header) -> Header:
    known = {
        name: value
        for name in ("voltage_kv", "magnification", "instrument", "acquired", "nm_per_pixel", "nm_per_pixel_source")
        if (value := getattr(found, name)) is not None and value == value and value != "none"
    }
    return replace(own, **known, foreign={**found.foreign, **own.foreign})


def parse(words: str) -> Header:
    """A JEOL ($CM_MAG 5000 ...) or Hitachi (PixelSize=12.4 ...) text -> Header; NaN and None for what is not there."""
    pairs = re.findall(r"^\s*(?:\$+|)([A-Za-z_]\w*)[ =]+(.*?)\s*$", words, re.MULTILINE)
    fields = {key: value for key, value in pairs if value}
    voltage = positive(fields.get("CM_ACCEL_VOLT"))
    if math.isnan(voltage):
        voltage = positive((fields.get("AcceleratingVoltage") or "").split(" ")[0], 1e-3)
    header = Header(
        voltage_kv=voltage,
        magnification=positive(fields.get("CM_MAG") or fields.get("Magnification")),
        instrument=text(fields.get("CM_INSTRUMENT") or fields.get("InstructName")),
        acquired=headers.iso_date(
            fields.get("CM_DATE") or fields.get("Date"), fields.get("CM_TIME") or fields.get("Time"), month_first=True
        ),
        foreign=fields,
    )
    marker = re.fullmatch(r"([\d.]+)\s*(\D+)", fields.get("SM_MICRON_MARKER", ""))
    if marker:
        return headers.with_pixel_size(
            header, to_nm(marker[1], marker[2]) / positive(fields.get("SM_MICRON_BAR")), "sidecar"
        )
    return headers.with_pixel_size(header, to_nm((fields.get("PixelSize") or "").split(" ")[0], "nm"), "sidecar")
