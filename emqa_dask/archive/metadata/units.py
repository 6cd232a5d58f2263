"""Lengths in nm, from the values and units that files state."""

import html
import math
import re
import unicodedata
from typing import Any

from emqa_dask.archive.metadata.values import clean_text, parse_number

_METRES_PER_PREFIX = {
    "fm": 1e-15, "pm": 1e-12, "nm": 1e-9, "um": 1e-6, "mm": 1e-3, "cm": 1e-2, "dm": 0.1, "m": 1.0,
    "femto": 1e-15, "pico": 1e-12, "nano": 1e-9, "micro": 1e-6, "milli": 1e-3, "centi": 1e-2, "deci": 0.1, "": 1.0,
}  # fmt: skip
_NM_PER_OTHER_UNIT = {
    "a": 0.1, "å": 0.1, "ang": 0.1, "angs": 0.1, "angstrom": 0.1, "angstroms": 0.1, "ångström": 0.1, "ångstrom": 0.1,
    "angström": 0.1, "micron": 1e3, "microns": 1e3, "inch": 2.54e7, "inches": 2.54e7, "in": 2.54e7, "thou": 2.54e4,
}  # fmt: skip
_PREFIX_FACTORS = {"f": 1e-15, "p": 1e-12, "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3}
_SECONDS_PER_UNIT = {
    "sec": 1.0, "secs": 1.0, "second": 1.0, "seconds": 1.0, "msec": 1e-3, "usec": 1e-6,
    "min": 60.0, "mins": 60.0, "minutes": 60.0, "hours": 3600.0,
}  # fmt: skip
_RECIPROCAL_UNIT = re.compile(r"^\s*1\s*/|\^?\s*[-−]\s*1\s*$|^m?rad$|⁻¹|^mrads?$")
_LENGTH = re.compile(r"\s*([-+]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][-+]?\d+)?)\s*([^\d\s].*?)?\s*")


def normalise_unit(unit: Any) -> str:
    """`unit` in lower case with "u" for micro: "µm", "&#181;m", "[u_m]" and "\\u00b5m" all become "um"."""
    name = html.unescape(clean_text(unit) or "")
    name = re.sub(r"\\u00b5", "µ", name, flags=re.IGNORECASE)  # ImageJ writes the escape
    name = unicodedata.normalize("NFKC", name).strip("[]() ").replace("μ", "u").replace("_", "")
    return "" if name == "M" else name.lower()


def nm_per_unit(unit: Any) -> float:
    """Nanometres in one `unit` of length; NaN for any other unit."""
    name = normalise_unit(unit)
    if name in _NM_PER_OTHER_UNIT:
        return _NM_PER_OTHER_UNIT[name]
    if name in _METRES_PER_PREFIX and name.endswith("m"):
        return _METRES_PER_PREFIX[name] * 1e9
    spelled = re.fullmatch(r"(femto|pico|nano|micro|milli|centi|deci|)met(?:er|re)s?", name)
    return _METRES_PER_PREFIX[spelled[1]] * 1e9 if spelled else math.nan


def is_reciprocal(unit: Any) -> bool:
    """True for units of reciprocal space or angle (1/nm, nm^-1, mrad): the axes of a diffraction pattern."""
    return bool(_RECIPROCAL_UNIT.search(str(unit).strip())) if unit is not None else False


def length_to_nm(value: Any, unit: Any) -> float:
    """A length above 0 in nm; the sign of `value` is dropped, since axes may run backwards.

    NaN where `value` is no number or is 0, or `unit` is no length.
    """
    nm = abs(parse_number(value)) * nm_per_unit(unit)
    return nm if 0 < nm < math.inf else math.nan


def parse_length_nm(text: Any, default_unit: str = "") -> float:
    """A length such as "1µm", "2,48 nm" or "500 pm" in nm; NaN for any other text.

    default_unit: the unit of a text without one.
    """
    match = _LENGTH.fullmatch(clean_text(text) or "")
    return length_to_nm(match[1], match[2] or default_unit) if match else math.nan


def convert_to_base_unit(value: Any, unit: Any, base_unit: str) -> float:
    """`value`, a quantity in `unit` (ms, pA, kV), in `base_unit`: "s", "A" or "V"; NaN for any other unit."""
    name = normalise_unit(unit)
    prefix = name.removesuffix(base_unit.lower())
    if base_unit == "s" and name in _SECONDS_PER_UNIT:
        factor = _SECONDS_PER_UNIT[name]
    elif name.endswith(base_unit.lower()) and prefix in _PREFIX_FACTORS:
        factor = _PREFIX_FACTORS[prefix]
    else:
        factor = math.nan
    return parse_number(value) * factor
