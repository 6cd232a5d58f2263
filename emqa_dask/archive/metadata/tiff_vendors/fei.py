"""FEI and Thermo Fisher SEM and FIB: the key=value text of tags 34680 (S-FEG) and 34682 (Helios and later)."""

import math
import re
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
from emqa_dask.archive.metadata.values import clean_text, parse_number, parse_positive

TAGS = (34680, 34682)
MAX_ZOOM = 1.001  # digital zoom; above, the file does not say whether its pixel size is that of the zoomed image
_BEAMS = ("EBeam", "IBeam", "IRBeam")
_SCANS = {"EBeam": "EScan", "IBeam": "IScan"}


def read_fei(page: tifffile.TiffPage, tif: tifffile.TiffFile) -> VendorMetadata | None:
    """Metadata in [Section] and key=value form; lengths are in metres, angles in radians."""
    tree: dict[str, dict[str, Any]] = {}
    for tag in TAGS:
        tree.update(_parse_sections(read_tag_text(page, tag)))
    if not tree:
        return None
    values = {f"{section}.{key}".lower(): value for section, part in tree.items() for key, value in part.items()}
    beam = _find_active_beam(values)
    sizes = _list_sizes(values, beam, page.imagewidth)
    header = Header(
        voltage_kv=parse_positive(_get_first(values, "beam.hv", f"{beam}.hv", "ebeam.hv", "vector.hightension"), 1e-3),
        magnification=_read_magnification(values, beam),
        instrument=clean_text(_get_first(values, "system.systemtype", "system.type")),
        acquired=_read_date(values, page.tags.valueof(306)),
        exposure_s=parse_positive(_get_first(values, "scan.frametime", f"{_SCANS.get(beam, '')}.frametime")),
        detector=clean_text(_get_first(values, "detectors.name")),
        stage_x_um=metres_to_um(_get_first(values, "stage.stagex", f"{beam}.stagex")),
        stage_y_um=metres_to_um(_get_first(values, "stage.stagey", f"{beam}.stagey")),
        stage_z_um=metres_to_um(_get_first(values, "stage.stagez", f"{beam}.stagez")),
        tilt_deg=radians_to_degrees(_get_first(values, "stage.staget", "stage.stageta", f"{beam}.stageta")),
        dose_e_per_nm2=_read_scan_dose(values, sizes) if beam in ("EBeam", "") else math.nan,
        foreign=tree,
    )
    zoom = parse_positive(values.get("image.zoomfactor"))
    problem = f"the image was saved with a digital zoom of {zoom:g}" if zoom > MAX_ZOOM else ""
    return VendorMetadata(header, tuple(sizes), problem=problem)


def _parse_sections(text: str) -> dict[str, dict[str, Any]]:
    """Values by section and key; numbers are converted.

    tifffile loses the whole text where the user wrote something in Japanese into it.
    """
    sections: dict[str, dict[str, Any]] = {}
    section: dict[str, Any] = {}
    for line in map(str.strip, text.splitlines()):
        key, separator, value = line.partition("=")
        if line.startswith("[") and line.endswith("]"):
            section = sections.setdefault(line[1:-1].strip(), {})
        elif separator:
            number = parse_number(value)
            section[key.strip()] = value.strip() if math.isnan(number) else number
    return sections


def _get_first(values: dict[str, Any], *keys: str) -> Any:
    """The first value at one of `keys` that is not empty."""
    return next((values[k.lower()] for k in keys if values.get(k.lower()) not in (None, "")), None)


def _find_active_beam(values: dict[str, Any]) -> str:
    """EBeam, IBeam or IRBeam: the beam of this image; "" where the file does not say, or says more than one."""
    name = str(_get_first(values, "beam.beam") or "").lower()
    stated_beam = next((beam for beam in _BEAMS if beam.lower() == name), "")
    if stated_beam:
        return stated_beam
    described_beams = [beam for beam in _BEAMS if any(key.startswith(f"{beam.lower()}.") for key in values)]
    return described_beams[0] if len(described_beams) == 1 else ""


def _list_sizes(values: dict[str, Any], beam: str, width_px: int) -> list[StatedSize]:
    """The pixel size, or field width over columns, of the scan and of the beam."""
    n_columns = parse_positive(_get_first(values, "image.resolutionx"))
    n_rows = parse_positive(_get_first(values, "image.resolutiony"))
    divisor = n_columns if n_columns > 0 else float(width_px)
    scans = ["Scan", str(_get_first(values, "beam.scan") or _SCANS.get(beam, ""))]
    if not beam:
        described_scans = [s for s in _SCANS.values() if any(key.startswith(f"{s.lower()}.") for key in values)]
        scans += described_scans if len(described_scans) == 1 else []
    sizes = []
    for scan in dict.fromkeys(filter(None, scans)):
        nm = parse_number(_get_first(values, f"{scan}.PixelWidth")) * 1e9
        nm_y = parse_number(_get_first(values, f"{scan}.PixelHeight")) * 1e9
        sizes.append(StatedSize(nm, nm_y, f"{scan}.PixelWidth", n_columns))
    fields = [(scan, "HorFieldsize", "VerFieldsize") for scan in dict.fromkeys(filter(None, scans))]
    for section, horizontal, vertical in [*fields, *([(beam, "HFW", "VFW")] if beam else [])]:
        nm = parse_positive(_get_first(values, f"{section}.{horizontal}")) / divisor * 1e9
        nm_y = parse_positive(_get_first(values, f"{section}.{vertical}")) / n_rows * 1e9
        sizes.append(StatedSize(nm, nm_y, f"{section}.{horizontal} / {divisor:.0f} px", n_columns))
    return [size for size in sizes if not math.isnan(size.x_nm)]


def _read_magnification(values: dict[str, Any], beam: str) -> float:
    """Width of the screen's image over the field width, as the data bar shows it; the XL series states the number."""
    screen_m = parse_positive(values.get("image.magcanvasrealwidth"))
    field_m = parse_positive(_get_first(values, f"{beam}.hfw", "scan.horfieldsize"))
    stated_magnification = parse_positive(_get_first(values, "vector.magnification"))
    return stated_magnification if stated_magnification > 0 else screen_m / field_m


def _read_scan_dose(values: dict[str, Any], sizes: list[StatedSize]) -> float:
    """Dose of all frames of the scan, from beam current, dwell time and pixel area."""
    current_a = parse_positive(_get_first(values, "ebeam.beamcurrent"))
    dwell_s = parse_positive(_get_first(values, "scan.dwelltime", "escan.dwell", "escan.dwelltime"))
    numbers = ("scan.integrate", "scan.average", "image.integrate", "image.average")
    n_frames = max([1.0, *(n for n in (parse_number(values.get(key)) for key in numbers) if n > 1)])
    n_lines = parse_number(values.get("escan.lineintegration"))
    n_scans = n_frames * (n_lines if n_lines > 1 else 1.0)
    return compute_scan_dose(current_a, dwell_s * n_scans, compute_area_nm2(sizes))


def _read_date(values: dict[str, Any], tiff_date: Any) -> str | None:
    """[User] Date and Time: 03/04/2019 is read as the day that the other dates in the file state, else as 4 March.

    Windows writes this date as its regional settings say; [PrivateFei] TimeOfCreation always begins with the day.
    """
    date = values.get("user.date")
    time = values.get("user.time")
    month_first = dates.parse_date(date, time, month_first=True)
    if not re.match(r"\s*\d{1,2}/\d{1,2}/", str(date)):
        return month_first
    day_first = dates.parse_date(date, time)
    other_days = [dates.parse_date(value) for value in (values.get("privatefei.timeofcreation"), tiff_date)]
    is_day_first = any(day and day_first and day[:10] == day_first[:10] for day in other_days)
    return day_first if is_day_first else month_first
