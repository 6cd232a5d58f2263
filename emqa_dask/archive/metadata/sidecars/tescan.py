"""Texts that TESCAN's SEMs write beside an image (.hdr): [MAIN], PixelSizeX=2e-09."""

import re

from emqa_dask.archive.metadata.sidecars.quantities import ImageFile
from emqa_dask.archive.metadata.tiff_vendors.tescan import read_tescan_text
from emqa_dask.archive.metadata.tiff_vendors.vendor_metadata import VendorMetadata

_TESCAN_TEXT = re.compile(r"^\s*\[MAIN\].*^\s*(?:PixelSizeX|Device|Magnification)\s*=", re.M | re.S | re.I)
_ION_SECTION = re.compile(r"^\s*\[FIB\]", re.MULTILINE)


def is_tescan(text: str) -> bool:
    """Whether `text` is one that a TESCAN SEM writes beside an image."""
    return _TESCAN_TEXT.search(text) is not None


def read_tescan(text: str, image: ImageFile) -> list[VendorMetadata]:
    """Conditions of one image, as in the tag of a TIFF."""
    metadata = read_tescan_text(text, _ION_SECTION.search(text) is not None)
    return [metadata] if metadata is not None else []
