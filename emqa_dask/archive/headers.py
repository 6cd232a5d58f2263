"""Headers: foreign metadata -> pixel size in nm, voltage, magnification, instrument, date, dose; cohort_suspects()."""

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
# Electron micrographs have pixels of 1 pm to 10 um; plain TIFF resolution tags outside it are print settings.
PLAUSIBLE_NM = (1e-3, 1e4)
PRINT_DPI = (72, 96, 100, 120, 144, 150, 200, 240, 254, 300, 350, 360, 400, 600, 720, 1200, 2400)


@dataclass(frozen=True)
class Header:
    """What a file says about how a micrograph was taken; NaN or None where it does not say."""

    nm_per_pixel: float = math.nan
    nm_per_pixel_source: str = "none"  # header, sidecar, user or none
    voltage_kv: float = math.nan
    magnification: float = math.nan
    instrument: str | None = None
    acquired: str | None = None  # ISO 8601 as far as known
    dose_e_per_nm2: float = math.nan
    exposure_s: float = math.nan
    foreign: Mapping[str, Any] = field(default_factory=dict)


def parse_number(value: Any) -> float:
    """`value` as a finite float, or NaN; takes strings, bytes, rationals (numerator, denominator), 1-element arrays."""
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
    """`value` as stripped text without control characters, None when there is nothing in it."""
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
    words = " ".join(w for w in (clean_text(value), clean_text(time)) if w)[:64]
    words = re.sub(r"^(\d{4}):(\d\d):(\d\d)", r"\1-\2-\3", words).removesuffix("Z")
    if not words:
        return None
    try:
        from dateutil import parser

        first_day = not month_first and not re.match(r"\d{4}", words)
        # What the text does not say is filled from the default: with two defaults it shows that there is no whole date.
        one, two = (
            parser.parse(words, dayfirst=first_day, default=datetime(y, y - 2000, y - 2000)) for y in (2001, 2002)
        )
    except (ValueError, OverflowError, TypeError):
        return None
    return one.isoformat() if one.date() == two.date() else None


def get_entry(tree: Any, path: str) -> Any:
    """The value at a dotted `path` of nested mappings, None when it is not there."""
    for name in path.split("."):
        if not isinstance(tree, Mapping) or name not in tree:
            return None
        tree = tree[name]
    return tree


def get_first_entry(tree: Any, *paths: str) -> Any:
    """The first value among dotted `paths` that is there and not empty."""
    return next((v for v in (get_entry(tree, p) for p in paths) if v is not None and v != ""), None)


def resolution_to_nm(value: Any, unit: int) -> float:
    """nm per pixel of a TIFF resolution (pixels per inch, unit 2, or cm, unit 3) where it can be a microscope's.

    72, 96, 300 ... dots per inch are print settings, and no electron micrograph is coarser than 10 um per pixel.
    """
    per_unit = parse_positive(value)
    dpi = per_unit * (2.54 if unit == 3 else 1.0)
    if unit not in (2, 3) or any(abs(dpi - p) < 0.02 * p for p in PRINT_DPI):
        return math.nan
    nm = (2.54e7 if unit == 2 else 1e7) / per_unit
    return nm if PLAUSIBLE_NM[0] <= nm <= PLAUSIBLE_NM[1] else math.nan


def flatten_metadata(tree: Any, prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """Nested foreign metadata as one flat {dotted name: number, bool or text up to 120 characters}, without arrays."""
    out: dict[str, Any] = {}
    if not isinstance(tree, Mapping) or depth > 8:
        return out
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            out.update(flatten_metadata(value, f"{name}.", depth + 1))
        elif isinstance(value, bool | np.bool_):
            out[name] = bool(value)
        elif isinstance(value, int | float | np.number) and not isinstance(value, complex | np.complexfloating):
            if isinstance(value, int) or math.isfinite(value):  # isfinite() takes no integer beyond the floats
                out[name] = int(value) if isinstance(value, int | np.integer) else float(value)
        elif isinstance(value, str | bytes):
            words = clean_text(value)
            if words and len(words) <= 120:
                out[name] = words
    return out


def find_pixel_size_outliers(nm_per_pixel: np.ndarray, cohort: np.ndarray) -> np.ndarray:
    """Which of n pixel sizes (nm) are about 10x or 100x off the median of their cohort, up or down, within 20 %.

    nm_per_pixel: (n,) float, NaN = unknown; cohort: (n,) labels (instrument, magnification and shape, say), null = no
    cohort. Returns (n,) bool; NaN and cohorts of fewer than three known sizes are never suspect. Empty in, empty out.
    """
    import pandas as pd  # here, since every worker imports this module and only the report asks for this

    nm = np.asarray(nm_per_pixel, dtype=float)
    group = pd.factorize(cohort if isinstance(cohort, np.ndarray | pd.Series) else np.asarray(cohort, object))[0]
    suspect = np.zeros(len(nm), bool)
    known = np.flatnonzero((group >= 0) & ~np.isnan(nm))
    known = known[np.lexsort((nm[known], group[known]))]  # by cohort, then size: a cohort's median is in its middle
    group = group[known]
    nm = nm[known]
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    n_known = np.diff(starts, append=len(group))
    median = (nm[starts + (n_known - 1) // 2] + nm[starts + n_known // 2]) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = nm / np.repeat(median, n_known)
        ratio = np.maximum(ratio, 1 / ratio)
        near = (np.abs(ratio / 10 - 1) <= 0.2) | (np.abs(ratio / 100 - 1) <= 0.2)
    suspect[known] = near & np.repeat(n_known >= 3, n_known)
    return suspect
