"""MRC files and their stacks (Cheng et al. 2015, MRC2014; IMOD; older ones): sections as frames, rows by offset."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from emqa_dask.archive.checks import guards
from emqa_dask.archive.formats.mrc_header import (
    HEADER_BYTES,
    PixelLayout,
    find_layout,
    find_pixel_size_nm,
    parse_header,
    read_labels,
)
from emqa_dask.archive.metadata import dates
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.mrc_extended import SectionConditions, read_sections
from emqa_dask.archive.metadata.pixel_size import StatedSize, choose_pixel_size
from emqa_dask.archive.metadata.texts import decode_text, parse_key_values
from emqa_dask.archive.metadata.values import parse_positive
from emqa_dask.archive.source import WINDOW_BYTES, Frame, ReadError, Source, record_damage

MAX_EXTENDED_BYTES = 2**24  # of an extended header that are read
MAX_TEXT_BYTES = 2**16  # of Direct Electron's text beside a movie
SAMPLE_BYTES = 2**20  # of pixels that decide whether bytes are signed
ANGSTROM_NM = 0.1
CRYSTAL_GROUPS = range(2, 231)  # space groups; 0 is an image, 1 a volume, 401 and above stacks of volumes
SMALL_SIDE_PX = 512  # of patterns in 4D-STEM data and of boxed particles
MIN_SMALL_IMAGES = 1024  # so many small images are no series of micrographs
MIN_SQUARE_SCAN = 256  # images of at most 256 px whose number is a square: a scan of 16 x 16 or more
_NO_IMAGE_LABEL = re.compile(
    r"4D-?STEM|diffraction (?:pattern|data)|electron diffraction|MicroED|\bNBED\b|\bCBED\b", re.IGNORECASE
)
_SERIALEM_LABEL = re.compile(
    r"SerialEM: .*? on (?P<name>.*?)\s+(?P<date>\d{1,2}-[A-Za-z]{3}-\d{2,4})\s+(?P<time>\d{1,2}:\d\d:\d\d)"
)
_DE_MOVIE = re.compile(r"(\d{8}_\d+)_.*movie\.mrcs?", re.IGNORECASE)  # of Direct Electron


def open_mrc(path: str | Path) -> Source:
    """MRC -> Source with one frame per section; ReadError for headers that make no sense."""
    with open(path, "rb") as file:
        record = parse_header(file.read(HEADER_BYTES))
        if record is None:
            raise ReadError("not an MRC file: the header's sizes and mode make no sense")
        extended = file.read(min(int(record["nsymbt"]), MAX_EXTENDED_BYTES))
        offset = HEADER_BYTES + int(record["nsymbt"])
        n_bytes = file.seek(0, 2)
        file.seek(min(offset, n_bytes))
        layout = find_layout(record, file.read(SAMPLE_BYTES) if int(record["mode"]) == 0 else b"")
    width, height, n_sections = (int(v) for v in record["n"])
    if layout is None:
        return Source(
            "MRC", "signal", f"MRC of mode {record['mode']}: complex values (a Fourier transform), not micrographs"
        )
    section_bytes = layout.row_bytes(width) * height
    if n_bytes == HEADER_BYTES + n_sections * section_bytes < offset + n_sections * section_bytes:
        offset = HEADER_BYTES  # the length of an extended header was copied from another file, without the header
        extended = b""
    n_present = min(n_sections, max(0, n_bytes - offset) // section_bytes)
    reason = ""
    if n_present < n_sections:
        reason = (
            f"truncated MRC: {max(0, n_bytes - offset):,} of {n_sections * section_bytes:,} bytes, "
            f"{n_present} of {n_sections} sections"
        )
        if n_present == 0:
            raise ReadError(reason)
    sections = read_sections(record, extended, n_present)
    not_image = _describe_other_kind(Path(path), record, sections)
    if not_image is not None:
        return not_image
    guards.check_frames(n_present)
    if not reason and n_sections > 1 and int(record["ispg"]) > 0:
        reason = "a volume by its header: its sections are read as images"
    surplus = n_bytes - offset - n_sections * section_bytes
    headers = _make_headers(record, sections, n_present)
    frames = tuple(
        _make_frame(path, record, layout, headers[k], offset + k * section_bytes, surplus) for k in range(n_present)
    )
    kind = "stack" if n_sections > 1 else "micrograph"
    return Source("MRC", kind, reason, frames, n_frames_lost=n_sections - n_present)


def _describe_other_kind(path: Path, record: np.ndarray, sections: list[SectionConditions]) -> Source | None:
    """What the file holds if not micrographs; None for micrographs."""
    width, height, n_sections = (int(v) for v in record["n"])
    size = f"{height} x {width} pixels"
    if (sections and sections[0].is_diffraction) or any(map(_NO_IMAGE_LABEL.search, read_labels(record))):
        return Source("MRC", "diffraction", f"{n_sections:,} diffraction patterns of {size} by the header")
    if int(record["ispg"]) in CRYSTAL_GROUPS:
        return Source("MRC", "signal", f"a map of a crystal (space group {record['ispg']}) of {n_sections} x {size}")
    patterns = _describe_patterns_beside(path) if n_sections > 1 else ""
    if patterns:
        return Source("MRC", "diffraction", f"{patterns}: {n_sections:,} images of {size}")
    side = max(width, height)
    is_square_scan = n_sections >= MIN_SQUARE_SCAN and round(n_sections**0.5) ** 2 == n_sections and width == height
    if (side <= SMALL_SIDE_PX and n_sections >= MIN_SMALL_IMAGES) or (side <= SMALL_SIDE_PX // 2 and is_square_scan):
        reason = f"{n_sections:,} images of only {size}: 4D-STEM data, boxed particles or a volume"
        return Source("MRC", "diffraction", reason)
    return None


def _describe_patterns_beside(path: Path) -> str:
    """Why a movie of Direct Electron holds patterns, by the text beside it; "" for images and other files."""
    match = _DE_MOVIE.fullmatch(path.name)
    texts = sorted(path.parent.glob(f"{match[1]}_*info.txt")) if match is not None else []
    if not texts:
        return ""
    with open(texts[0], "rb") as file:
        values = parse_key_values(decode_text(file.read(MAX_TEXT_BYTES)))
    if values.get("scan - enable", "").lower() == "enable":
        return f"4D-STEM data by {texts[0].name}"
    if parse_positive(values.get("instrument project camera length (centimeters)")) > 0:
        return f"diffraction patterns by the camera length in {texts[0].name}"
    return ""


def _make_headers(record: np.ndarray, sections: list[SectionConditions], n_present: int) -> list[Header]:
    """Imaging conditions of each section; a single block of an extended header is about all sections."""
    common = _make_common_header(record)
    headers = [_merge_conditions(record, common, conditions) for conditions in sections] or [
        _merge_conditions(record, common, SectionConditions())
    ]
    return [headers[min(k, len(headers) - 1)] for k in range(n_present)]


def _make_common_header(record: np.ndarray) -> Header:
    labels = read_labels(record)
    foreign = {k: record[k].item() for k in ("mode", "ispg", "nsymbt")}
    foreign |= {f"m{a}": int(v) for a, v in zip("xyz", record["m"])}
    foreign |= {f"cell_{a}": float(v) for a, v in zip("xyz", record["cell"])}
    foreign |= {f"label_{i}": v for i, v in enumerate(labels)}
    match = next(filter(None, map(_SERIALEM_LABEL.search, labels)), None)
    if match is None:
        return Header(foreign=foreign)
    return Header(
        instrument=match["name"].strip() or None,
        acquired=dates.parse_date(match["date"], match["time"]),
        foreign=foreign,
    )


def _merge_conditions(record: np.ndarray, common: Header, conditions: SectionConditions) -> Header:
    header = conditions.header
    header = replace(
        header,
        instrument=header.instrument or common.instrument,
        acquired=header.acquired or common.acquired,
        foreign={**common.foreign, **header.foreign},
    )
    x_nm, y_nm = find_pixel_size_nm(record)
    has_default_size = abs(x_nm / ANGSTROM_NM - 1) < 1e-6 and abs(y_nm / ANGSTROM_NM - 1) < 1e-6
    stated_sizes = [StatedSize(conditions.x_nm, conditions.y_nm, "the extended header")]
    if not (has_default_size and conditions.x_nm > 0):
        stated_sizes.append(StatedSize(x_nm, y_nm, "the cell"))
    header = choose_pixel_size(header, stated_sizes, int(record["n"][0]))
    if has_default_size and not conditions.x_nm > 0:
        problem = "the header states exactly 1 Angstrom per pixel, which many programs write for an unknown size"
        header = replace(header, pixel_size_problem=problem)
    return header


def _make_frame(path, record: np.ndarray, layout: PixelLayout, header: Header, offset: int, surplus: int) -> Frame:
    width, height = (int(v) for v in record["n"][:2])
    rows = max(1, WINDOW_BYTES // layout.row_bytes(width))
    return Frame(
        height,
        width,
        layout.dtype.newbyteorder("=").name,
        header,
        partial(_read_rows, path, offset, width, layout, surplus),
        min(rows, height),
        layout.n_samples == 3,
    )


def _read_rows(path, offset: int, width: int, layout: PixelLayout, surplus: int, y0: int, y1: int) -> np.ndarray:
    if surplus > 0:  # then the sections may lie elsewhere, or be of another size
        record_damage(f"the MRC file has {surplus:,} bytes more than its header says")
    row_bytes = layout.row_bytes(width)
    with open(path, "rb") as file:
        file.seek(offset + y0 * row_bytes)
        data = file.read((y1 - y0) * row_bytes)
    if len(data) < (y1 - y0) * row_bytes:
        raise ReadError("truncated MRC: the file became shorter while it was read")
    values = np.frombuffer(data, layout.dtype)
    if layout.is_packed:  # the pixel on the left is in the lower 4 bits
        values = np.stack([values & 15, values >> 4], axis=-1)
        return values.reshape(y1 - y0, 2 * row_bytes)[:, :width]
    return values.reshape((y1 - y0, width, 3) if layout.n_samples == 3 else (y1 - y0, width))
