"""Zeiss Orion helium ion microscopes: the XML <ImageTags> in tag 65000, each entry with Value and Units."""

import math
from typing import Any

import tifffile

from emqa_dask.archive.metadata import dates
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import StatedSize
from emqa_dask.archive.metadata.tiff_vendors.vendor_metadata import VendorMetadata, read_tag_text
from emqa_dask.archive.metadata.units import length_to_nm
from emqa_dask.archive.metadata.values import clean_text, parse_number, parse_positive
from emqa_dask.archive.metadata.xml_text import find_elements, find_text, name_element, parse_xml

TAGS = (65000,)


def read_orion(page: tifffile.TiffPage, tif: tifffile.TiffFile) -> VendorMetadata | None:
    """Scale, field of view and imaging conditions. Its dose is one of ions, and is left out."""
    text = read_tag_text(page, TAGS[0])
    root = parse_xml(text) if "<ImageTags" in text else None
    if root is None:
        return None
    width_px = parse_positive(_get_value(root, "ImageWidth"))
    field_nm = _get_length_nm(root, "Fov", "um")
    sizes = [
        StatedSize(_get_length_nm(root, "ScalingX", "m"), _get_length_nm(root, "ScalingY", "m"), "ScalingX", width_px),
        StatedSize(field_nm / (width_px if width_px > 0 else page.imagewidth), math.nan, "Fov", width_px),
    ]
    voltage = _get_value(root, "AccelerationVoltage") or _get_value(root, "GFIS.AccelerationVoltage")
    header = Header(
        voltage_kv=parse_positive(voltage, 1e-3),
        magnification=parse_positive(_get_value(root, "Magnification4x5")),
        instrument=clean_text(_get_value(root, "System.Model") or _get_value(root, "System.Name")),
        acquired=dates.parse_date(_get_value(root, "TimeStamp"), month_first=True),
        detector=clean_text(_get_value(root, "DetectorName")),
        stage_x_um=_get_position_um(root, "StageX", "um"),
        stage_y_um=_get_position_um(root, "StageY", "um"),
        stage_z_um=_get_position_um(root, "StageZ", "mm"),
        tilt_deg=parse_number(_get_value(root, "StageTilt")),
    )
    return VendorMetadata(header, tuple(size for size in sizes if size.x_nm > 0))


def _get_entry(root: Any, name: str) -> tuple[str | None, str | None]:
    """Value and unit of an entry; a dotted name is one element's name or the path of two."""
    element = next(find_elements(root, name), None)
    if element is None and "." in name:
        section, _, part = name.partition(".")
        children = (child for parent in find_elements(root, section) for child in parent)
        element = next((child for child in children if name_element(child) == part), None)
    if element is None:
        return None, None
    return find_text(element, "Value") or (element.text or "").strip() or None, find_text(element, "Units", "Unit")


def _get_value(root: Any, name: str) -> str | None:
    return _get_entry(root, name)[0]


def _get_length_nm(root: Any, name: str, default_unit: str) -> float:
    value, unit = _get_entry(root, name)
    nm = length_to_nm(value, unit)
    return nm if nm > 0 else length_to_nm(value, default_unit)


def _get_position_um(root: Any, name: str, default_unit: str) -> float:
    value = parse_number(_get_value(root, name))
    return math.copysign(_get_length_nm(root, name, default_unit) * 1e-3, value) if value else value
