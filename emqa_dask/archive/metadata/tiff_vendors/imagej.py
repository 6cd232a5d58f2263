"""ImageJ and programs that write as it does: the unit stands in the description, the scale in the resolution tags."""

import re
from typing import Any

import tifffile

from emqa_dask.archive.metadata.pixel_size import StatedSize, is_scanner_resolution
from emqa_dask.archive.metadata.tiff_vendors.vendor_metadata import VendorMetadata
from emqa_dask.archive.metadata.units import is_reciprocal, length_to_nm, normalise_unit
from emqa_dask.archive.metadata.values import parse_positive

_EXACT_SCALES = (65009, 65010)  # of DigitalMicrograph, which HyperSpy writes beside a rounded scale in ImageJ's way
_PRINT_UNITS = ("inch", "inches", "in", "cm")  # ImageJ takes them from the resolution tags of print where none is set


def read_imagej(page: tifffile.TiffPage, tif: tifffile.TiffFile) -> VendorMetadata | None:
    """Pixels per unit of x and y. Inches and centimetres count where no scanner has such a resolution."""
    description = (tif.imagej_metadata or {}) if tif.is_imagej else {}
    unit = _unescape(description.get("unit"))
    if not unit or any(tag in page.tags for tag in _EXACT_SCALES):
        return None
    unit_y = _unescape(description.get("yunit")) or unit
    if is_reciprocal(unit):
        return VendorMetadata(diffraction=f"the unit {unit}")
    nm, nm_y = (
        length_to_nm(1 / parse_positive(page.tags.valueof(tag)), axis_unit)
        for tag, axis_unit in ((282, unit), (283, unit_y))
    )
    is_print = normalise_unit(unit) in _PRINT_UNITS and (is_scanner_resolution(nm) or is_scanner_resolution(nm_y))
    sizes = (StatedSize(nm, nm_y, "the scale of ImageJ"),) if nm > 0 and not is_print else ()
    return VendorMetadata(sizes=sizes)


def _unescape(unit: Any) -> str:
    """`unit` with the characters that ImageJ writes as \\u00B5."""
    text = str(unit) if unit is not None else ""
    return re.sub(r"\\u([0-9A-Fa-f]{4})", lambda match: chr(int(match[1], 16)), text).strip()
