"""Texts that TESCAN's SEMs write beside an image (.hdr): [MAIN], PixelSizeX=2e-09."""

import re

from emqa_dask.archive.metadata.sidecars.quantities import ImageFile
from emqa_dask.archive.metadata.tiff_vendors.tescan import read_tescan_text
from emqa_dask.archive.metadata.tiff_vendors.vendor_metadata import VendorMetadata

_MAIN_SECTION = re.compile(r"^[ \t]*\[MAIN\]", re.MULTILINE | re.IGNORECASE)
_TESCAN_KEY = re.compile(r"^[ \t]*(?:PixelSizeX|Device|Magnification)[ \t]*=", re.MULTILINE | re.IGNORECASE)
_ION_SECTION = re.compile(r"^[ \t]*\[FIB\]", re.MULTILINE)


def is_tescan(text: str) -> bool:
    """Whether `text` is one that a TESCAN SEM writes beside an image."""
    return _MAIN_SECTION.search(text) is not None and _TESCAN_KEY.search(text) is not None


def read_tescan(text: str, image: ImageFile) -> list[VendorMetadata]:
    """Conditions of one image, as in the tag of a TIFF."""
    metadata = read_tescan_text(text, _ION_SECTION.search(text) is not None)
    return [metadata] if metadata is not None else []
