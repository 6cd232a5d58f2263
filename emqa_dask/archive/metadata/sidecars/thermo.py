"""XML of other programs of FEI and Thermo Fisher beside an image, the same as in the tags of their TIFF files."""

import re

from emqa_dask.archive.metadata.sidecars.quantities import ImageFile
from emqa_dask.archive.metadata.tiff_vendors.thermo_xml import read_thermo_root
from emqa_dask.archive.metadata.tiff_vendors.vendor_metadata import VendorMetadata
from emqa_dask.archive.metadata.xml_text import parse_xml

# An element that only this firm's metadata have, in a document called Metadata or ObjectInfo.
_THERMO_XML = re.compile(r"<(?:\w+:)?(?:Metadata|ObjectInfo|FeiImage)[\s>].*<(?:\w+:)?(?:BinaryResult|PixelSize|"
                         r"pixelWidth|ScanFieldOfView|ExperimentalDescription)[\s>]", re.DOTALL)  # fmt: skip


def is_thermo(text: str) -> bool:
    """Whether `text` is XML that FEI or Thermo Fisher software writes into a TIFF file or beside an image."""
    return text.lstrip("\ufeff \t\r\n").startswith("<") and _THERMO_XML.search(text) is not None


def read_thermo(text: str, image: ImageFile) -> list[VendorMetadata]:
    """Conditions of one image, as in the tags of a TIFF."""
    root = parse_xml(text)
    return [read_thermo_root(root, image.width_px, image.height_px)] if root is not None else []
