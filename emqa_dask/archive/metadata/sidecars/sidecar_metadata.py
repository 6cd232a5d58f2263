"""SidecarMetadata: what a file beside an image says about it; numbers with units as these files write them."""

import math
import re
from dataclasses import dataclass
from typing import Any

from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import StatedSize
from emqa_dask.archive.metadata.units import nm_per_unit
from emqa_dask.archive.metadata.values import clean_text, parse_number

ELEMENTARY_CHARGE_C = 1.602176634e-19  # exact, SI of 2019
_NUMBER_AND_UNIT = re.compile(r"([-+]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][-+]?\d+)?)\s*(\D.*)?")


@dataclass(frozen=True)
class ImageFile:
    """The image that a sidecar lies beside: its file name, number of frames and their width."""

    name: str
    n_frames: int
    width_px: int


@dataclass(frozen=True)
class SidecarMetadata:
    """What a sidecar says about one frame: its imaging conditions, and pixel sizes, the most reliable first."""

    header: Header
    stated_sizes: tuple[StatedSize, ...] = ()


def split_unit(value: Any) -> tuple[float, str]:
    """A number and its unit: (15000.0, "Volt") of "15000 Volt"; (NaN, "") of a text without a number at its start."""
    match = _NUMBER_AND_UNIT.fullmatch(clean_text(value) or "")
    return (parse_number(match[1]), (match[2] or "").strip()) if match else (math.nan, "")


def parse_voltage_kv(value: Any, default_unit: str) -> float:
    """Kilovolts of "15000 Volt", "15 kV" or "15,0"; NaN for any other text, and for 0."""
    (number, unit) = split_unit(value)
    kv_per_unit = {"v": 1e-3, "volt": 1e-3, "volts": 1e-3, "kv": 1.0, "kev": 1.0}
    kv = abs(number) * kv_per_unit.get((unit or default_unit).lower(), math.nan)
    return kv if kv > 0 else math.nan


def parse_magnification(value: Any) -> float:
    """5000 of "5000", "x5000", "5.00 k" or "5 K X"; NaN for any other text, and for 0."""
    text = (clean_text(value) or "").strip("xX× ")
    (number, unit) = split_unit(text)
    factor = {"": 1.0, "k": 1e3}.get(unit.lower(), math.nan)
    return number * factor if number > 0 else math.nan


def parse_position_um(value: Any, default_unit: str) -> float:
    """A position of the stage in um, with its sign; NaN for a text that is none."""
    (number, unit) = split_unit(value)
    return number * nm_per_unit(unit or default_unit) * 1e-3


def compute_scan_dose(current_a: float, dwell_s: float, pixel_area_nm2: float) -> float:
    """Electrons per nm2 of a scanned image: probe current x time per pixel / area of a pixel."""
    if not (current_a > 0 and dwell_s > 0 and pixel_area_nm2 > 0):
        return math.nan
    return current_a * dwell_s / ELEMENTARY_CHARGE_C / pixel_area_nm2
