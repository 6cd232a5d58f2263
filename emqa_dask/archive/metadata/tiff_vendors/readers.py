"""The list of the vendors' readers, in the order in which their pixel sizes count."""

from collections.abc import Callable

import tifffile

from emqa_dask.archive.metadata.tiff_vendors import (
    descriptions,
    digitalmicrograph,
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
from emqa_dask.archive.metadata.tiff_vendors.vendor_metadata import VendorMetadata

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
    jeol.read_jeol,
    descriptions.read_amt,
    descriptions.read_point_electronic,
    digitalmicrograph.read_digitalmicrograph,
    imagej.read_imagej,
)
FALLBACK_READERS: tuple[Reader, ...] = (descriptions.read_description,)  # where none of the others states a size
VENDOR_TAGS = frozenset(
    (
        *fibics.TAGS, *fei.TAGS, *thermo_xml.TAGS, *zeiss.TAGS, *orion.TAGS, *tescan.TAGS, *tvips.TAGS, *olympus.TAGS,
        *digitalmicrograph.TAGS,
    )
)  # fmt: skip
