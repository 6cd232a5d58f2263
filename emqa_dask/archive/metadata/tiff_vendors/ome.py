"""OME-TIFF: the OME-XML of the first page, or of the companion file that it names, for each page."""

from pathlib import Path
from typing import Any

import tifffile

from emqa_dask.archive.metadata.ome_xml import OmeImage, OmePlane, list_images, map_planes
from emqa_dask.archive.metadata.tiff_vendors.vendor_metadata import VendorMetadata, read_tag_text
from emqa_dask.archive.metadata.values import parse_number
from emqa_dask.archive.metadata.xml_text import MAX_XML_BYTES, find_elements, get_attribute, parse_xml


class OmeTiff:
    """OME-XML of one file, and the images that its pages are; parsed once."""

    def __init__(self, tif: tifffile.TiffFile):
        text = read_tag_text(tif.pages.first, 270) if len(tif.pages) else ""
        self.root = parse_xml(text) if _is_ome_xml(text) else None
        self.companion = ""  # name of the file that should hold the metadata and is not there
        if self.root is None:
            return
        path = Path(tif.filehandle.path)
        uuid = get_attribute(self.root, "UUID")
        reference = next(find_elements(self.root, "BinaryOnly"), None)
        if reference is not None:
            uuid = get_attribute(reference, "UUID") or uuid
            self.root = self._read_companion(path, get_attribute(reference, "MetadataFile") or "")
        self.images = list_images(self.root) if self.root is not None else []
        self.planes = map_planes(self.images, path.name, uuid, len(tif.pages))

    def _read_companion(self, path: Path, name: str) -> Any:
        """Root of the companion beside `path`; only the last part of its name counts, wherever it points."""
        companion = path.with_name(Path(name.replace("\\", "/")).name or "?")
        if companion.is_file() and companion.stat().st_size <= MAX_XML_BYTES:
            return parse_xml(companion.read_bytes())
        self.companion = companion.name
        return None

    def read(self, page: tifffile.TiffPage) -> VendorMetadata | None:
        """Metadata of the image that `page` belongs to; None without OME-XML."""
        if self.companion:
            return VendorMetadata(problem=f"the pixel size stands in {self.companion}, which is not beside the file")
        if self.root is None:
            return None
        plane = self.planes.get(page.index) if isinstance(page.index, int) else None
        plane = plane or self._guess_plane(page)
        if plane is None:
            return VendorMetadata(problem="the OME-XML does not say which of its images this page is")
        size = plane.image.size
        return VendorMetadata(plane.image.read_plane(plane.index), (size,) if size.x_nm > 0 else ())

    def _guess_plane(self, page: tifffile.TiffPage) -> OmePlane | None:
        """The only image, or the only one of this page's width and height; all of them where they state one size."""
        shape = (page.imagewidth, page.imagelength)
        images = [image for image in self.images if _get_shape(image) == shape] or self.images
        sizes = {tuple(round(nm, 9) if nm > 0 else 0.0 for nm in (i.size.x_nm, i.size.y_nm)) for i in images}
        return OmePlane(images[0], 0) if len(sizes) == 1 else None


def _is_ome_xml(text: str) -> bool:
    head = text[:4096]
    return "OME" in head and "<" in head and ("openmicroscopy.org" in head or "<OME" in head or ":OME " in head)


def _get_shape(image: OmeImage) -> tuple[float, float]:
    return parse_number(get_attribute(image.pixels, "SizeX")), parse_number(get_attribute(image.pixels, "SizeY"))
