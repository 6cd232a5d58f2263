"""Imaging conditions from the metadata of a file: pixel size, voltage, magnification, instrument, date, dose."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np

# One of these units in nanometres. Both micro signs (U+00B5, U+03BC) and both Angstrom signs (U+00C5, U+212B) occur.
NM_PER_UNIT = {
    "pm": 1e-3, "a": 0.1, "å": 0.1, "ang": 0.1, "angstrom": 0.1, "ångström": 0.1, "ångstrom": 0.1, "nm": 1.0,
    "nanometer": 1.0, "nanometre": 1.0, "nanometers": 1.0, "µm": 1e3, "um": 1e3, "micron": 1e3, "microns": 1e3,
    "micrometer": 1e3, "micrometre": 1e3, "micrometers": 1e3, "mm": 1e6, "millimeter": 1e6, "cm": 1e7,
    "centimeter": 1e7, "m": 1e9, "meter": 1e9, "meters": 1e9, "metre": 1e9, "inch": 2.54e7, "in": 2.54e7,
}  # fmt: skip
RECIPROCAL_UNIT = re.compile(r"^\s*1\s*/|\^?\s*[-−]\s*1\s*$|^m?rad$|⁻¹")
PLAUSIBLE_NM = (1e-3, 1e4)  # pixel sizes of electron micrographs; other TIFF resolutions are print settings
MAX_METADATA_DEPTH = 8  # levels of nested metadata that are kept
MAX_METADATA_CHARACTERS = 120  # of a text that is kept
PRINT_DPI = (72, 96, 100, 120, 144, 150, 200, 240, 254, 300, 350, 360, 400, 600, 720, 1200, 2400)


@dataclass(frozen=True)
class Header:
    """Imaging conditions of a micrograph as its file states them; NaN or None for unknown ones."""

    nm_per_pixel: float = math.nan
    nm_per_pixel_source: str = "none"  # header, sidecar, user or none
    voltage_kv: float = math.nan
    magnification: float = math.nan
    instrument: str | None = None
    acquired: str | None = None  # ISO 8601, as precise as the file gives it
    dose_e_per_nm2: float = math.nan
    exposure_s: float = math.nan
    foreign: Mapping[str, Any] = field(default_factory=dict)


def parse_number(value: Any) -> float:
    """`value` as a finite float, or NaN; takes texts, bytes, rationals (numerator, denominator), 1-element arrays."""
    try:
        if isinstance(value, bytes):
            value = value.decode("latin-1")
        if isinstance(value, tuple | list) and len(value) == 2:
            value = value[0] / value[1]
        first_value = value.strip() if isinstance(value, str) else np.asarray(value).reshape(-1)[0]
        out = math.nan if np.iscomplexobj(first_value) else float(first_value)
    except (ValueError, TypeError, IndexError, ZeroDivisionError, OverflowError):
        return math.nan
    return out if math.isfinite(out) else math.nan


def parse_positive(value: Any, factor: float = 1.0) -> float:
    """`value` x `factor` where it is a number above 0, else NaN."""
    out = parse_number(value) * factor
    return out if out > 0 else math.nan


def clean_text(value: Any) -> str | None:
    """`value` as stripped text without control characters; None when it is empty or no text."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        return None
    return "".join(c for c in value if c.isprintable()).strip() or None


def is_reciprocal(unit: Any) -> bool:
    """True for units of reciprocal space or angle (1/nm, nm^-1, mrad): the axes of a diffraction pattern."""
    return bool(RECIPROCAL_UNIT.search(str(unit).strip())) if unit is not None else False


def length_to_nm(value: Any, unit: Any) -> float:
    """A length in nm; NaN when `value` is no positive number or `unit` is no length."""
    name = (clean_text(unit) or "").replace("μ", "µ").replace("\u212b", "Å")
    name = re.sub(r"\\u00b5", "µ", name, flags=re.IGNORECASE)  # ImageJ writes the escape
    factor = NM_PER_UNIT.get(name.lower(), math.nan) if name != "M" else math.nan
    return parse_positive(value, factor)


def set_pixel_size(header: Header, nm: float, source: str = "header") -> Header:
    """`header` with this pixel size, unless it is NaN."""
    return replace(header, nm_per_pixel=float(nm), nm_per_pixel_source=source) if nm > 0 else header


def parse_date(value: Any, time: Any = None, *, month_first: bool = False) -> str | None:
    """A date (and time) as ISO 8601; None when it cannot be read. Takes 2019-12-05, 2018:11:15 19:42:31, 5 Dec 2019."""
    date_text = " ".join(part for part in (clean_text(value), clean_text(time)) if part)[:64]
    date_text = re.sub(r"^(\d{4}):(\d\d):(\d\d)", r"\1-\2-\3", date_text).removesuffix("Z")
    if not date_text:
        return None
    try:
        from dateutil import parser

        first_day = not month_first and not re.match(r"\d{4}", date_text)
        # The parser fills absent parts from a default; two defaults with different results reveal an incomplete date.
        default = datetime(2001, 1, 1)
        other_default = datetime(2002, 2, 2)
        date = parser.parse(date_text, dayfirst=first_day, default=default)
        other_date = parser.parse(date_text, dayfirst=first_day, default=other_default)
    except (ValueError, OverflowError, TypeError):
        return None
    return date.isoformat() if date.date() == other_date.date() else None


def get_entry(tree: Any, path: str) -> Any:
    """The value at a dotted `path` of nested mappings; None when there is none."""
    for name in path.split("."):
        if not isinstance(tree, Mapping) or name not in tree:
            return None
        tree = tree[name]
    return tree


def get_first_entry(tree: Any, *paths: str) -> Any:
    """The first value at one of the dotted `paths` that exists and is not empty."""
    return next((v for v in (get_entry(tree, p) for p in paths) if v is not None and v != ""), None)


def resolution_to_nm(value: Any, unit: int) -> float:
    """Pixel size in nm of a TIFF resolution (pixels per inch, unit 2, or per cm, unit 3); NaN for a print setting.

    72, 96, 300 ... dots per inch are print settings, and no electron micrograph is coarser than 10 um per pixel.
    """
    per_unit = parse_positive(value)
    dpi = per_unit * (2.54 if unit == 3 else 1.0)
    if unit not in (2, 3) or any(abs(dpi - p) < 0.02 * p for p in PRINT_DPI):
        return math.nan
    nm = (2.54e7 if unit == 2 else 1e7) / per_unit
    return nm if PLAUSIBLE_NM[0] <= nm <= PLAUSIBLE_NM[1] else math.nan


def flatten_metadata(tree: Any, prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """Nested foreign metadata as flat {dotted name: number, bool or text of at most 120 characters}, without arrays."""
    flat_metadata: dict[str, Any] = {}
    if not isinstance(tree, Mapping) or depth > MAX_METADATA_DEPTH:
        return flat_metadata
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat_metadata.update(flatten_metadata(value, f"{name}.", depth + 1))
        elif (scalar := _to_scalar(value)) is not None:
            flat_metadata[name] = scalar
    return flat_metadata


def _to_scalar(value: Any) -> bool | int | float | str | None:
    """`value` as a Python number or short text; None for any other value."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.number) and not isinstance(value, np.complexfloating):
        return float(value) if math.isfinite(value) else None
    text = clean_text(value)
    return text if text and len(text) <= MAX_METADATA_CHARACTERS else None


def find_pixel_size_outliers(nm_per_pixel: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Whether each of n pixel sizes (nm) is about 10 or 100 times off the median of its acquisition group.

    nm_per_pixel: (n,) float, NaN = unknown; group: (n,) labels (say, of instrument, magnification and shape), null = no
    group. Returns (n,) bool. "About" is within 20 %, up or down. NaN, and sizes of groups with fewer than three known
    sizes, are no outliers. Empty input gives an empty array.
    """
    import pandas as pd  # every worker imports this module, and only the report calls this function

    sizes = np.asarray(nm_per_pixel, dtype=float)
    labels = group if isinstance(group, np.ndarray | pd.Series) else np.asarray(group, object)
    codes = pd.factorize(labels)[0]
    rows = np.flatnonzero((codes >= 0) & ~np.isnan(sizes))
    rows = rows[np.lexsort((sizes[rows], codes[rows]))]  # by group, then size: a group's median is in its middle
    codes = codes[rows]
    sizes = sizes[rows]
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    n_sizes = np.diff(starts, append=len(codes))
    median = (sizes[starts + (n_sizes - 1) // 2] + sizes[starts + n_sizes // 2]) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = sizes / np.repeat(median, n_sizes)
        ratio = np.maximum(ratio, 1 / ratio)
        is_off = (np.abs(ratio / 10 - 1) <= 0.2) | (np.abs(ratio / 100 - 1) <= 0.2)
    is_outlier = np.zeros(len(nm_per_pixel), bool)
    is_outlier[rows] = is_off & np.repeat(n_sizes >= 3, n_sizes)
    return is_outlier
