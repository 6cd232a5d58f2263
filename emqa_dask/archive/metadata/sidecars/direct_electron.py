"""Texts that Direct Electron's software writes beside a movie (..._info.txt): Frames Per Second = 40."""

import math
import re

from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import StatedSize
from emqa_dask.archive.metadata.sidecars.quantities import ImageFile
from emqa_dask.archive.metadata.texts import parse_key_values
from emqa_dask.archive.metadata.tiff_vendors.vendor_metadata import VendorMetadata
from emqa_dask.archive.metadata.values import clean_text, parse_positive

_DIRECT_ELECTRON_KEY = re.compile(
    r"^[ \t]*(?:Specimen Pixel Size X \(nanometers\)|Instrument Project \w)", re.MULTILINE
)


def is_direct_electron(text: str) -> bool:
    """Whether `text` is one that Direct Electron's software writes beside a movie."""
    return _DIRECT_ELECTRON_KEY.search(text) is not None


def read_direct_electron(text: str, image: ImageFile) -> list[VendorMetadata]:
    """Conditions of each frame of a movie. Unknown values are -1. A scan's pixel size is not that of a frame."""
    values = parse_key_values(text)
    is_scan = values.get("scan - enable", "").lower() == "enable"
    n_summed = parse_positive(values.get("autosave movie sum count") or 1)
    header = Header(
        magnification=parse_positive(values.get("instrument project magnification")),
        exposure_s=math.nan if is_scan else n_summed / parse_positive(values.get("frames per second")),
        detector=clean_text(values.get("camera model")),
        foreign=values,
    )
    (x_nm, y_nm) = (parse_positive(values.get(f"specimen pixel size {axis} (nanometers)")) for axis in "xy")
    size = StatedSize(x_nm, y_nm, "Specimen Pixel Size X", parse_positive(values.get("image size x (pixels)")))
    return [VendorMetadata(header, () if is_scan else (size,))]
