"""TVIPS EM-MENU: the binary structure in tag 37706, versions 1 and 2."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import tifffile

from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import StatedSize
from emqa_dask.archive.metadata.tiff_vendors.vendor_metadata import VendorMetadata, metres_to_um
from emqa_dask.archive.metadata.values import clean_text, parse_number, parse_positive

TAGS = (37706,)
_DIFFRACTION_MODE = 3  # of TemMode; TemMagnification is the camera length then (so RosettaSciIO, rsciio/tiff)


def read_tvips(page: tifffile.TiffPage, tif: tifffile.TiffFile) -> VendorMetadata | None:
    """PixelSizeX and PixelSizeY in nm; version 1 has none. The date is year x 65536 + month x 256 + day."""
    tree = page.tags.valueof(TAGS[0])
    if not isinstance(tree, Mapping) or not tree:
        return None
    is_diffraction = tree.get("TemMode") == _DIFFRACTION_MODE
    position = tree.get("TemStagePosition")
    position = position if isinstance(position, Sequence) and len(position) >= 4 else [None] * 4
    header = Header(
        voltage_kv=parse_positive(tree.get("TemHighTension") or tree.get("HighTension"), 1e-3),
        magnification=math.nan if is_diffraction else parse_positive(tree.get("TemMagnification")),
        instrument=clean_text(tree.get("TemType")),
        acquired=_read_date(tree),
        exposure_s=parse_positive(tree.get("ExposureTime"), 1e-3),
        detector=clean_text(tree.get("CameraType")),
        stage_x_um=metres_to_um(position[0]),
        stage_y_um=metres_to_um(position[1]),
        stage_z_um=metres_to_um(position[2]),
        tilt_deg=parse_number(position[3]),
        foreign=tree,
    )
    size = StatedSize(
        parse_number(tree.get("PixelSizeX")),
        parse_number(tree.get("PixelSizeY")),
        "PixelSizeX",
        parse_positive(tree.get("ImageSizeX")),
    )
    is_stated = not math.isnan(size.x_nm)
    return VendorMetadata(header, (size,) if is_stated else (), "the mode of the TEM" if is_diffraction else "")


def _read_date(tree: Mapping[str, Any]) -> str | None:
    """Date, and time in seconds of the day; None for impossible ones."""
    date = int(parse_positive(tree.get("Date")) if parse_positive(tree.get("Date")) > 0 else 0)
    seconds = parse_number(tree.get("Time"))
    year, month, day = date >> 16, date >> 8 & 0xFF, date & 0xFF
    if not (1980 <= year <= 2100 and 1 <= month <= 12 and 1 <= day <= 31):
        return None
    time = int(seconds) if 0 <= seconds < 86400 else 0
    return f"{year:04}-{month:02}-{day:02}T{time // 3600:02}:{time // 60 % 60:02}:{time % 60:02}"
