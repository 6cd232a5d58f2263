"""TIFF files by tifffile: which pages are micrographs, and rows of them by strips and tiles."""

import math
from functools import partial
from pathlib import Path

import numpy as np
import tifffile

from emqa_dask.archive.checks import guards
from emqa_dask.archive.checks.jpeg import find_jpeg_damage
from emqa_dask.archive.metadata import values
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.tiff_headers import TiffHeaders
from emqa_dask.archive.metadata.tiff_vendors.readers import VENDOR_TAGS, name_writer
from emqa_dask.archive.source import (
    WINDOW_BYTES,
    Frame,
    ReadError,
    Source,
    add_damage,
    capture_warnings,
    is_damage_recorded,
    record_damage,
)

_JPEG = (6, 7, 34892, 33007)
_JPEG2000 = (33003, 33004, 33005, 34712)
_LZW = 5
_DIFFRACTION = "a diffraction pattern"
_READABLE_PHOTOMETRICS = (0, 1, 2, 3, 6)  # white is zero, black is zero, RGB, palette, YCbCr


def open_tiff(path: str | Path) -> Source:
    """TIFF, BigTIFF -> Source with one frame per full-resolution page; ReadError where the page list is broken."""
    guards.check_tiff(path)
    with capture_warnings() as notes:
        try:
            with tifffile.TiffFile(path) as tif:
                pages = list(tif.pages)
                frames, left_out = _make_frames(path, tif, pages)
                name = _name_format(tif) if pages else "TIFF"
        except (tifffile.TiffFileError, ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
            raise ReadError(f"broken TIFF: {_describe_error(error)}") from error
    notes = [n for n in notes if not _is_about_text(n)]
    broken = [n for n in notes if "corrupted" in n or "invalid" in n or "raised" in n or "failed" in n]
    lists = [n for n in broken if "TiffPages" in n or "list" in n]
    reason = f"a tag is broken: {_describe_error(broken[0])}" if broken else ""
    if lists:
        reason = f"the list of pages is broken after page {len(pages)}: {_describe_error(lists[0])}"
    if not pages:
        raise ReadError("truncated TIFF: no page can be found")
    if left_out and all(_DIFFRACTION in text for text in left_out) and not frames:
        return Source(name, "diffraction", f"{left_out[0].partition(' is ')[2]}, not a micrograph")
    if not frames:
        raise ReadError(f"TIFF without a readable image: {'; '.join(sorted(set(left_out)))}")
    source = Source(name, "stack" if len(frames) > 1 else "micrograph", reason, tuple(frames))
    return add_damage(source, reason) if lists else source  # what is left may be a preview


def _is_about_text(note: str) -> bool:
    """Whether tifffile only could not decode a text of a vendor, which the vendor's reader decodes."""
    return "UnicodeDecodeError" in note and any(f"TiffTag {tag} " in note for tag in VENDOR_TAGS)


def _describe_error(error: object) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _name_format(tif: tifffile.TiffFile) -> str:
    return " ".join(filter(None, (name_writer(tif), "BigTIFF" if tif.is_bigtiff else "TIFF")))


def _make_frames(path, tif, pages) -> tuple[list[Frame], list[str]]:
    """The frames, and why the other pages are none."""
    frames = []
    left_out = []
    headers = TiffHeaders(tif)
    acquisitions = [p for p in pages if p.is_sis]  # the other page of these files is a rendered preview
    for number, page in enumerate(pages, 1):
        problem = _explain_rejection(page)
        if problem or (acquisitions and not page.is_sis and page.samplesperpixel > 1):
            left_out.append(f"page {number} is {problem or 'a preview'}")
            continue
        header, diffraction = headers.read(page)
        if diffraction:
            left_out.append(f"page {number} is {_DIFFRACTION} by {diffraction}")
            continue
        n_images = _count_contiguous_images(tif, page, pages)
        for k in range(n_images):
            frames.append(_make_frame(path, page, number, header, k))
    return frames, left_out


def _explain_rejection(page: tifffile.TiffPage) -> str:
    if page.is_reduced or page.is_mask:
        return "a thumbnail or mask"
    if page.dtype is None:
        return f"of {page.bitspersample} bits in a sample format that is not supported"
    if 0 in page.shape:
        return "without pixels"
    if page.imagedepth > 1:
        return "a volume"
    if page.samplesperpixel > 4 or page.photometric not in _READABLE_PHOTOMETRICS:
        return f"{page.samplesperpixel} samples per pixel of photometric type {int(page.photometric)}, no grey or RGB"
    return ""


def _count_contiguous_images(tif, page, pages) -> int:
    """Images behind the one page of an ImageJ hyperstack, which lists only the first; 1 elsewhere."""
    if not (tif.is_imagej and len(pages) == 1 and page.is_contiguous):
        return 1
    n_images = values.parse_number((tif.imagej_metadata or {}).get("images", 1))
    n_possible_images = (tif.filehandle.size - page.dataoffsets[0]) // max(page.nbytes, 1)
    return int(max(1, min(n_images, n_possible_images))) if math.isfinite(n_images) else 1


def _make_frame(path, page, number: int, header: Header, k: int) -> Frame:
    height, width = page.imagelength, page.imagewidth
    is_colour = page.samplesperpixel >= 3 or page.photometric == 3
    dtype = _load_palette(page).dtype if page.photometric == 3 else page.dtype
    segment_rows = page.tilelength if page.is_tiled else min(page.rowsperstrip, height)
    row_bytes = max(1, width * page.dtype.itemsize * page.samplesperpixel)
    rows = max(1, WINDOW_BYTES // row_bytes // segment_rows) * segment_rows
    if page.is_contiguous and page.compression == 1 and page.fillorder == 1 and page.bitspersample % 8 == 0:
        planes = page.samplesperpixel if page.planarconfig == 2 else 1
        shape = (planes, height, width, page.samplesperpixel // planes)
        rows = max(1, WINDOW_BYTES // row_bytes)
        stored_dtype = page.dtype.newbyteorder(page.parent.byteorder)
        read_rows = partial(
            _read_contiguous, path, page.dataoffsets[0] + k * page.nbytes, shape, stored_dtype, number + k
        )
    else:
        if page.compression in _JPEG:
            page.decode  # noqa: B018  it looks into the file, which is open now, and is kept
        read_rows = partial(_read_segments, path, page, number)
    if page.photometric == 3:
        read_rows = partial(_read_palette, read_rows, _load_palette(page))
    return Frame(
        height, width, np.dtype(dtype).name, header, partial(_read_channels, read_rows), min(rows, height), is_colour
    )


def _read_channels(read_page, y0: int, y1: int) -> np.ndarray:
    """Grey as (h, w), RGB as (h, w, 3); alpha and other extra samples are dropped."""
    rows = read_page(y0, y1)
    if rows.ndim == 3:
        rows = rows[..., :3] if rows.shape[-1] >= 3 else rows[..., 0]
    return rows


def _read_contiguous(path, offset, shape, dtype, number, y0: int, y1: int) -> np.ndarray:
    """Rows of pixels that lie as they are in the file; shape is (planes, height, width, samples)."""
    planes, height = shape[:2]
    width, samples = shape[2:]
    row_bytes = width * samples * dtype.itemsize
    parts = []
    with open(path, "rb") as file:
        for plane in range(planes):
            file.seek(offset + (plane * height + y0) * row_bytes)
            data = file.read((y1 - y0) * row_bytes)
            if len(data) < (y1 - y0) * row_bytes:
                have = max(0, file.seek(0, 2) - offset)
                raise ReadError(
                    f"truncated TIFF: page {number} ends after {have:,} of {planes * height * row_bytes:,} bytes"
                )
            parts.append(np.frombuffer(data, dtype).reshape(y1 - y0, width, samples))
    out = parts[0] if planes == 1 else np.concatenate(parts, axis=-1)
    return out if out.shape[-1] > 1 else out[..., 0]


def _read_segments(path, page: tifffile.TiffPage, number: int, y0: int, y1: int) -> np.ndarray:
    """Rows y0:y1 from the strips or tiles that touch them; those that a sparse file does not hold are zero."""
    samples = page.samplesperpixel
    width = page.imagewidth
    out = np.zeros((y1 - y0, width, samples), page.dtype)
    segment_h = page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength)
    n_across = math.ceil(width / page.tilewidth) if page.is_tiled else 1
    n_down = math.ceil(page.imagelength / segment_h)
    planes = samples if page.planarconfig == 2 and samples > 1 else 1
    needed = planes * n_down * n_across
    if min(len(page.dataoffsets), len(page.databytecounts)) < needed:
        raise ReadError(f"truncated TIFF: page {number} lists {len(page.dataoffsets)} of {needed} strips or tiles")
    with open(path, "rb") as file:
        for plane in range(planes):
            first = (plane * n_down + y0 // segment_h) * n_across
            stop = (plane * n_down - (-y1 // segment_h)) * n_across
            for index in range(first, stop):
                offset = page.dataoffsets[index]
                n_bytes = page.databytecounts[index]
                if offset == 0 or n_bytes == 0:
                    record_damage(f"page {number}, strip or tile {index + 1} of {needed} is absent from the file")
                    continue
                if n_bytes > 2 * segment_h * width * samples * page.dtype.itemsize + 2**20:
                    raise ReadError(
                        f"TIFF data are broken: page {number}, strip or tile {index + 1} of {n_bytes:,} bytes"
                    )
                file.seek(offset)
                data = file.read(n_bytes)
                if len(data) < n_bytes:
                    raise ReadError(
                        f"truncated TIFF: page {number}, strip or tile {index + 1} of {needed} ends after "
                        f"{len(data):,} of {n_bytes:,} bytes"
                    )
                _decode_segment(out, page, data, index, number, y0, plane)
    return out if samples > 1 else out[..., 0]


def _decode_segment(out, page, data: bytes, index: int, number: int, y0: int, plane: int) -> None:
    damage = _find_segment_damage(page, data, index) if is_damage_recorded() else ""
    if damage:
        record_damage(f"page {number}, strip or tile {index + 1}: {damage}")
    try:
        tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if page.compression in _JPEG else {}
        block, (_, _, top, left, _), _ = page.decode(data, index, **tables)
    except Exception as error:  # imagecodecs has an exception class for each codec
        raise ReadError(
            f"TIFF data are broken: page {number}, strip or tile {index + 1}: {_describe_error(error)}"
        ) from error
    if block is None:
        return
    block = block[0]
    a = max(top, y0)
    b = min(top + block.shape[0], y0 + out.shape[0])
    right = min(left + block.shape[1], out.shape[1])
    channels = slice(plane, plane + 1) if page.planarconfig == 2 and out.shape[2] > 1 else slice(None)
    if b > a:
        out[a - y0 : b - y0, left:right, channels] = block[a - top : b - top, : right - left]


def _find_segment_damage(page: tifffile.TiffPage, data: bytes, index: int) -> str:
    """What is wrong with one compressed strip or tile that its decoder passes over; "" for nothing."""
    if page.compression in _JPEG:
        return find_jpeg_damage(data, page.jpegtables or b"")
    if page.compression == _LZW and page.fillorder == 1:
        return _find_lzw_damage(page, data, index)
    if page.compression in _JPEG2000 and data[:4] == b"\xff\x4f\xff\x51" and b"\xff\xd9" not in data[-4:]:
        return "its end is missing"
    return ""


def _find_lzw_damage(page: tifffile.TiffPage, data: bytes, index: int) -> str:
    """LZW has no checksum; but a code that changed gives another number of bytes, mostly."""
    import imagecodecs

    segment_rows = page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength)
    row_bits = (page.tilewidth if page.is_tiled else page.imagewidth) * page.bitspersample
    row_bytes = (row_bits * (1 if page.planarconfig == 2 else page.samplesperpixel) + 7) // 8
    n_down = math.ceil(page.imagelength / segment_rows)
    n_rows = segment_rows if page.is_tiled else min(segment_rows, page.imagelength - index % n_down * segment_rows)
    try:
        n_bytes = len(imagecodecs.lzw_decode(data, out=segment_rows * row_bytes + 1))
    except (RuntimeError, ValueError):
        return ""  # its decoder says so
    if n_bytes in (n_rows * row_bytes, segment_rows * row_bytes):  # some write the last strip as long as the others
        return ""
    return f"it decodes to {n_bytes:,} bytes or more instead of {n_rows * row_bytes:,}"


def _load_palette(page: tifffile.TiffPage) -> np.ndarray:
    """The colour map as (n, 3); 16-bit maps that only repeat 8 bits (nearly all) come back as uint8."""
    table = np.asarray(page.colormap, np.uint16).T
    return (table >> 8).astype(np.uint8) if page.bitspersample <= 8 else table


def _read_palette(read_page, table: np.ndarray, y0: int, y1: int) -> np.ndarray:
    return table[np.minimum(read_page(y0, y1), len(table) - 1)]
