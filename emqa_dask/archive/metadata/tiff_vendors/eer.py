"""Electron event representation of Falcon cameras (.eer): the XML <metadata> with <item name="..."> in tag 65001."""

import math

import tifffile

from emqa_dask.archive.metadata import dates
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import StatedSize, is_scanner_resolution
from emqa_dask.archive.metadata.tiff_vendors.vendor_metadata import VendorMetadata, compute_area_nm2, read_tag_text
from emqa_dask.archive.metadata.units import convert_to_base_unit, length_to_nm
from emqa_dask.archive.metadata.values import clean_text, parse_positive
from emqa_dask.archive.metadata.xml_text import find_elements, get_attribute, parse_xml

TAGS = (65001,)


def read_eer(page: tifffile.TiffPage, tif: tifffile.TiffFile) -> VendorMetadata | None:
    """Pixel size on the specimen (metres), exposure time and dose; the dose is stated in electrons per pixel."""
    text = read_tag_text(page, TAGS[0])
    root = parse_xml(text) if "<metadata" in text and "<item" in text else None
    if root is None:
        return None
    items = {get_attribute(item, "name") or "": item for item in find_elements(root, "item")}
    values = {name: (item.text or "").strip() for name, item in items.items()}
    units = {name: get_attribute(item, "unit") for name, item in items.items()}
    names = ("sensorPixelSize.width", "sensorPixelSize.height")
    nm, nm_y = (length_to_nm(values.get(name), units.get(name) or "m") for name in names)
    is_sensor = is_scanner_resolution(nm)  # the pixel of the camera itself, in micrometres
    sizes = (StatedSize(nm, nm_y, names[0], parse_positive(values.get("sensorImageWidth"))),)
    sizes = sizes if nm > 0 and not is_sensor else ()
    dose = parse_positive(values.get("totalDose")) / compute_area_nm2(sizes)
    header = Header(
        acquired=dates.parse_date(values.get("timestamp")),
        exposure_s=parse_positive(
            convert_to_base_unit(values.get("exposureTime"), units.get("exposureTime") or "s", "s")
        ),
        detector=clean_text(values.get("commercialName") or values.get("cameraName")),
        dose_e_per_nm2=dose if dose > 0 else math.nan,
        foreign=values,
    )
    return VendorMetadata(header, sizes)
