"""OME-TIFF: the OME-XML of the first page, or of the companion file that it names, for each page."""

from pathlib import Path
from typing import Any

import tifffile

from emqa_dask.archive.metadata.ome_xml import OmePlane, map_planes, read_image
from emqa_dask.archive.metadata.tiff_vendors.vendor_metadata import VendorMetadata
from emqa_dask.archive.metadata.units import length_to_nm
from emqa_dask.archive.metadata.xml_text import MAX_XML_BYTES, find_elements, get_attribute, parse_xml


class OmeTiff:
    """OME-XML of one file, and the images that its pages are; parsed once."""

    def __init__(self, tif: tifffile.TiffFile):
        text = tif.pages.first.description if len(tif.pages) else ""
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
        self.planes = map_planes(self.root, path.name, uuid, len(tif.pages)) if self.root is not None else {}

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
        header, size = read_image(self.root, plane)
        is_stated = size.x_nm > 0
        return VendorMetadata(header, (size,) if is_stated else ())

    def _guess_plane(self, page: tifffile.TiffPage) -> OmePlane | None:
        """The only image, or the only one of this page's width and height; all of them where they state one size."""
        images = list(find_elements(self.root, "Image"))
        shape = (str(page.imagewidth), str(page.imagelength))
        fitting_images = [image for image in images if _get_shape(image) == shape] or images
        if len({_get_size(image) for image in fitting_images}) == 1:
            return OmePlane(fitting_images[0], 0)
        return None


def _is_ome_xml(text: str) -> bool:
    head = text[:4096]
    return "OME" in head and "<" in head and ("openmicroscopy.org" in head or "<OME" in head or ":OME " in head)


def _get_shape(image: Any) -> tuple[str | None, str | None]:
    pixels = next(find_elements(image, "Pixels"), None)
    return get_attribute(pixels, "SizeX"), get_attribute(pixels, "SizeY")


def _get_size(image: Any) -> tuple[float, ...]:
    """Pixel sizes, rounded so that equal ones are equal; -1 for unknown ones."""
    pixels = next(find_elements(image, "Pixels"), None)
    unit = {axis: get_attribute(pixels, f"PhysicalSize{axis}Unit") or "µm" for axis in "XY"}
    sizes = [length_to_nm(get_attribute(pixels, f"PhysicalSize{axis}"), unit[axis]) for axis in "XY"]
    return tuple(round(nm, 9) if nm > 0 else -1.0 for nm in sizes)
