"""Numbers with units as the sidecars of microscopes write them; ImageFile, which their values refer to."""

import math
import re
from dataclasses import dataclass
from typing import Any

from emqa_dask.archive.metadata.units import convert_to_base_unit, nm_per_unit
from emqa_dask.archive.metadata.values import clean_text, parse_number

_NUMBER_AND_UNIT = re.compile(r"([-+]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][-+]?\d+)?)\s*(\D.*)?")


@dataclass(frozen=True)
class ImageFile:
    """The image that a sidecar lies beside: its file name, number of frames and their size."""

    name: str
    n_frames: int
    width_px: int
    height_px: int


def split_unit(value: Any) -> tuple[float, str]:
    """A number and its unit: (15000.0, "Volt") of "15000 Volt"; (NaN, "") of a text without a number at its start."""
    match = _NUMBER_AND_UNIT.fullmatch(clean_text(value) or "")
    return (parse_number(match[1]), (match[2] or "").strip()) if match else (math.nan, "")


def parse_voltage_kv(value: Any, default_unit: str) -> float:
    """Kilovolts of "15000 Volt", "15 kV" or "15,0"; NaN for any other text, and for 0."""
    (number, unit) = split_unit(value)
    kv = abs(convert_to_base_unit(number, re.sub(r"(?i)volts?$|ev$", "V", unit) or default_unit, "V")) * 1e-3
    return kv if kv > 0 else math.nan


def parse_magnification(value: Any) -> float:
    """5000 of "5000", "x5000", "5.00 k" or "5 K X"; NaN for any other text, and for 0."""
    (number, unit) = split_unit((clean_text(value) or "").strip("xX× "))
    factor = {"": 1.0, "k": 1e3}.get(unit.lower(), math.nan)
    return number * factor if number > 0 else math.nan


def parse_position_um(value: Any, default_unit: str) -> float:
    """A position of the stage in um, with its sign; NaN for a text that is none."""
    (number, unit) = split_unit(value)
    return number * nm_per_unit(unit or default_unit) * 1e-3
