"""Sidecars: files that microscopes write beside an image; pixel size and conditions of images from them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from emqa_dask.archive.companions import MAX_SIDECAR_BYTES, find_local_sidecars, is_sidecar_name, name_owner
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import AGREEMENT, StatedSize, choose_pixel_size
from emqa_dask.archive.metadata.sidecars.direct_electron import is_direct_electron, read_direct_electron
from emqa_dask.archive.metadata.sidecars.epu import is_epu, read_epu
from emqa_dask.archive.metadata.sidecars.hitachi import is_hitachi, read_hitachi
from emqa_dask.archive.metadata.sidecars.jeol import is_jeol, read_jeol
from emqa_dask.archive.metadata.sidecars.nion import is_nion, read_nion
from emqa_dask.archive.metadata.sidecars.quantities import ImageFile
from emqa_dask.archive.metadata.sidecars.serialem import is_serialem, read_serialem
from emqa_dask.archive.metadata.sidecars.tescan import is_tescan, read_tescan
from emqa_dask.archive.metadata.sidecars.thermo import is_thermo, read_thermo
from emqa_dask.archive.metadata.texts import decode_text
from emqa_dask.archive.metadata.tiff_vendors.vendor_metadata import SIZE_FIELDS, VendorMetadata, merge_headers
from emqa_dask.archive.source import Frame, Source, capture_warnings

_DEFAULT_NM = 0.1  # 1 Angstrom
_HEAD_BYTES = 2**16  # of a text, in which its writer shows


class SidecarFormat(NamedTuple):
    """Files of one writer: how its texts are recognised and read."""

    writer: str
    is_written_in: Callable[[str], bool]
    read: Callable[[str, ImageFile], list[VendorMetadata]]


SIDECAR_FORMATS = (
    SidecarFormat("a JEOL SEM", is_jeol, read_jeol),
    SidecarFormat("a Hitachi microscope", is_hitachi, read_hitachi),
    SidecarFormat("a TESCAN SEM", is_tescan, read_tescan),
    SidecarFormat("EPU", is_epu, read_epu),
    SidecarFormat("software of Thermo Fisher", is_thermo, read_thermo),
    SidecarFormat("SerialEM", is_serialem, read_serialem),
    SidecarFormat("Nion Swift", is_nion, read_nion),
    SidecarFormat("Direct Electron's software", is_direct_electron, read_direct_electron),
)


def describe_sidecar(path: Path) -> str:
    """One phrase for the text at `path` if a microscope wrote it beside an image; else ""."""
    format = _identify_format(_read_text(path, _HEAD_BYTES)) if is_sidecar_name(path.name) else None
    if format is None:
        return ""
    return f"metadata of the image {name_owner(path.name)}, written beside it by {format.writer}"


def _identify_format(text: str) -> SidecarFormat | None:
    return next((format for format in SIDECAR_FORMATS if format.is_written_in(text)), None)


def _read_text(path: Path, n_bytes: int) -> str:
    try:
        with open(path, "rb") as file:
            return decode_text(file.read(n_bytes))
    except OSError:
        return ""


def add_sidecars(path: Path, source: Source) -> Source:
    """`source` with what the sidecars beside the image at `path` say.

    They give the pixel size where the image has none. Where it has one, that one counts, and a contradiction becomes
    its problem. Conditions that the image does not state are taken from the first sidecar that does.
    """
    if not source.frames:
        return source
    image = ImageFile(
        path.name, len(source.frames) + source.n_frames_lost, source.frames[0].width_px, source.frames[0].height_px
    )
    sidecars = [(name, metadata) for name in find_local_sidecars(path) if (metadata := _read_sidecar(name, image))]
    if not sidecars:
        return source
    diffraction = next((f"{m[0].diffraction} in {name.name}" for name, m in sidecars if m[0].diffraction), "")
    if diffraction and source.kind in ("micrograph", "stack"):
        return Source(source.format, "diffraction", f"a diffraction pattern by {diffraction}, not a micrograph")
    frames = []
    headers: dict[tuple, Header] = {}  # the frames of a stack share one, where no sidecar tells them apart
    for number, frame in enumerate(source.frames):
        of_frame = [(name.name, metadata[number if len(metadata) > 1 else 0]) for name, metadata in sidecars]
        key = (id(frame.header), frame.width_px, *(id(metadata) for _, metadata in of_frame))
        headers[key] = headers[key] if key in headers else _merge_header(frame, of_frame)
        frames.append(replace(frame, header=headers[key]))
    return replace(source, frames=tuple(frames))


def _read_sidecar(path: Path, image: ImageFile) -> list[VendorMetadata]:
    """What the sidecar at `path` says about each frame of `image`, or about all; nothing where it is no sidecar."""
    head = _read_text(path, _HEAD_BYTES)
    format = _identify_format(head)
    if format is None:
        return []
    text = head if path.stat().st_size <= _HEAD_BYTES else _read_text(path, MAX_SIDECAR_BYTES)
    try:
        with capture_warnings():
            return format.read(text, image)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError):
        return []  # a broken sidecar must not cost the image


def _merge_header(frame: Frame, sidecars: Sequence[tuple[str, VendorMetadata]]) -> Header:
    parts = [metadata.header for _, metadata in sidecars]
    size_fields = {name: getattr(frame.header, name) for name in SIZE_FIELDS}
    header = replace(merge_headers([frame.header, *parts]), **size_fields)
    sizes = [replace(size, origin=f"{size.origin} in {name}") for name, metadata in sidecars for size in metadata.sizes]
    if _has_default_size(header) and any(size.x_nm > 0 for size in sizes):
        header = replace(header, **{name: getattr(Header(), name) for name in SIZE_FIELDS})
    if not header.nm_per_pixel > 0:
        header = choose_pixel_size(header, sizes, frame.width_px, "sidecar")
        return _add_problems(header, [m.problem for _, m in sidecars if m.problem and header.nm_per_pixel > 0])
    return _compare_sizes(header, sizes, frame.width_px)


def _has_default_size(header: Header) -> bool:
    """Whether the size is 1 Angstrom, which programs write for an unknown size, and its reader found that doubtful."""
    return header.pixel_size_problem is not None and abs(header.nm_per_pixel / _DEFAULT_NM - 1) < 1e-6


def _compare_sizes(header: Header, sizes: Sequence[StatedSize], width_px: int) -> Header:
    """`header`, whose own pixel size counts, with the problem that `sizes` show."""
    own_size = StatedSize(header.nm_per_pixel, header.nm_per_pixel_y, "the image")
    for size in sizes:
        field_ratio = size.x_nm * size.image_width_px / (own_size.x_nm * width_px)
        if abs(field_ratio - 1) < AGREEMENT:  # the whole field, though resized: the image's size was adapted
            continue
        own_with_width = replace(own_size, image_width_px=size.image_width_px)
        problem = choose_pixel_size(Header(), [own_with_width, size], width_px).pixel_size_problem
        if problem is not None:
            return _add_problems(header, [problem])
    return header


def _add_problems(header: Header, problems: Sequence[str]) -> Header:
    return replace(header, pixel_size_problem="; ".join(filter(None, (header.pixel_size_problem, *problems))) or None)
