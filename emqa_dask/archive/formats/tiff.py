"""TIFF files by tifffile: which pages are micrographs, and frames of their images."""

from functools import partial
from pathlib import Path

import numpy as np
import tifffile

from emqa_dask.archive.checks import guards
from emqa_dask.archive.checks.guards import check_frames
from emqa_dask.archive.formats.tiff_pages import ELECTRON_FRAME, explain_pages, list_pages
from emqa_dask.archive.formats.tiff_pixels import PageLayout, describe_layout, read_rows
from emqa_dask.archive.formats.tiff_samples import PageImage, count_contiguous_images, list_images
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.tiff_headers import TiffHeaders
from emqa_dask.archive.metadata.tiff_vendors.readers import VENDOR_TAGS, name_writer
from emqa_dask.archive.source import WINDOW_BYTES, Frame, ReadError, Source, add_damage, capture_warnings

_DIFFRACTION = "a diffraction pattern"
_MAX_LISTED = 3  # pages that a remark lists


def open_tiff(path: str | Path) -> Source:
    """TIFF, BigTIFF -> Source with one frame per full-resolution page; ReadError where the page list is broken."""
    guards.check_tiff(path)
    with capture_warnings() as notes:
        try:
            with tifffile.TiffFile(path) as tif:
                pages = list_pages(tif)
                frames, left_out, are_complex = _make_frames(path, tif, pages)
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
    if left_out and all(ELECTRON_FRAME in text for text in left_out) and not frames:
        text = f"a movie of {len(left_out):,} frames of single electrons (EER), not a micrograph: sum its frames first"
        return Source(name, "signal", text)
    if not frames:
        raise ReadError(f"TIFF without a readable image: {'; '.join(sorted(set(left_out)))}")
    if all(are_complex):
        text = "complex values (a Fourier transform or a wave), not a micrograph"
        return Source(name, "signal", text, tuple(frames))
    frames = [frame for frame, is_complex in zip(frames, are_complex, strict=True) if not is_complex]
    remark = "; ".join(filter(None, (reason, _describe_pages(left_out))))
    source = Source(name, "stack" if len(frames) > 1 else "micrograph", remark, tuple(frames))
    return add_damage(source, reason) if lists else source  # what is left may be a preview


def _is_about_text(note: str) -> bool:
    """Whether tifffile only could not decode a text of a vendor, which the vendor's reader decodes."""
    return "UnicodeDecodeError" in note and any(f"TiffTag {tag} " in note for tag in VENDOR_TAGS)


def _describe_pages(left_out: list[str]) -> str:
    """Which pages gave no frame, and why, in one phrase; "" for none."""
    if not left_out:
        return ""
    remainder = f", and {len(left_out) - _MAX_LISTED:,} more" if len(left_out) > _MAX_LISTED else ""
    return f"left out: {', '.join(left_out[:_MAX_LISTED])}{remainder}"


def _describe_error(error: object) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _name_format(tif: tifffile.TiffFile) -> str:
    return " ".join(filter(None, (name_writer(tif), "BigTIFF" if tif.is_bigtiff else "TIFF")))


def _make_frames(path, tif, pages) -> tuple[list[Frame], list[str], list[bool]]:
    """The frames, why the other pages are none, and of each frame whether its values are complex."""
    frames = []
    left_out = []
    are_complex = []
    headers = TiffHeaders(tif)
    for number, (page, problem) in enumerate(zip(pages, explain_pages(tif, pages), strict=True), 1):
        if problem:
            left_out.append(f"page {number} is {problem}")
            continue
        header, diffraction = headers.read(page)
        if diffraction:
            left_out.append(f"page {number} is {_DIFFRACTION} by {diffraction}")
            continue
        try:
            layout = describe_layout(page, number)
        except (ValueError, NotImplementedError) as error:
            left_out.append(f"page {number} is not decoded: {_describe_error(error)}")
            continue
        n_images = count_contiguous_images(tif, page, len(pages))
        for k in range(n_images):
            part = layout.shift(k * page.nbytes)
            frames += [_make_frame(path, part, image, header) for image in list_images(page)]
        are_complex += [np.dtype(page.dtype).kind == "c"] * (len(frames) - len(are_complex))
    check_frames(len(frames))
    return frames, left_out, are_complex


def _make_frame(path, layout: PageLayout, image: PageImage, header: Header) -> Frame:
    segment_rows = 1 if layout.stored_dtype is not None else layout.segment_shape[1]
    row_bytes = layout.row_bytes * (layout.n_planes if image.plane is None else 1)
    rows = max(1, WINDOW_BYTES // row_bytes // segment_rows) * segment_rows
    return Frame(
        layout.height,
        layout.width,
        np.dtype(image.dtype).name,
        header,
        partial(_read_image, path, layout, image),
        min(rows, layout.height),
        image.is_colour,
        image.colour_map,
    )


def _read_image(path, layout: PageLayout, image: PageImage, y0: int, y1: int) -> np.ndarray:
    """Grey as (h, w), colours as (h, w, 3)."""
    return image.convert(read_rows(path, layout, image.z, image.plane, y0, y1))
