"""XML of other programs of FEI and Thermo Fisher beside an image, the same as in the tags of their TIFF files."""

import re

from emqa_dask.archive.metadata.sidecars.quantities import ImageFile
from emqa_dask.archive.metadata.tiff_vendors.thermo_xml import read_thermo_root
from emqa_dask.archive.metadata.tiff_vendors.vendor_metadata import VendorMetadata
from emqa_dask.archive.metadata.xml_text import parse_xml

_ROOT = re.compile(r"<(?:\w+:)?(?:Metadata|ObjectInfo|FeiImage)[\s>]")
_THERMO_ELEMENT = re.compile(
    r"<(?:\w+:)?(?:BinaryResult|PixelSize|pixelWidth|ScanFieldOfView|ExperimentalDescription)[\s>]"
)


def is_thermo(text: str) -> bool:
    """Whether `text` is XML that FEI or Thermo Fisher software writes into a TIFF file or beside an image."""
    is_xml = text.lstrip("\ufeff \t\r\n").startswith("<")
    return is_xml and _ROOT.search(text) is not None and _THERMO_ELEMENT.search(text) is not None


def read_thermo(text: str, image: ImageFile) -> list[VendorMetadata]:
    """Conditions of one image, as in the tags of a TIFF."""
    root = parse_xml(text)
    return [read_thermo_root(root, image.width_px, image.height_px)] if root is not None else []
