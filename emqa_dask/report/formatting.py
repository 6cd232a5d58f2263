"""Text and numbers as people read them on the page."""

import datetime
import json
import re

import numpy as np
import pandas as pd

# What a reader cannot see or what turns text around: shown as an escape, so that a name is what it looks like.
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
SHORT_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escape_invisible(text: object) -> str:
    """`text` with control, zero-width and direction characters as escapes (\\n, \\u202e); "" for a missing value."""
    if text is None or text is pd.NA or text != text:
        return ""
    return _INVISIBLE.sub(lambda m: SHORT_ESCAPES.get(m[0], f"\\u{ord(m[0]):04x}"), str(text))


def format_code(reason_code: str) -> str:
    """The code of a reason, or a column's name, as words."""
    return reason_code.replace("_", " ").replace(" f1", " F1").replace("x rays", "X-rays").replace("eds ", "EDS ")


def format_date(started: object) -> str:
    """Seconds since the epoch as local date and time; text as it is."""
    if isinstance(started, int | float):
        return datetime.datetime.fromtimestamp(started).astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return escape_invisible(started)


def format_duration(seconds: float) -> str:
    """A duration in the units that suit it."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    hours, remaining_seconds = divmod(round(seconds), 3600)
    return (
        f"{hours} h {remaining_seconds // 60} min"
        if hours
        else f"{remaining_seconds // 60} min {remaining_seconds % 60:02d} s"
    )


def format_bytes(n: float) -> str:
    """n bytes in the units that suit them."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:,.0f} {unit}" if unit == "bytes" else f"{n:,.1f} {unit}"
        n /= 1024
    return f"{n:,.1f} TiB"


def format_value(value: object) -> str:
    """A number as people write it, anything else as visible text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return escape_invisible(json.dumps(value, default=str) if isinstance(value, dict | list) else value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def format_number(value: float, digits: int) -> str:
    """A number rounded to as many significant digits, as people write it; a dash for an unknown one."""
    if not np.isfinite(value):
        return "–" if np.isnan(value) else "∞" if value > 0 else "−∞"
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.{digits}g}"
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 10 ** (digits - 1) else f"{rounded:g}"
