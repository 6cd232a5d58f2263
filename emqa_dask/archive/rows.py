"""Values from files, changed so that a table can hold them; one-line texts for reasons, errors and damage."""

import json
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa

from emqa_dask.archive.metadata import headers, values
from emqa_dask.archive.source import ReadError

MAX_HEADER_BYTES = 4000
MAX_DAMAGE_NOTES = 3  # on a frame's damage that its row shows
MAX_NAME_CHARACTERS = 200  # of an instrument, a date or a format
NAME_COLUMNS = ("instrument", "acquired", "format")
_ENCODER = json.JSONEncoder(allow_nan=False)
# By the id of a schema, which is kept so that the id stays its own: to hash a schema takes as long as to fit a row.
_FITS: dict[int, tuple[pa.Schema, dict[str, Callable[[Any], Any]]]] = {}


def fit_row(row: dict[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """`row` with values that a table of `schema` can hold, whatever the file contained.

    Integers are cut to their type's range, what is no number becomes NaN or 0, texts become valid UTF-8 without NUL.
    """
    fits = _list_fits(schema)
    values = {name: fits[name](value) for name, value in row.items()}
    for name in NAME_COLUMNS:
        if values.get(name):
            values[name] = values[name][:MAX_NAME_CHARACTERS]
    return values


def _list_fits(schema: pa.Schema) -> dict[str, Callable[[Any], Any]]:
    """By column, the function that makes a value fit its type."""
    if id(schema) not in _FITS:
        _FITS[id(schema)] = schema, {field.name: _choose_fit(field.type) for field in schema}
    return _FITS[id(schema)][1]


def _choose_fit(arrow_type: pa.DataType) -> Callable[[Any], Any]:
    if pa.types.is_floating(arrow_type):
        return values.parse_number
    if pa.types.is_integer(arrow_type):
        return partial(_fit_integer, bits=arrow_type.bit_width)
    if pa.types.is_boolean(arrow_type):
        return _fit_boolean
    return _fit_text if pa.types.is_string(arrow_type) else _keep_value


def _keep_value(value: Any) -> Any:
    return value


def _fit_integer(value: Any, bits: int) -> int:
    """No null: pandas would make floats of the column, which hold 53 bits."""
    return clip_integer(value, bits) or 0


def _fit_boolean(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _fit_text(value: Any) -> str | None:
    if value is None:
        return None
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
    flat_metadata = headers.flatten_metadata(foreign)
    try:
        is_small = len(_ENCODER.encode(flat_metadata)) <= MAX_HEADER_BYTES - 2  # as the sum of the entries counts it
    except (ValueError, UnicodeEncodeError):
        is_small = False
    entries = flat_metadata if is_small else _select_entries(flat_metadata)
    return _ENCODER.encode({join_lines(k): join_lines(v) if isinstance(v, str) else v for k, v in entries.items()})


def _select_entries(flat_metadata: dict[str, Any]) -> dict[str, Any]:
    """The first entries that JSON can hold, below 4 kB."""
    entries = {}
    size = 2
    for key, value in flat_metadata.items():
        try:
            size += len(_ENCODER.encode({key: value}))
        except (ValueError, UnicodeEncodeError):
            continue
        if size > MAX_HEADER_BYTES:
            break
        entries[key] = value
    return entries
