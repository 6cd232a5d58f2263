"""TIFF tags of the vendors (FEI, Zeiss, TVIPS, Olympus, JEOL, DigitalMicrograph, ImageJ, OME) -> Header."""

import math
import re
from typing import Any

import tifffile

from emqa_dask.archive import headers
from emqa_dask.archive.headers import Header, first, get, positive, text, to_nm, with_pixel_size


def tiff_header(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> Header:
    """What the tags of one page say; of the vendors' forms the first that is there decides the pixel size.

    Resolution tags alone count only where they can be a microscope's (see headers.resolution_nm).
    """
    tags = {t.name: t.value for t in page.tags.values() if t.count < 2000}
    tags = {k: v for k, v in tags.items() if not k.endswith(("Offsets", "ByteCounts"))}
    plain = Header(
        acquired=headers.iso_date(page.tags.valueof(306)), instrument=text(page.tags.valueof(272)), foreign=tags
    )
    for read in (_fei, _fei_xml, _zeiss, _tvips, _sis, _jeol, _ome, _digitalmicrograph, _imagej):
        try:
            found = read(tif, page, plain)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError):
            continue  # a vendor's tag that is broken must not cost us the pixels
        if found is not None:
            return found
    unit = headers.number(page.tags.valueof(296, 2))
    return with_pixel_size(plain, headers.resolution_nm(page.tags.valueof(282), int(unit) if unit == unit else 0))


def _fei(tif, page, plain: Header) -> Header | None:
    if not page.is_fei:
        return None
    tree: Any = tif.fei_metadata
    metres = positive(get(tree, "Scan.PixelWidth"))
    if math.isnan(metres):
        metres = positive(get(tree, "IRBeam.HFW")) / positive(get(tree, "Image.ResolutionX"))
    found = Header(
        voltage_kv=positive(first(tree, "Beam.HV", "EBeam.HV"), 1e-3),
        instrument=text(first(tree, "System.SystemType", "System.Type")),
        acquired=headers.iso_date(get(tree, "User.Date"), get(tree, "User.Time"), month_first=True),
        exposure_s=positive(get(tree, "Scan.FrameTime")),
        foreign=tree,
    )
    return with_pixel_size(found, metres * 1e9)


def _fei_xml(tif, page, plain: Header) -> Header | None:
    """FEI_TITAN (34683): XML of newer ThermoFisher software."""
    xml = text(page.tags.valueof(34683))
    if not xml:
        return None
    value = lambda name: _xml(xml, name)[0]  # noqa: E731
    size, unit = next((found for n in ("PixelWidth", "pixelWidth", "X") if (found := _xml(xml, n))[0]), (None, None))
    found = Header(
        voltage_kv=positive(value("AccelerationVoltage") or value("HighVoltage"), 1e-3),
        magnification=positive(value("NominalMagnification")),
        instrument=text(value("InstrumentModel") or value("SystemType")),
        acquired=headers.iso_date(value("AcquisitionDatetime") or value("time")) or plain.acquired,
        exposure_s=positive(value("ExposureTime")),
        foreign=plain.foreign,
    )
    return with_pixel_size(found, to_nm(size, unit or "m"))


def _xml(xml: str, name: str) -> tuple[str | None, str | None]:
    """Text and unit of the first element `name`, by a regular expression: these fragments are often no valid XML."""
    match = re.search(
        rf"<{name}(?: [^>]{{0,200}}?unit=\"([^\"]*)\")?[^>]{{0,200}}>([^<]{{0,500}})</{name}>", xml[: 2**18]
    )
    return (match[2], match[1]) if match else (None, None)


def _zeiss(tif, page, plain: Header) -> Header | None:
    if not page.is_sem:
        return None
    tree = tif.sem_metadata
    value = lambda key: (tree.get(key) or (None, None))[1]  # noqa: E731
    # The scale at index 3 belongs to a display of 1024 columns (so RosettaSciIO, rsciio/tiff).
    nm = positive(tree[""][3]) * 1024 / page.imagewidth * 1e9
    found = Header(
        voltage_kv=positive(value("ap_actualkv")),
        magnification=_zeiss_magnification(value("ap_mag")),
        instrument=text(value("dp_sem")) or text(value("sv_serial_number")),
        acquired=headers.iso_date(value("ap_date"), value("ap_time")),
        exposure_s=positive(value("ap_frame_time")),
        foreign={k: v[1] for k, v in tree.items() if k and isinstance(v, tuple) and len(v) > 1},
    )
    return with_pixel_size(found, nm)


def _zeiss_magnification(value: Any) -> float:
    """5000 for "5.00 K X"; tifffile has already made a number of "500 X"."""
    match = re.match(r"([\d.]+)\s*(K?)", str(value))
    return positive(match[1], 1000 if match[2] else 1) if match else math.nan


def _tvips(tif, page, plain: Header) -> Header | None:
    if not page.is_tvips:
        return None
    tree = tif.tvips_metadata
    found = Header(
        voltage_kv=positive(tree.get("TemHighTension"), 1e-3),
        magnification=positive(tree.get("TemMagnification")) if tree.get("TemMode") != 3 else math.nan,
        instrument=text(tree.get("TemName")) or plain.instrument,
        exposure_s=positive(tree.get("ExposureTime"), 1e-3),
        acquired=plain.acquired,
        foreign=tree,
    )
    return with_pixel_size(found, positive(tree.get("PixelSizeX")))


def _sis(tif, page, plain: Header) -> Header | None:
    if not page.is_sis:
        return None
    tree: dict[str, Any] = {}
    for tag in (33471, 33560):
        value = page.tags.valueof(tag)
        tree.update(value if isinstance(value, dict) else {})
    acquired = tree.get("datetime")
    found = Header(
        magnification=positive(tree.get("magnification")),
        instrument=text(tree.get("cameraname")) or plain.instrument,
        acquired=acquired.isoformat() if hasattr(acquired, "isoformat") else plain.acquired,
        exposure_s=positive((page.tags.valueof(34665) or {}).get("ExposureTime")),
        foreign={**plain.foreign, **tree},
    )
    return with_pixel_size(found, round(positive(tree.get("pixelsizex")), 15) * 1e9)


def _jeol(tif, page, plain: Header) -> Header | None:
    """JEOL SightX: XML description with mode and magnification; the resolution tags give the camera's pixels."""
    if not str(page.tags.valueof(271, "")).startswith("JEOL") or "<TemReporter" not in page.description:
        return None
    xml = page.description
    value = lambda name: _xml(xml, name)[0]  # noqa: E731
    magnification = positive(value("SelectorValue")) if value("ModeString") != "DIFF" else math.nan
    inch_or_cm_nm = 2.54e7 if page.tags.valueof(296, 2) == 2 else 1e7
    found = Header(
        voltage_kv=positive(value("AccelerationVoltage"), 1e-3),
        magnification=magnification,
        instrument=text(value("Instruments")) or plain.instrument,
        acquired=plain.acquired,
        foreign={**plain.foreign, "ModeString": value("ModeString"), "EosMode": value("EosMode")},
    )
    return with_pixel_size(found, inch_or_cm_nm / positive(page.tags.valueof(282)) / magnification)


def _ome(tif, page, plain: Header) -> Header | None:
    xml = tif.ome_metadata
    pixels = re.search(r"<(?:\w+:)?Pixels\s[^>]*>", xml) if xml else None
    if pixels is None:
        return None
    attributes = dict(re.findall(r'(\w+)="([^"]*)"', pixels[0]))
    nm = to_nm(attributes.get("PhysicalSizeX"), attributes.get("PhysicalSizeXUnit", "µm"))
    magnification = re.search(r'NominalMagnification="([^"]*)"', xml)
    acquired = re.search(r"<(?:\w+:)?AcquisitionDate>([^<]*)<", xml)
    exposure = re.search(r'ExposureTime="([^"]*)"(?:\s+ExposureTimeUnit="(\w+)")?', xml)
    microscope = re.search(r"<(?:\w+:)?Microscope\s[^>]*?Model=\"([^\"]*)\"", xml)
    seconds = {"ms": 1e-3, "µs": 1e-6, None: 1.0, "s": 1.0}.get(exposure[2], math.nan) if exposure else math.nan
    found = Header(
        magnification=positive(magnification[1]) if magnification else math.nan,
        instrument=text(microscope[1]) if microscope else None,
        acquired=headers.iso_date(acquired[1]) if acquired else plain.acquired,
        exposure_s=positive(exposure[1], seconds) if exposure else math.nan,
        foreign={**{k: v for k, v in plain.foreign.items() if k != "ImageDescription"}, **attributes},
    )
    return with_pixel_size(found, nm)


def _digitalmicrograph(tif, page, plain: Header) -> Header | None:
    scale = page.tags.valueof(65009)
    return None if scale is None else with_pixel_size(plain, to_nm(scale, page.tags.valueof(65003)))


def _imagej(tif, page, plain: Header) -> Header | None:
    """The unit stands in the description, the scale in the resolution tags (pixels per unit)."""
    description = tif.imagej_metadata if tif.is_imagej else None
    unit = (description or {}).get("unit")
    if unit is None:
        return None
    found = with_pixel_size(plain, to_nm(1 / positive(page.tags.valueof(282)), str(unit)))
    return None if str(unit) in ("inch", "pixel", "cm") else found
