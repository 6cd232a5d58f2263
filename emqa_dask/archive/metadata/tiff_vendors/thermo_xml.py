"""XML of FEI and Thermo Fisher software (tag 34683, or in the place of the text in 34680 and 34682), and of Phenom."""

import math
from typing import Any

import tifffile

from emqa_dask.archive.metadata import dates
from emqa_dask.archive.metadata.dose import compute_scan_dose
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import StatedSize
from emqa_dask.archive.metadata.tiff_vendors.vendor_metadata import (
    VendorMetadata,
    compute_area_nm2,
    metres_to_um,
    radians_to_degrees,
    read_tag_text,
)
from emqa_dask.archive.metadata.units import convert_to_base_unit, is_reciprocal, length_to_nm
from emqa_dask.archive.metadata.values import clean_text, parse_number, parse_positive
from emqa_dask.archive.metadata.xml_text import find_elements, find_text, get_attribute, name_element, parse_xml

TAGS = (34683, 34682, 34680)
_SIZE_NAMES = ("PixelSize", "ScanFieldOfView")


def read_thermo_xml(page: tifffile.TiffPage, tif: tifffile.TiffFile) -> VendorMetadata | None:
    """Metadata of the first of the tags that holds XML; lengths are in metres where no unit is stated."""
    texts = (read_tag_text(page, tag) for tag in TAGS)
    root = parse_xml(next((text for text in texts if text.lstrip("\ufeff \t\r\n\0").startswith("<")), ""))
    return read_thermo_root(root, page.imagewidth, page.imagelength) if root is not None else None


def read_thermo_root(root: Any, width_px: int, height_px: int) -> VendorMetadata:
    """What the elements below `root` say about an image of this size."""
    labels = _read_labels(root)
    lengths = list(_list_lengths(root, width_px, height_px))
    reciprocal_unit = next((unit for _, unit, _ in lengths if is_reciprocal(unit)), "")
    sizes = tuple(size for size, _, _ in lengths)
    voltage_v = _read_voltage_v(root)
    label = lambda name: labels.get(name, (None, None))  # noqa: E731
    header = Header(
        voltage_kv=voltage_v * 1e-3 if voltage_v > 0 else convert_to_base_unit(*label("high tension"), "V") * 1e-3,
        magnification=parse_positive(find_text(root, "NominalMagnification") or label("magnification")[0]),
        instrument=clean_text(
            find_text(root, "InstrumentModel", "InstrumentClass", "SystemType", "edition") or label("microscope")[0]
        ),
        acquired=dates.parse_date(find_text(root, "AcquisitionDatetime", "AcquisitionDateTime", "time")),
        exposure_s=parse_positive(find_text(root, "ExposureTime", "FrameTime")),
        detector=clean_text(find_text(root, "DetectorName")),
        dose_e_per_nm2=_read_scan_dose(root, sizes),
        foreign={key: value for key, (value, _) in labels.items()},
        **_read_stage(root, labels),
    )
    diffraction = f"the unit {reciprocal_unit}" if reciprocal_unit else _find_diffraction_mode(labels)
    return VendorMetadata(header, sizes, diffraction, "; ".join(dict.fromkeys(p for _, _, p in lengths if p)))


def _list_lengths(root: Any, width_px: int, height_px: int) -> list[tuple[StatedSize, str, str]]:
    """Stated sizes, each with its unit and what is doubtful about it."""
    lengths = []
    for name in _SIZE_NAMES:
        divisors = (width_px, height_px) if name == "ScanFieldOfView" else (1, 1)
        for element in find_elements(root, name):
            children = {name_element(child).lower(): child for child in element}
            x = children.get("x", children.get("width"))
            if x is not None:
                lengths.append(_make_length(x, children.get("y", children.get("height")), name, divisors))
    for width in find_elements(root, "pixelWidth"):
        lengths.append(_make_length(width, next(find_elements(root, "pixelHeight"), None), "PixelWidth", (1, 1)))
    lengths.extend(_list_memento_lengths(root))
    return lengths


def _make_length(x: Any, y: Any, origin: str, divisors: tuple[int, int]) -> tuple[StatedSize, str, str]:
    unit = get_attribute(x, "unit") or "m"
    power = get_attribute(x, "unitPrefixPower")
    nm = _read_length(x) / divisors[0]
    is_prefixed = power not in (None, "0", "1") and nm > 0
    problem = f"{origin} is read as 10^{power} {unit}, for its unitPrefixPower" if is_prefixed else ""
    return StatedSize(nm, _read_length(y) / divisors[1], origin), unit, problem


def _read_length(element: Any) -> float:
    """An element's length in nm: its text in its unit, which a prefix of 10^unitPrefixPower may precede.

    Thermo Fisher's programs write unitPrefixPower="1" beside lengths in plain metres, so 1 is no power of ten.
    """
    if element is None:
        return math.nan
    power = parse_number(get_attribute(element, "unitPrefixPower"))
    factor = 10.0**power if math.isfinite(power) and power != 1 and abs(power) < 30 else 1.0
    return length_to_nm(element.text, get_attribute(element, "unit") or "m") * factor


def _list_memento_lengths(root: Any) -> list[tuple[StatedSize, str, str]]:
    """The pixel size among the MementoItems (name, value) that other programs of the firm write; in metres."""
    values = {}
    for item in find_elements(root, "MementoItem"):
        if find_text(item, "Name") == "PixelSize":
            parts = [part for part in find_elements(item, "MementoItem") if part is not item]
            values = {find_text(part, "Name"): find_text(part, "anyType") for part in parts}
            break
    nm = parse_positive(values.get("Width"), 1e9)
    return [(StatedSize(nm, parse_positive(values.get("Height"), 1e9), "PixelSize"), "m", "")] if nm > 0 else []


def _read_voltage_v(root: Any) -> float:
    """High tension without its sign; volts where no unit is stated."""
    names = ("AccelerationVoltage", "HighVoltage")
    elements = (element for name in names for element in find_elements(root, name) if (element.text or "").strip())
    element = next(elements, None)
    unit = get_attribute(element, "unit") or "V"
    return abs(convert_to_base_unit(element.text, unit, "V")) if element is not None else math.nan


def _find_diffraction_mode(labels: dict[str, tuple[str | None, str | None]]) -> str:
    """The mode of a camera image in diffraction; "" else. STEM modes are called diffraction too and give images."""
    mode = labels.get("mode", (None, None))[0] or ""
    return f"the mode {mode}" if mode.upper().startswith("TEM") and "diffraction" in mode.lower() else ""


def _read_labels(root: Any) -> dict[str, tuple[str | None, str | None]]:
    """(value, unit) by label, as Tecnai's software writes them: <Data><Label>Magnification</Label><Value> ..."""
    labels = {}
    for data in find_elements(root, "Data"):
        name = find_text(data, "Label")
        if name:
            labels[name.lower()] = (find_text(data, "Value"), find_text(data, "Unit"))
    return labels


def _read_stage(root: Any, labels: dict[str, tuple[str | None, str | None]]) -> dict[str, float]:
    """Stage position and tilt as values of a Header."""
    position = next(find_elements(root, "StagePosition"), None)
    if position is None:
        nm = {axis: parse_number(labels.get(f"stage {axis}", (None,))[0]) for axis in "xyza"}
        return {"stage_x_um": nm["x"], "stage_y_um": nm["y"], "stage_z_um": nm["z"], "tilt_deg": nm["a"]}
    return {
        "stage_x_um": metres_to_um(find_text(position, "X")),
        "stage_y_um": metres_to_um(find_text(position, "Y")),
        "stage_z_um": metres_to_um(find_text(position, "Z")),
        "tilt_deg": radians_to_degrees(find_text(position, "Alpha", "AlphaTilt", "A")),
    }


def _read_scan_dose(root: Any, sizes: tuple[StatedSize, ...]) -> float:
    if (find_text(root, "BeamType") or "Electron") != "Electron":
        return math.nan
    n_scans = max(1.0, parse_positive(find_text(root, "FilterFrameCount"), 1.0))
    n_scans *= max(1.0, parse_positive(find_text(root, "LineIntegrationCount"), 1.0))
    time_s = parse_positive(find_text(root, "DwellTime")) * n_scans
    return compute_scan_dose(parse_positive(find_text(root, "BeamCurrent")), time_s, compute_area_nm2(sizes))
