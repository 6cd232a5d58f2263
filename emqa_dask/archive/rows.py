"""Values from files, changed so that a table can hold them; one-line texts for reasons, errors and damage."""

import json
import math
from typing import Any

import pyarrow as pa

from emqa_dask.archive.metadata import headers, values
from emqa_dask.archive.source import ReadError

MAX_HEADER_BYTES = 4000
MAX_DAMAGE_NOTES = 3  # on a frame's damage that its row shows
MAX_NAME_CHARACTERS = 200  # of an instrument, a date or a format
NAME_COLUMNS = ("instrument", "acquired", "format")


def fit_row(row: dict[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """`row` with values that a table of `schema` can hold, whatever the file contained.

    Integers are cut to their type's range, what is no number becomes NaN or 0, texts become valid UTF-8 without NUL.
    """
    values = {name: _fit_value(value, schema.field(name).type) for name, value in row.items()}
    for name in NAME_COLUMNS:
        if values.get(name):
            values[name] = values[name][:MAX_NAME_CHARACTERS]
    return values


def _fit_value(value: Any, arrow_type: pa.DataType) -> Any:
    if pa.types.is_floating(arrow_type):
        return values.parse_number(value)
    if pa.types.is_integer(arrow_type):  # no null: pandas would make floats of the column, which hold 53 bits
        return clip_integer(value, arrow_type.bit_width) or 0
    if value is None:
        return None
    if pa.types.is_boolean(arrow_type):
        return value if isinstance(value, bool) else None
    if pa.types.is_string(arrow_type):
        return _fit_text(value)
    return value


def _fit_text(value: Any) -> str | None:
    try:
        return str(value).encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
    except ValueError:  # an integer of thousands of digits
        return None


def clip_integer(value: Any, bits: int = 64) -> int | None:
    """`value` as the nearest signed integer of so many bits; None for what is no number."""
    top = 2 ** (bits - 1) - 1
    if not isinstance(value, int):
        try:
            value = float(value)
        except (ValueError, TypeError, OverflowError):
            return None
        if math.isnan(value):
            return None
        value = int(value) if math.isfinite(value) else top if value > 0 else -top - 1
    return max(-top - 1, min(int(value), top))


def describe_damage(notes: list[str]) -> str | None:
    """The first notes on a frame's damaged pixels as one text, and how many more there are; None for none."""
    if not notes:
        return None
    remainder = f"; and {len(notes) - MAX_DAMAGE_NOTES:,} more" if len(notes) > MAX_DAMAGE_NOTES else ""
    return join_lines("; ".join(notes[:MAX_DAMAGE_NOTES]))[:500] + remainder


def describe_error(error: BaseException) -> str:
    """One plain sentence for what went wrong with a file."""
    if isinstance(error, ReadError):
        return str(error)
    if isinstance(error, PermissionError):
        return "no permission to read"
    if isinstance(error, FileNotFoundError):
        return "the file disappeared after it was listed"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it; lower archive.max_megapixels or give the workers more"
    if isinstance(error, OSError) and error.errno is not None:
        return f"could not be read: {error.strerror}"
    return f"could not be decoded: {type(error).__name__}: {' '.join(str(error).split())[:200]}"


def format_error(error: BaseException) -> str:
    """An exception's type and text in one line of at most 1000 characters."""
    return join_lines(f"{type(error).__name__}: {error}")[:1000]


def join_lines(text: str) -> str:
    """Valid UTF-8 on one line."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode().replace("\0", "").split())


def dump_header(foreign: Any) -> str:
    """Foreign metadata as strict JSON below 4 kB: flat, scalars only, later entries dropped; "{}" for none."""
    header_entries: dict[str, Any] = {}
    size = 2
    for key, value in headers.flatten_metadata(foreign).items():
        try:
            size += len(json.dumps({key: value}, allow_nan=False).encode())
        except (ValueError, UnicodeEncodeError):
            continue
        if size > MAX_HEADER_BYTES:
            break
        header_entries[join_lines(key)] = join_lines(value) if isinstance(value, str) else value
    return json.dumps(header_entries, allow_nan=False)
