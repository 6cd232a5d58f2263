"""Text files that SEMs write beside an image (JEOL, Hitachi): pixel size and microscope of images without them."""

import math
import re
from dataclasses import replace
from pathlib import Path

from emqa_dask.archive.metadata import dates
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import set_pixel_size
from emqa_dask.archive.metadata.units import length_to_nm
from emqa_dask.archive.metadata.values import clean_text, parse_positive
from emqa_dask.archive.source import Source, capture_warnings

SIDECAR_KEYS = ("$CM_", "$$SM_", "[SemImageFile]")
SIDECAR_FORMATS = ("TIFF", "PNG", "JPEG", "BMP")


def is_sidecar(path: Path) -> bool:
    """Whether the text file at `path` was written by a microscope beside an image."""
    return path.suffix.lower() == ".txt" and any(mark in _read_text(path) for mark in SIDECAR_KEYS)


def _read_text(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(65536)
    except OSError:
        return ""
    return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1", "replace")


def add_sidecar(path: Path, source: Source) -> Source:
    """`source` with what the sidecar `path`.txt says, where there is one and the image has no pixel size itself."""
    if not source.frames or not (source.format or "").endswith(SIDECAR_FORMATS):
        return source
    if source.frames[0].header.nm_per_pixel == source.frames[0].header.nm_per_pixel:
        return source
    sidecar_path = path.with_suffix(".txt")
    text = _read_text(sidecar_path) if sidecar_path.is_file() else ""
    if not any(mark in text for mark in SIDECAR_KEYS):
        return source
    with capture_warnings():
        header = parse_sidecar(text)
    return replace(source, frames=tuple(replace(f, header=_merge_headers(f.header, header)) for f in source.frames))


def _merge_headers(file_header: Header, sidecar: Header) -> Header:
    values = {
        name: value
        for name in ("voltage_kv", "magnification", "instrument", "acquired", "nm_per_pixel", "nm_per_pixel_source")
        if (value := getattr(sidecar, name)) is not None and value == value and value != "none"
    }
    return replace(file_header, **values, foreign={**sidecar.foreign, **file_header.foreign})


def parse_sidecar(text: str) -> Header:
    """A JEOL ($CM_MAG 5000 ...) or Hitachi (PixelSize=12.4 ...) text -> Header; NaN and None for what is not there."""
    key_value_pairs = re.findall(r"^\s*(?:\$+|)([A-Za-z_]\w*)[ =]+(.*?)\s*$", text, re.MULTILINE)
    fields = {key: value for key, value in key_value_pairs if value}
    voltage = parse_positive(fields.get("CM_ACCEL_VOLT"))
    if math.isnan(voltage):
        voltage = parse_positive((fields.get("AcceleratingVoltage") or "").split(" ")[0], 1e-3)
    header = Header(
        voltage_kv=voltage,
        magnification=parse_positive(fields.get("CM_MAG") or fields.get("Magnification")),
        instrument=clean_text(fields.get("CM_INSTRUMENT") or fields.get("InstructName")),
        acquired=dates.parse_date(
            fields.get("CM_DATE") or fields.get("Date"), fields.get("CM_TIME") or fields.get("Time"), month_first=True
        ),
        foreign=fields,
    )
    marker = re.fullmatch(r"([\d.]+)\s*(\D+)", fields.get("SM_MICRON_MARKER", ""))
    if marker:
        return set_pixel_size(
            header, length_to_nm(marker[1], marker[2]) / parse_positive(fields.get("SM_MICRON_BAR")), "sidecar"
        )
    return set_pixel_size(header, length_to_nm((fields.get("PixelSize") or "").split(" ")[0], "nm"), "sidecar")
