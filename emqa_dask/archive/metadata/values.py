"""Numbers and texts from foreign metadata; NaN and None for what is none."""

import math
import re
from typing import Any

import numpy as np

_DECIMAL_COMMA = re.compile(r"\s*[-+]?\d*,\d+(?:[eE][-+]?\d+)?\s*")


def parse_number(value: Any) -> float:
    """`value` as a finite float, or NaN.

    Takes texts (with a decimal point or comma), bytes, rationals (numerator, denominator) and arrays of one element.
    """
    if type(value) is float:  # most values
        return value if math.isfinite(value) else math.nan
    try:
        if isinstance(value, bytes):
            value = value.decode("latin-1")
        if isinstance(value, tuple | list) and len(value) == 2:
            value = value[0] / value[1]
        if isinstance(value, str):
            out = float(value.replace(",", ".") if _DECIMAL_COMMA.fullmatch(value) else value)
        else:
            first_value = np.asarray(value).reshape(-1)[0]
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
    if not value.isprintable():
        value = "".join(c for c in value if c.isprintable())
    return value.strip() or None
