"""XML that Thermo Fisher's EPU and Tomography write beside an image: <MicroscopeImage>."""

import math
import re
from typing import Any

from emqa_dask.archive.metadata import dates
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import StatedSize
from emqa_dask.archive.metadata.sidecars.quantities import ImageFile, parse_position_um
from emqa_dask.archive.metadata.tiff_vendors.vendor_metadata import VendorMetadata
from emqa_dask.archive.metadata.units import length_to_nm, nm_per_unit
from emqa_dask.archive.metadata.values import clean_text, parse_number, parse_positive
from emqa_dask.archive.metadata.xml_text import find_elements, find_text, parse_xml

_EPU_ROOT = re.compile(r"<(?:\w+:)?MicroscopeImage[\s>]")


def is_epu(text: str) -> bool:
    """Whether `text` is XML that EPU writes beside an image."""
    return _EPU_ROOT.search(text) is not None


def read_epu(text: str, image: ImageFile) -> list[VendorMetadata]:
    """Conditions of one exposure. Each of several frames has its part of the exposure's dose and time."""
    root = parse_xml(text)
    properties = _read_properties(root)
    camera = _find_descendant(root, "acquisition", "camera")
    (x_um, y_um, z_um) = (parse_position_um(_find_value(root, "stage", "Position", axis), "m") for axis in "XYZ")
    mode = find_text(root, "ProjectorMode") or ""
    is_diffraction = mode.lower() == "diffraction" and camera is not None and len(camera) > 0  # STEM has no camera
    header = Header(
        voltage_kv=parse_positive(find_text(root, "AccelerationVoltage"), 1e-3),
        magnification=parse_positive(_find_value(root, "TemMagnification", "NominalMagnification")),
        instrument=clean_text(find_text(root, "InstrumentModel")),
        acquired=dates.parse_date(find_text(root, "acquisitionDateTime")),
        dose_e_per_nm2=parse_positive(properties.get("Dose"), 1e-18 / image.n_frames),  # it is in e/m2
        exposure_s=parse_positive(_find_value(camera, "ExposureTime"), 1 / image.n_frames),
        detector=clean_text(properties.get("DetectorCommercialName") or _find_value(camera, "Name")),
        stage_x_um=x_um,
        stage_y_um=y_um,
        stage_z_um=z_um,
        tilt_deg=math.degrees(parse_number(_find_value(root, "stage", "Position", "A"))),
        foreign=properties,
    )
    (area_px, area_rows) = (parse_positive(_find_value(camera, "ReadoutArea", side)) for side in ("width", "height"))
    factor = _find_upsampling(image, area_px, area_rows)
    (x_nm, y_nm) = (_read_size_nm(root, axis) / factor for axis in "xy")
    size = StatedSize(x_nm, y_nm, "SpatialScale", area_px * factor)
    return [VendorMetadata(header, (size,), f"the projector mode {mode}" if is_diffraction else "")]


def _find_descendant(element: Any, *names: str) -> Any:
    """The first element called names[-1], inside one called names[-2], and so on, below `element`; None for none."""
    for name in names:
        element = next(find_elements(element, name), None)
    return element


def _find_value(element: Any, *names: str) -> str | None:
    found_element = _find_descendant(element, *names)
    return found_element.text if found_element is not None else None


def _read_size_nm(root: Any, axis: str) -> float:
    pixel_size = _find_descendant(root, "SpatialScale", "pixelSize", axis)
    units = (clean_text(e.text) for unit in find_elements(pixel_size, "unit") for e in unit.iter())
    unit = next((unit for unit in units if nm_per_unit(unit) > 0), "m")
    return length_to_nm(_find_value(pixel_size, "numericValue"), unit)


def _find_upsampling(image: ImageFile, area_px: float, area_rows: float) -> float:
    """How many pixels of a movie a pixel of the image has that the XML describes, along each axis; 1 for other images.

    EPU describes its sum of a movie, which it may have binned. The area that was read out is in pixels of this sum, and
    the movie has all of it.
    """
    factor = image.width_px / area_px
    is_same_field = factor in (2, 4) and image.height_px == factor * area_rows
    return factor if is_same_field and image.n_frames > 1 else 1.0


def _read_properties(root: Any) -> dict[str, str]:
    """The keys and values of <CustomData>."""
    pairs = (
        (_find_value(pair, "Key"), clean_text(_find_value(pair, "Value")))
        for pair in find_elements(root, "KeyValueOfstringanyType")
    )
    return {key: value for key, value in pairs if key and value}
