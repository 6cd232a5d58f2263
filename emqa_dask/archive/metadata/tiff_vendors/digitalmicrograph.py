"""Gatan DigitalMicrograph: units (65003, 65004) and scales (65009, 65010) of x and y, which others write too."""

from typing import Any

import tifffile

from emqa_dask.archive.metadata.pixel_size import StatedSize
from emqa_dask.archive.metadata.tiff_vendors.vendor_metadata import VendorMetadata
from emqa_dask.archive.metadata.units import is_reciprocal, length_to_nm, nm_per_unit

TAGS = (65009, 65010)
_UNITS = {"x": (65003, 65012), "y": (65004, 65013)}  # short, and in full ("micrometer")
_SCALES = {"x": 65009, "y": 65010}


def read_digitalmicrograph(page: tifffile.TiffPage, tif: tifffile.TiffFile) -> VendorMetadata | None:
    """Scales of x and y in their units; a reciprocal unit is the one of a diffraction pattern."""
    if not any(tag in page.tags for tag in TAGS):
        return None
    units = {axis: _read_unit(page, tags) for axis, tags in _UNITS.items()}
    reciprocal_unit = next((unit for unit in units.values() if is_reciprocal(unit)), None)
    nm, nm_y = (length_to_nm(page.tags.valueof(tag), units[axis] or units["x"]) for axis, tag in _SCALES.items())
    sizes = (StatedSize(nm, nm_y, "the scale of DigitalMicrograph"),) if nm > 0 else ()
    return VendorMetadata(sizes=sizes, diffraction=f"the unit {reciprocal_unit}" if reciprocal_unit else "")


def _read_unit(page: tifffile.TiffPage, tags: tuple[int, ...]) -> Any:
    """The first of `tags` that is a unit of length or of reciprocal space, else None."""
    units = [page.tags.valueof(tag) for tag in tags]
    return next((u for u in units if is_reciprocal(u) or nm_per_unit(u) > 0), None)
