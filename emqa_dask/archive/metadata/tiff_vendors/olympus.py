"""Olympus SIS and EMSIS (iTEM, Radius): tags 33471 (text) and 33560 (binary)."""

import math
from typing import Any

import tifffile

from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import StatedSize
from emqa_dask.archive.metadata.tiff_vendors.vendor_metadata import VendorMetadata
from emqa_dask.archive.metadata.values import clean_text, parse_number, parse_positive

TAGS = (33471, 33560)
_EXIF = 34665


def read_olympus(page: tifffile.TiffPage, tif: tifffile.TiffFile) -> VendorMetadata | None:
    """Pixel sizes in metres, magnification and camera; the exposure time stands among the EXIF tags."""
    tree: dict[str, Any] = {}
    for tag in TAGS:
        value = page.tags.valueof(tag)
        tree.update(value if isinstance(value, dict) else {})
    if not tree and not any(tag in page.tags for tag in TAGS):
        return None
    exif = page.tags.valueof(_EXIF)
    acquired = tree.get("datetime")
    header = Header(
        magnification=parse_positive(tree.get("magnification")),
        instrument=clean_text(tree.get("cameraname")),
        detector=clean_text(tree.get("cameraname")) or clean_text(page.tags.valueof(272)),
        acquired=acquired.isoformat() if hasattr(acquired, "isoformat") else None,
        exposure_s=parse_positive(exif.get("ExposureTime")) if isinstance(exif, dict) else math.nan,
        foreign=tree,
    )
    sizes_m = [round(parse_number(tree.get(key)), 15) for key in ("pixelsizex", "pixelsizey")]
    size = StatedSize(sizes_m[0] * 1e9, sizes_m[1] * 1e9, "pixelsizex of the SIS tag")
    return VendorMetadata(header, (size,) if size.x_nm == size.x_nm else ())
