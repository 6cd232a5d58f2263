"""Texts that Hitachi's SEMs and TEMs write beside an image: [SemImageFile], PixelSize=12.4."""

import math
import re

from emqa_dask.archive.metadata import dates
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import StatedSize
from emqa_dask.archive.metadata.sidecars.quantities import (
    ImageFile,
    parse_magnification,
    parse_position_um,
    parse_voltage_kv,
    split_unit,
)
from emqa_dask.archive.metadata.texts import get_value, parse_key_values
from emqa_dask.archive.metadata.tiff_vendors.vendor_metadata import VendorMetadata
from emqa_dask.archive.metadata.units import parse_length_nm
from emqa_dask.archive.metadata.values import clean_text, parse_positive

_HITACHI_SECTION = re.compile(r"^[ \t]*\[(?:Sem|Tem|Stem)ImageFile\]", re.MULTILINE | re.IGNORECASE)


def is_hitachi(text: str) -> bool:
    """Whether `text` is one that a Hitachi SEM or TEM writes beside an image."""
    return _HITACHI_SECTION.search(text) is not None


def read_hitachi(text: str, image: ImageFile) -> list[VendorMetadata]:
    """Conditions of one image. Lengths without a unit are nm; months stand before days."""
    values = parse_key_values(text)
    (x_um, y_um, z_um) = (parse_position_um(get_value(values, f"StagePosition{axis}"), "nm") for axis in "XYZ")
    header = Header(
        voltage_kv=parse_voltage_kv(get_value(values, "AcceleratingVoltage"), "V"),
        magnification=parse_magnification(get_value(values, "Magnification")),
        instrument=clean_text(get_value(values, "InstructName", "InstrumentName", "Instrument name")),
        acquired=dates.parse_date(get_value(values, "Date"), get_value(values, "Time"), month_first=True),
        detector=clean_text(get_value(values, "SignalName")),
        stage_x_um=x_um,
        stage_y_um=y_um,
        stage_z_um=z_um,
        tilt_deg=split_unit(get_value(values, "StageTilt", "StagePositionT"))[0],
        foreign=values,
    )
    data_size = re.match(r"\s*(\d+)\s*[x×*,]\s*\d+", get_value(values, "DataSize") or "", re.IGNORECASE)
    size = StatedSize(
        parse_length_nm(get_value(values, "PixelSize"), "nm"),
        origin="PixelSize",
        image_width_px=parse_positive(data_size[1]) if data_size else math.nan,
    )
    return [VendorMetadata(header, (size,))]
