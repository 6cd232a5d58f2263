"""Texts that JEOL SEMs write beside an image: $CM_MAG 5000, $$SM_MICRON_MARKER 1um."""

import math
import re
from collections.abc import Mapping

from emqa_dask.archive.metadata import dates
from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import StatedSize
from emqa_dask.archive.metadata.sidecars.quantities import (
    ImageFile,
    parse_magnification,
    parse_position_um,
    parse_voltage_kv,
)
from emqa_dask.archive.metadata.texts import get_value, parse_key_values
from emqa_dask.archive.metadata.tiff_vendors.vendor_metadata import VendorMetadata
from emqa_dask.archive.metadata.units import parse_length_nm
from emqa_dask.archive.metadata.values import clean_text, parse_number, parse_positive

_JEOL_KEY = re.compile(r"^[ \t]*\${1,2}(?:CM|SM|TM)_[A-Z]", re.MULTILINE)


def is_jeol(text: str) -> bool:
    """Whether `text` is one that a JEOL SEM writes beside an image."""
    return _JEOL_KEY.search(text) is not None


def read_jeol(text: str, image: ImageFile) -> list[VendorMetadata]:
    """Conditions of one image. The scale bar's length in um and in pixels of the whole image give the pixel size."""
    values = parse_key_values(text)
    stage = _read_stage(values)
    (x_um, y_um, z_um) = (parse_position_um(stage.get(axis), "mm") for axis in "XYZ")
    header = Header(
        voltage_kv=parse_voltage_kv(get_value(values, "CM_ACCEL_VOLT"), "kV"),
        magnification=parse_magnification(get_value(values, "CM_MAG")),
        instrument=clean_text(get_value(values, "CM_INSTRUMENT")),
        acquired=dates.parse_date(get_value(values, "CM_DATE"), get_value(values, "CM_TIME"), month_first=True),
        detector=clean_text(get_value(values, "CM_SIGNAL", "CM_SIGNAL_NAME", "CM_DETECTOR")),
        stage_x_um=x_um,
        stage_y_um=y_um,
        stage_z_um=z_um,
        tilt_deg=parse_number(stage.get("T", "")),
        foreign=values,
    )
    bar_px = parse_positive(get_value(values, "SM_MICRON_BAR"))
    full_size = re.match(r"\s*(\d+)\s*[ x×]\s*\d+", get_value(values, "CM_FULL_SIZE", "CM_IMAGE_RES") or "")
    size = StatedSize(
        parse_length_nm(get_value(values, "SM_MICRON_MARKER")) / bar_px,
        origin="SM_MICRON_MARKER",
        image_width_px=parse_positive(full_size[1]) if full_size else math.nan,
    )
    return [VendorMetadata(header, (size,))]


def _read_stage(values: Mapping[str, str]) -> dict[str, str]:
    """Coordinates in mm and angles in degrees by axis, from "X=37.1, Y=44.9, Z=16.9, T=0.0" or "37.1 44.9 16.9 ..."."""
    text = get_value(values, "CM_STAGE_POSITION", "CM_STAGE_POS") or ""
    axes = dict(re.findall(r"\b([XYZRT])\s*=\s*([-+\d.]+)", text))
    return axes or dict(zip("XYZ", text.split()))  # the order of tilt and rotation differs between models
