"""JEOL TEM: the XML in the image description, of SightX (<TemReporter>) and of Analysis Station (<TemReporter2>)."""

import math
from typing import Any

import tifffile

from emqa_dask.archive.metadata import dates
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import StatedSize
from emqa_dask.archive.metadata.tiff_vendors.vendor_metadata import VendorMetadata, read_tag_text
from emqa_dask.archive.metadata.values import clean_text, parse_number, parse_positive
from emqa_dask.archive.metadata.xml_text import find_elements, find_text, name_element, parse_xml

TAGS = (270,)
_NM_PER_INCH = 2.54e7
_NM_PER_CM = 1e7


def read_jeol(page: tifffile.TiffPage, tif: tifffile.TiffFile) -> VendorMetadata | None:
    """Mode, magnification and conditions from the XML; its pixel size, or the camera's by the resolution tags."""
    text = read_tag_text(page, TAGS[0])
    if "<TemReporter" not in text:
        return None
    root = parse_xml(text[text.index("<TemReporter") :])
    if root is None:
        return None
    return _read_analysis_station(root) if name_element(root) == "TemReporter2" else _read_sightx(root, page)


def _read_sightx(root: Any, page: tifffile.TiffPage) -> VendorMetadata:
    """Camera pixels over magnification; the resolution tags state the camera's pixels."""
    imaging = next(find_elements(root, "ImageFormingSystem"), root)
    mode = find_text(imaging, "ModeString") or ""
    eos_mode = find_text(root, "EosMode") or ""
    is_diffraction = mode.upper().startswith("DIFF")
    magnification = parse_positive(find_text(imaging, "SelectorValue")) if not is_diffraction else math.nan
    nm_per_unit = _NM_PER_INCH if page.tags.valueof(296, 2) == 2 else _NM_PER_CM
    is_scanned = bool(eos_mode) and eos_mode != "eosTEM"  # the formula holds for the camera only
    sizes = [nm_per_unit / parse_positive(page.tags.valueof(tag)) / magnification for tag in (282, 283)]
    size = StatedSize(sizes[0], sizes[1], "the camera's pixels over SelectorValue")
    stage = next(find_elements(root, "StagePosition"), None)
    header = Header(
        voltage_kv=parse_positive(find_text(root, "AccelerationVoltage"), 1e-3),
        magnification=magnification,
        instrument=clean_text(find_text(root, "Instruments")),
        acquired=dates.parse_date(find_text(root, "DateTime")),
        exposure_s=parse_positive(find_text(root, "ExposureTimeValue")),
        stage_x_um=_read_position_um(stage, "X"),
        stage_y_um=_read_position_um(stage, "Y"),
        tilt_deg=parse_number(find_text(stage, "TX")),
        foreign={"ModeString": mode, "EosMode": eos_mode},
    )
    is_stated = size.x_nm > 0 and not is_scanned
    return VendorMetadata(header, (size,) if is_stated else (), f"the mode {mode}" if is_diffraction else "")


def _read_position_um(stage: Any, axis: str) -> float:
    """The positions of motor (MX) and piezo (PX), which are in nm."""
    motor_nm = parse_number(find_text(stage, f"M{axis}"))
    piezo_nm = parse_number(find_text(stage, f"P{axis}"))
    return (motor_nm + (piezo_nm if math.isfinite(piezo_nm) else 0.0)) * 1e-3


def _read_analysis_station(root: Any) -> VendorMetadata:
    """LengthPerPixel, in nm; no other unit has been seen."""
    unit_type = find_text(root, "a_MeasurementUnitType") or ""
    is_diffraction = "diffraction" in unit_type.lower()
    volts = parse_positive(find_text(root, "a_AccVoltage"))
    header = Header(
        voltage_kv=volts * (1e-3 if volts > 1000 else 1.0),  # some files state kV
        magnification=math.nan if is_diffraction else parse_positive(find_text(root, "a_SelectorValue")),
        detector=clean_text(find_text(root, "b_DetectorKind")),
    )
    width_px = parse_positive(find_text(next(find_elements(root, "a_ImageSize"), None), "b_width"))
    size = StatedSize(parse_positive(find_text(root, "a_LengthPerPixel")), math.nan, "a_LengthPerPixel", width_px)
    return VendorMetadata(header, (size,) if size.x_nm > 0 else (), f"the mode {unit_type}" if is_diffraction else "")
