"""JSON that Nion Swift writes beside an image that it exports (a.npy: a.json)."""

import json
import math
from dataclasses import replace

from emqa_dask.archive.metadata.nion import list_calibrations, make_header, merge_data_source
from emqa_dask.archive.metadata.pixel_size import StatedSize
from emqa_dask.archive.metadata.sidecars.quantities import ImageFile
from emqa_dask.archive.metadata.tiff_vendors.vendor_metadata import VendorMetadata
from emqa_dask.archive.metadata.units import is_reciprocal, length_to_nm

_KEYS = ('"spatial_calibrations"', '"dimensional_calibrations"')


def is_nion(text: str) -> bool:
    """Whether `text` is JSON of Nion Swift about an image."""
    return text.lstrip().startswith("{") and any(key in text for key in _KEYS)


def read_nion(text: str, image: ImageFile) -> list[VendorMetadata]:
    """Conditions of all images of an array; the last two axes are their rows and columns."""
    properties = merge_data_source(json.loads(text))
    header = replace(make_header(properties), instrument="Nion Swift")
    n_dimensions = next((len(properties[key]) for key in (key.strip('"') for key in _KEYS) if properties.get(key)), 2)
    calibrations = list_calibrations(properties, n_dimensions)[-2:]
    if len(calibrations) < 2:
        return [VendorMetadata(header)]
    (y_nm, x_nm) = (length_to_nm(step, unit) for unit, step in calibrations)
    unit = next((unit for unit, _ in calibrations if is_reciprocal(unit)), "")
    size = StatedSize(y_nm if math.isnan(x_nm) else x_nm, y_nm, "spatial_calibrations")
    return [VendorMetadata(header, (size,), f"the unit {unit}" if unit else "")]
