"""Texts of TESCAN's SEMs, beside an image (.hdr) and in tag 50431 of a TIFF: [MAIN], PixelSizeX=2e-09."""

import re

from emqa_dask.archive.metadata import dates
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import StatedSize
from emqa_dask.archive.metadata.sidecars.sidecar_metadata import (
    ImageFile,
    SidecarMetadata,
    compute_scan_dose,
    parse_magnification,
    parse_position_um,
    parse_voltage_kv,
    split_unit,
)
from emqa_dask.archive.metadata.texts import get_value, parse_key_values
from emqa_dask.archive.metadata.units import parse_length_nm
from emqa_dask.archive.metadata.values import clean_text, parse_number, parse_positive

_TESCAN_TEXT = re.compile(r"^\s*\[MAIN\].*^\s*(?:PixelSizeX|Device|Magnification)\s*=", re.M | re.S | re.I)


def is_tescan(text: str) -> bool:
    """Whether `text` is one that a TESCAN SEM writes beside an image."""
    return _TESCAN_TEXT.search(text) is not None


def read_tescan(text: str, image: ImageFile) -> list[SidecarMetadata]:
    """Conditions of one image. All values are in SI units."""
    values = parse_key_values(text)
    (x_um, y_um, z_um) = (parse_position_um(get_value(values, f"Stage{axis}"), "m") for axis in "XYZ")
    (x_nm, y_nm) = (parse_length_nm(get_value(values, f"PixelSize{axis}"), "m") for axis in "XY")
    n_scans = parse_number(get_value(values, "AccFrames"))
    header = Header(
        voltage_kv=parse_voltage_kv(get_value(values, "SEM.HV", "HV", "AcceleratorVoltage"), "V"),
        magnification=parse_magnification(get_value(values, "MAIN.Magnification", "Magnification")),
        instrument=clean_text(get_value(values, "Device", "DeviceModel")),
        acquired=dates.parse_date(get_value(values, "MAIN.Date", "Date"), get_value(values, "MAIN.Time", "Time")),
        dose_e_per_nm2=compute_scan_dose(
            parse_positive(get_value(values, "PredictedBeamCurrent", "BeamCurrent")),
            parse_positive(get_value(values, "DwellTime"), n_scans if n_scans > 1 else 1.0),
            x_nm * y_nm,
        ),
        detector=clean_text(get_value(values, "SEM.Detector", "Detector0", "Detector")),
        stage_x_um=x_um,
        stage_y_um=y_um,
        stage_z_um=z_um,
        tilt_deg=split_unit(get_value(values, "StageTilt"))[0],
        foreign=values,
    )
    return [SidecarMetadata(header, (StatedSize(x_nm, y_nm, "PixelSizeX"),))]
