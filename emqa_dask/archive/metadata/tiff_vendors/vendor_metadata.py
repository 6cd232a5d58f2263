"""VendorMetadata: what one vendor's tags say about an image, before a pixel size is chosen; and what vendors share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import tifffile

from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import StatedSize
from emqa_dask.archive.metadata.texts import decode_text
from emqa_dask.archive.metadata.values import parse_number

MAX_TAG_BYTES = 2**24  # of a tag that is read as text; the longest real ones have some 100 KiB
SIZE_FIELDS = ("nm_per_pixel", "nm_per_pixel_y", "nm_per_pixel_source", "pixel_size_problem")  # of a Header
_MERGED_FIELDS = tuple(entry.name for entry in fields(Header) if entry.name not in (*SIZE_FIELDS, "foreign"))


@dataclass(frozen=True)
class VendorMetadata:
    """What the tags of one vendor say about an image."""

    header: Header = field(default_factory=Header)  # without a pixel size
    sizes: tuple[StatedSize, ...] = ()  # the most reliable first
    diffraction: str = ""  # what shows that the image is a diffraction pattern: "the unit 1/nm"; "" for an image
    problem: str = ""  # why the sizes may be wrong, or why there is none


def compute_area_nm2(sizes: Sequence[StatedSize]) -> float:
    """Area of a pixel by the first of `sizes`; NaN without one."""
    size = next(iter(sizes), StatedSize(math.nan))
    return abs(size.x_nm * (size.y_nm if not math.isnan(size.y_nm) else size.x_nm))


def merge_headers(headers: Sequence[Header]) -> Header:
    """The first known value of every field but the pixel size; `foreign` has the entries of all."""
    values: dict[str, Any] = {}
    for name in _MERGED_FIELDS:
        for header in headers:
            value = getattr(header, name)
            if value is not None and value == value:  # NaN is not equal to itself
                values[name] = value
                break
    foreign: dict[str, Any] = {}
    for header in reversed(headers):
        foreign.update(header.foreign)
    return Header(foreign=foreign, **values)


def metres_to_um(value: Any) -> float:
    """A position in metres as micrometres; NaN where it is no number."""
    return parse_number(value) * 1e6


def radians_to_degrees(value: Any) -> float:
    """An angle in radians as degrees; NaN where it is no number."""
    return math.degrees(parse_number(value))


def read_tag_text(page: tifffile.TiffPage, code: int) -> str:
    """Text of a tag, whatever its type; "" when there is none. The file has to be open."""
    tag = page.tags.get(code)
    if tag is None:
        return ""
    value = tag.value
    if isinstance(value, str):
        return value
    if not isinstance(value, bytes):  # a tag that tifffile parses on its own, or an array of numbers
        file = page.parent.filehandle
        file.seek(tag.valueoffset)
        value = file.read(min(tag.valuebytecount, MAX_TAG_BYTES))
    return decode_text(value[:MAX_TAG_BYTES].rstrip(b"\0"))
