"""TIFF tags of the vendors (FEI, Zeiss, TVIPS, Olympus, JEOL, DigitalMicrograph, ImageJ, OME) -> Header."""

import math
import re
from typing import Any

import tifffile

from emqa_dask.archive.metadata import dates, pixel_size, values
from emqa_dask.archive.metadata.headers import Header, get_entry, get_first_entry
from emqa_dask.archive.metadata.pixel_size import set_pixel_size
from emqa_dask.archive.metadata.units import length_to_nm
from emqa_dask.archive.metadata.values import clean_text, parse_positive


def read_tiff_header(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> Header:
    """What the tags of one page say; of the vendors' forms the first that is there decides the pixel size.

    Resolution tags alone count only where they can be a microscope's (see headers.resolution_to_nm).
    """
    tags = {t.name: t.value for t in page.tags.values() if t.count < 2000}
    tags = {k: v for k, v in tags.items() if not k.endswith(("Offsets", "ByteCounts"))}
    baseline_header = Header(
        acquired=dates.parse_date(page.tags.valueof(306)), instrument=clean_text(page.tags.valueof(272)), foreign=tags
    )
    for read_header in (
        _read_fei,
        _read_fei_xml,
        _read_zeiss,
        _read_tvips,
        _read_sis,
        _read_jeol,
        _read_ome,
        _read_digitalmicrograph,
        _read_imagej,
    ):
        try:
            header = read_header(tif, page, baseline_header)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError):
            continue  # a vendor's tag that is broken must not cost us the pixels
        if header is not None:
            return header
    unit = values.parse_number(page.tags.valueof(296, 2))
    return set_pixel_size(
        baseline_header, pixel_size.resolution_to_nm(page.tags.valueof(282), int(unit) if unit == unit else 0)
    )


def _read_fei(tif, page, baseline_header: Header) -> Header | None:
    if not page.is_fei:
        return None
    tree: Any = tif.fei_metadata
    metres = parse_positive(get_entry(tree, "Scan.PixelWidth"))
    if math.isnan(metres):
        metres = parse_positive(get_entry(tree, "IRBeam.HFW")) / parse_positive(get_entry(tree, "Image.ResolutionX"))
    header = Header(
        voltage_kv=parse_positive(get_first_entry(tree, "Beam.HV", "EBeam.HV"), 1e-3),
        instrument=clean_text(get_first_entry(tree, "System.SystemType", "System.Type")),
        acquired=dates.parse_date(get_entry(tree, "User.Date"), get_entry(tree, "User.Time"), month_first=True),
        exposure_s=parse_positive(get_entry(tree, "Scan.FrameTime")),
        foreign=tree,
    )
    return set_pixel_size(header, metres * 1e9)


def _read_fei_xml(tif, page, baseline_header: Header) -> Header | None:
    """FEI_TITAN (34683): XML of newer ThermoFisher software."""
    xml = clean_text(page.tags.valueof(34683))
    if not xml:
        return None
    value = lambda name: _find_xml_element(xml, name)[0]  # noqa: E731
    size, unit = next(
        (header for n in ("PixelWidth", "pixelWidth", "X") if (header := _find_xml_element(xml, n))[0]), (None, None)
    )
    header = Header(
        voltage_kv=parse_positive(value("AccelerationVoltage") or value("HighVoltage"), 1e-3),
        magnification=parse_positive(value("NominalMagnification")),
        instrument=clean_text(value("InstrumentModel") or value("SystemType")),
        acquired=dates.parse_date(value("AcquisitionDatetime") or value("time")) or baseline_header.acquired,
        exposure_s=parse_positive(value("ExposureTime")),
        foreign=baseline_header.foreign,
    )
    return set_pixel_size(header, length_to_nm(size, unit or "m"))


def _find_xml_element(xml: str, name: str) -> tuple[str | None, str | None]:
    """Text and unit of the first element `name`, by a regular expression: these fragments are often no valid XML."""
    match = re.search(
        rf"<{name}(?: [^>]{{0,200}}?unit=\"([^\"]*)\")?[^>]{{0,200}}>([^<]{{0,500}})</{name}>", xml[: 2**18]
    )
    return (match[2], match[1]) if match else (None, None)


def _read_zeiss(tif, page, baseline_header: Header) -> Header | None:
    if not page.is_sem:
        return None
    tree = tif.sem_metadata
    value = lambda key: (tree.get(key) or (None, None))[1]  # noqa: E731
    # The scale at index 3 belongs to a display of 1024 columns (so RosettaSciIO, rsciio/tiff).
    nm = parse_positive(tree[""][3]) * 1024 / page.imagewidth * 1e9
    header = Header(
        voltage_kv=parse_positive(value("ap_actualkv")),
        magnification=_parse_zeiss_magnification(value("ap_mag")),
        instrument=clean_text(value("dp_sem")) or clean_text(value("sv_serial_number")),
        acquired=dates.parse_date(value("ap_date"), value("ap_time")),
        exposure_s=parse_positive(value("ap_frame_time")),
        foreign={k: v[1] for k, v in tree.items() if k and isinstance(v, tuple) and len(v) > 1},
    )
    return set_pixel_size(header, nm)


def _parse_zeiss_magnification(value: Any) -> float:
    """5000 for "5.00 K X"; tifffile has already made a number of "500 X"."""
    match = re.match(r"([\d.]+)\s*(K?)", str(value))
    return parse_positive(match[1], 1000 if match[2] else 1) if match else math.nan


def _read_tvips(tif, page, baseline_header: Header) -> Header | None:
    if not page.is_tvips:
        return None
    tree = tif.tvips_metadata
    header = Header(
        voltage_kv=parse_positive(tree.get("TemHighTension"), 1e-3),
        magnification=parse_positive(tree.get("TemMagnification")) if tree.get("TemMode") != 3 else math.nan,
        instrument=clean_text(tree.get("TemName")) or baseline_header.instrument,
        exposure_s=parse_positive(tree.get("ExposureTime"), 1e-3),
        acquired=baseline_header.acquired,
        foreign=tree,
    )
    return set_pixel_size(header, parse_positive(tree.get("PixelSizeX")))


def _read_sis(tif, page, baseline_header: Header) -> Header | None:
    if not page.is_sis:
        return None
    tree: dict[str, Any] = {}
    for tag in (33471, 33560):
        value = page.tags.valueof(tag)
        tree.update(value if isinstance(value, dict) else {})
    acquired = tree.get("datetime")
    header = Header(
        magnification=parse_positive(tree.get("magnification")),
        instrument=clean_text(tree.get("cameraname")) or baseline_header.instrument,
        acquired=acquired.isoformat() if hasattr(acquired, "isoformat") else baseline_header.acquired,
        exposure_s=parse_positive((page.tags.valueof(34665) or {}).get("ExposureTime")),
        foreign={**baseline_header.foreign, **tree},
    )
    return set_pixel_size(header, round(parse_positive(tree.get("pixelsizex")), 15) * 1e9)


def _read_jeol(tif, page, baseline_header: Header) -> Header | None:
    """JEOL SightX: XML description with mode and magnification; the resolution tags give the camera's pixels."""
    if not str(page.tags.valueof(271, "")).startswith("JEOL") or "<TemReporter" not in page.description:
        return None
    xml = page.description
    value = lambda name: _find_xml_element(xml, name)[0]  # noqa: E731
    magnification = parse_positive(value("SelectorValue")) if value("ModeString") != "DIFF" else math.nan
    inch_or_cm_nm = 2.54e7 if page.tags.valueof(296, 2) == 2 else 1e7
    header = Header(
        voltage_kv=parse_positive(value("AccelerationVoltage"), 1e-3),
        magnification=magnification,
        instrument=clean_text(value("Instruments")) or baseline_header.instrument,
        acquired=baseline_header.acquired,
        foreign={**baseline_header.foreign, "ModeString": value("ModeString"), "EosMode": value("EosMode")},
    )
    return set_pixel_size(header, inch_or_cm_nm / parse_positive(page.tags.valueof(282)) / magnification)


def _read_ome(tif, page, baseline_header: Header) -> Header | None:
    xml = tif.ome_metadata
    pixels = re.search(r"<(?:\w+:)?Pixels\s[^>]*>", xml) if xml else None
    if pixels is None:
        return None
    attributes = dict(re.findall(r'(\w+)="([^"]*)"', pixels[0]))
    nm = length_to_nm(attributes.get("PhysicalSizeX"), attributes.get("PhysicalSizeXUnit", "µm"))
    magnification = re.search(r'NominalMagnification="([^"]*)"', xml)
    acquired = re.search(r"<(?:\w+:)?AcquisitionDate>([^<]*)<", xml)
    exposure = re.search(r'ExposureTime="([^"]*)"(?:\s+ExposureTimeUnit="(\w+)")?', xml)
    microscope = re.search(r"<(?:\w+:)?Microscope\s[^>]*?Model=\"([^\"]*)\"", xml)
    seconds = {"ms": 1e-3, "µs": 1e-6, None: 1.0, "s": 1.0}.get(exposure[2], math.nan) if exposure else math.nan
    header = Header(
        magnification=parse_positive(magnification[1]) if magnification else math.nan,
        instrument=clean_text(microscope[1]) if microscope else None,
        acquired=dates.parse_date(acquired[1]) if acquired else baseline_header.acquired,
        exposure_s=parse_positive(exposure[1], seconds) if exposure else math.nan,
        foreign={**{k: v for k, v in baseline_header.foreign.items() if k != "ImageDescription"}, **attributes},
    )
    return set_pixel_size(header, nm)


def _read_digitalmicrograph(tif, page, baseline_header: Header) -> Header | None:
    scale = page.tags.valueof(65009)
    return None if scale is None else set_pixel_size(baseline_header, length_to_nm(scale, page.tags.valueof(65003)))


def _read_imagej(tif, page, baseline_header: Header) -> Header | None:
    """The unit stands in the description, the scale in the resolution tags (pixels per unit)."""
    description = tif.imagej_metadata if tif.is_imagej else None
    unit = (description or {}).get("unit")
    if unit is None:
        return None
    header = set_pixel_size(baseline_header, length_to_nm(1 / parse_positive(page.tags.valueof(282)), str(unit)))
    return None if str(unit) in ("inch", "pixel", "cm") else header
