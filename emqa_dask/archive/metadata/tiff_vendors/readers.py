"""The list of the vendors' readers, in the order in which their pixel sizes count."""

from collections.abc import Callable

import tifffile

from emqa_dask.archive.metadata.tiff_vendors import (
    descriptions,
    digitalmicrograph,
    eer,
    fei,
    fibics,
    imagej,
    jeol,
    olympus,
    orion,
    tescan,
    thermo_xml,
    tvips,
    zeiss,
)
from emqa_dask.archive.metadata.tiff_vendors.vendor_metadata import VendorMetadata, read_tag_text

Reader = Callable[[tifffile.TiffPage, tifffile.TiffFile], VendorMetadata | None]

# A reader gives None where its vendor's tags are absent. Fibics drives the microscopes of others and comes before them;
# ImageJ, which may have changed the image since, comes last.
READERS: tuple[Reader, ...] = (
    fibics.read_fibics,
    fei.read_fei,
    thermo_xml.read_thermo_xml,
    zeiss.read_zeiss,
    orion.read_orion,
    tescan.read_tescan,
    tvips.read_tvips,
    olympus.read_olympus,
    eer.read_eer,
    jeol.read_jeol,
    descriptions.read_amt,
    descriptions.read_point_electronic,
    digitalmicrograph.read_digitalmicrograph,
    imagej.read_imagej,
)
FALLBACK_READERS: tuple[Reader, ...] = (descriptions.read_description,)  # where none of the others states a size
# Names of writers by a tag that only they have, for the format of a file; the first one that is there counts.
_WRITERS = (
    ("FEI", fei.TAGS + thermo_xml.TAGS), ("Fibics", fibics.TAGS), ("Zeiss", zeiss.TAGS), ("Olympus SIS", olympus.TAGS),
    ("TVIPS", tvips.TAGS), ("Tescan", tescan.TAGS),
)  # fmt: skip
VENDOR_TAGS = frozenset(
    (
        *fibics.TAGS, *fei.TAGS, *thermo_xml.TAGS, *zeiss.TAGS, *orion.TAGS, *tescan.TAGS, *tvips.TAGS, *olympus.TAGS,
        *digitalmicrograph.TAGS, *eer.TAGS,
    )
)  # fmt: skip


def name_writer(tif: tifffile.TiffFile) -> str:
    """Name of the firm or program that wrote a file, by its tags; "" for an unknown one."""
    pages = list(tif.pages)
    first_page = tif.pages.first
    description = read_tag_text(first_page, 270)[:1000]
    for name, tags in _WRITERS:
        if any(tag in page.tags for page in (pages if name == "Olympus SIS" else pages[:1]) for tag in tags):
            return name
    if "<ImageTags" in str(first_page.tags.valueof(orion.TAGS[0], ""))[:1000]:
        return "Zeiss Orion"
    if tif.is_ome or tif.is_imagej:
        return "OME" if tif.is_ome else "ImageJ"
    if digitalmicrograph.TAGS[0] in first_page.tags:
        return "DigitalMicrograph"
    if str(first_page.tags.valueof(271, "")).startswith("JEOL") or "<TemReporter" in description:
        return "JEOL"
    return "AMT" if description.startswith("AMT Camera System") else ""
