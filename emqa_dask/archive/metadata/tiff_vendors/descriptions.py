"""Texts in other tags: AMT cameras, DISS of point electronic (XMP), and a pixel size with its unit in words."""

import re

import tifffile

from emqa_dask.archive.metadata import dates
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import StatedSize
from emqa_dask.archive.metadata.tiff_vendors.vendor_metadata import VendorMetadata, read_tag_text
from emqa_dask.archive.metadata.units import length_to_nm
from emqa_dask.archive.metadata.values import clean_text, parse_number, parse_positive
from emqa_dask.archive.metadata.xml_text import find_elements, find_text, get_attribute, parse_xml

_DESCRIPTION = 270
_XMP = 700
_AMT_SCALE = re.compile(r"([XY])pixCal=(\d+(?:\.\d+)?)", re.IGNORECASE)
_AMT_UNIT = re.compile(r"Unit=([^\W\d_]+)")
_AMT_START = re.compile(r"AMT Camera System\.(\d\d/\d\d/\d\d)\.(\d\d:\d\d)\.(\d+)\.")
_NUMBER = r"([-+]?\d+(?:[.,]\d+)?(?:[eE][-+]?\d+)?)"
_UNIT = r"(pm|nm|Å|Angstroms?)"  # no micrometres: the pixels of cameras are stated in these
_PIXEL_SIZE = re.compile(
    rf"(?<!camera )(?<!detector )(?<!sensor )(?<!physical )\bpixel[ _]?(?:size|width|spacing)(?:[ _]?x)?"
    rf"[ _]?(?:[\[(]?{_UNIT}[\])]?)?[\"']?\s*[=:]\s*{_NUMBER}\s*{_UNIT}?(?![\w^/])",
    re.IGNORECASE,
)
_MAX_TEXT = 2**16  # characters of a description that are searched


def read_amt(page: tifffile.TiffPage, tif: tifffile.TiffFile) -> VendorMetadata | None:
    """AMT cameras: XpixCal and YpixCal are pixels per unit."""
    text = read_tag_text(page, _DESCRIPTION)[:_MAX_TEXT]
    if not text.startswith("AMT Camera System"):
        return None
    unit = _AMT_UNIT.search(text)
    scales = {axis.lower(): 1 / parse_positive(value) for axis, value in _AMT_SCALE.findall(text)}
    nm, nm_y = (length_to_nm(scales.get(axis), unit[1] if unit else "") for axis in "xy")
    start = _AMT_START.match(text)
    header = Header(
        acquired=dates.parse_date(start[1], start[2], month_first=True) if start else None,
        magnification=parse_positive(start[3]) if start else float("nan"),
        detector="AMT Camera System",
    )
    return VendorMetadata(header, (StatedSize(nm, nm_y, "XpixCal"),) if nm > 0 else ())


def read_point_electronic(page: tifffile.TiffPage, tif: tifffile.TiffFile) -> VendorMetadata | None:
    """DISS of point electronic: XMP with the pixel size in metres."""
    text = read_tag_text(page, _XMP)
    root = parse_xml(text) if "PixelSizeX" in text else None
    if root is None:
        return None
    descriptions = list(find_elements(root, "Description"))
    values = {}
    for name in ("PixelSizeX", "PixelSizeY", "Mag", "CreatorTool", "CreateDate"):
        attributes = (get_attribute(description, name) for description in descriptions)
        values[name] = find_text(root, name) or next(filter(None, attributes), None)
    size = StatedSize(parse_number(values["PixelSizeX"]) * 1e9, parse_number(values["PixelSizeY"]) * 1e9, "PixelSizeX")
    header = Header(
        magnification=parse_positive(values["Mag"]),
        instrument=clean_text(values["CreatorTool"]),
        acquired=dates.parse_date(values["CreateDate"]),
    )
    return VendorMetadata(header, (size,) if size.x_nm > 0 else ())


def read_description(page: tifffile.TiffPage, tif: tifffile.TiffFile) -> VendorMetadata | None:
    """A pixel size with its unit in the image description: "Pixel size: 2.5 nm", "pixel_size_nm=2.5"."""
    match = _PIXEL_SIZE.search(read_tag_text(page, _DESCRIPTION)[:_MAX_TEXT])
    if match is None:
        return None
    unit_before, number, unit_after = match.groups()
    nm = length_to_nm(number, unit_after or unit_before)
    return VendorMetadata(sizes=(StatedSize(nm, origin="the image description"),)) if nm > 0 else None
