"""Fibics NPVE and ATLAS, also as Zeiss Atlas 5: the XML <Fibics> in tag 51023."""

import math
from typing import Any

import tifffile

from emqa_dask.archive.metadata import dates
from emqa_dask.archive.metadata.dose import compute_scan_dose
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import StatedSize
from emqa_dask.archive.metadata.tiff_vendors.vendor_metadata import VendorMetadata, compute_area_nm2, read_tag_text
from emqa_dask.archive.metadata.units import convert_to_base_unit, length_to_nm
from emqa_dask.archive.metadata.values import clean_text, parse_number, parse_positive
from emqa_dask.archive.metadata.xml_text import find_elements, find_text, get_attribute, name_element, parse_xml

TAGS = (51023,)
MAX_SKEW = 0.02  # cosine of the angle between rows and columns; above, lengths differ with their direction
_ION_BEAMS = ("fib", "ion", "him", "helium", "gallium", "neon")


def read_fibics(page: tifffile.TiffPage, tif: tifffile.TiffFile) -> VendorMetadata | None:
    """The steps (Ux, Uy) along a row and (Vx, Vy) along a column, whose lengths are the pixel size, in micrometres."""
    text = read_tag_text(page, TAGS[0])
    root = parse_xml(text) if "<Fibics" in text else None
    if root is None:
        return None
    width_px = parse_positive(_get_text(root, "Image", "Width"))
    height_px = parse_positive(_get_text(root, "Image", "Height"))
    columns = width_px if width_px > 0 else page.imagewidth
    rows = height_px if height_px > 0 else page.imagelength
    sizes = [
        StatedSize(_get_step_nm(root, "Ux", "Uy"), _get_step_nm(root, "Vx", "Vy"), "Scan.Ux", width_px),
        StatedSize(
            _get_length_nm(root, "Scan", "FOV_X") / columns,
            _get_length_nm(root, "Scan", "FOV_Y") / rows,
            f"Scan.FOV_X / {columns:.0f} px",
            width_px,
        ),
    ]
    sizes = [size for size in sizes if size.x_nm > 0]
    header = Header(
        voltage_kv=parse_positive(_get_text(root, "BeamInfo", "AccV"), 1e-3),
        instrument=clean_text(_get_text(root, "Image", "Machine")),
        acquired=dates.parse_date(_get_text(root, "Application", "Date"), month_first=True),
        detector=clean_text(_get_text(root, "Image", "Detector")),
        stage_x_um=_get_position_um(root, "X"),
        stage_y_um=_get_position_um(root, "Y"),
        stage_z_um=_get_position_um(root, "Z"),
        tilt_deg=parse_number(_get_text(root, "Stage", "Tilt")),
        dose_e_per_nm2=_read_scan_dose(root, sizes),
        foreign={"Fibics.Application.Version": _get_text(root, "Application", "Version")},
    )
    return VendorMetadata(header, tuple(sizes), problem=_find_skew(root))


def _find_skew(root: Any) -> str:
    """Phrase for rows and columns that are not at right angles, as in images that were sheared; "" else."""
    row_step = [parse_number(_get_text(root, "Scan", name)) for name in ("Ux", "Uy")]
    column_step = [parse_number(_get_text(root, "Scan", name)) for name in ("Vx", "Vy")]
    product = row_step[0] * column_step[0] + row_step[1] * column_step[1]
    cosine = product / (math.hypot(*row_step) * math.hypot(*column_step) or math.nan)
    if not abs(cosine) > MAX_SKEW:
        return ""
    return f"rows and columns of the image are at {math.degrees(math.acos(max(-1.0, min(1.0, cosine)))):.0f} degrees"


def _get_element(root: Any, section: str, name: str) -> Any:
    """The element `name` of a section, or its <item name="...">; None where there is none."""
    for parent in find_elements(root, section):
        for child in parent:
            if name_element(child) == name or get_attribute(child, "name") == name:
                return child
    return None


def _get_text(root: Any, section: str, name: str) -> str | None:
    element = _get_element(root, section, name)
    return (element.text or "").strip() or None if element is not None else None


def _get_unit(root: Any, section: str, name: str, default_unit: str) -> str:
    return get_attribute(_get_element(root, section, name), "units", "unit") or default_unit


def _get_length_nm(root: Any, section: str, name: str) -> float:
    return length_to_nm(_get_text(root, section, name), _get_unit(root, section, name, "um"))


def _get_step_nm(root: Any, x_name: str, y_name: str) -> float:
    """Length of a step whose two components are stated; an absent component is 0."""
    components = [_get_length_nm(root, "Scan", name) for name in (x_name, y_name)]
    nm = math.hypot(*(c for c in components if c > 0))
    return nm if nm > 0 else math.nan


def _get_position_um(root: Any, axis: str) -> float:
    value = parse_number(_get_text(root, "Stage", axis))
    return math.copysign(_get_length_nm(root, "Stage", axis) * 1e-3, value) if value else value


def _read_scan_dose(root: Any, sizes: list[StatedSize]) -> float:
    """Dose of an electron beam; NaN for one of ions."""
    beam = f"{_get_text(root, 'Image', 'Beam')} {find_text(root, 'GFISGas')}".lower()
    if any(name in beam for name in _ION_BEAMS):
        return math.nan
    current_a = convert_to_base_unit(
        _get_text(root, "BeamInfo", "BeamI"), _get_unit(root, "BeamInfo", "BeamI", "pA"), "A"
    )
    dwell_s = convert_to_base_unit(_get_text(root, "Scan", "Dwell"), _get_unit(root, "Scan", "Dwell", "ns"), "s")
    n_lines = max(1.0, parse_positive(_get_text(root, "Scan", "LineAvg")))
    return compute_scan_dose(current_a, dwell_s * n_lines, compute_area_nm2(sizes))
