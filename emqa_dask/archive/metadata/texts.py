"""Texts of unknown encoding; the keys and values in text that a microscope wrote."""

import re
from collections.abc import Mapping

_BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
# A byte above 127 that is no western letter or sign, or that stands beside another one.
_EASTERN = re.compile(rb"[\x80-\xff]{2}|[^\x00-\x7f\xa9\xae\xb0-\xb5\xb7\xc0-\xff]")
# Half-width katakana and private characters, which bytes of other encodings give when read as Shift-JIS.
_NOT_JAPANESE = re.compile("[\uff61-\uff9f\ue000-\uf8ff]")
_MAX_DETECTED_BYTES = 65536  # of a text whose encoding has to be guessed
_HEADING = re.compile(r"\[([^\]]+)\]")
_PAIR = re.compile(r"\$*([^\s=:$][^=:]*)(?:=|:(?!\\))(.*)")  # "Key=value", "Key: value"
_SPACED_PAIR = re.compile(r"\$+(\S+)\s+(.*)")  # "$CM_MAG 5000", as JEOL writes


def decode_text(data: bytes) -> str:
    """`data` as text: by its byte order mark, NULs, as UTF-8 or Shift-JIS where valid, else by charset-normalizer.

    A text that is ASCII but for lone western letters and signs (µ, °, Å, ü) is Windows-1252: too few for a guess.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    if encoding := _find_wide_encoding(data[:_MAX_DETECTED_BYTES]):
        return data.decode(encoding, "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    if not _EASTERN.search(data):
        return data.decode("cp1252", "replace")
    try:
        text = data.decode("cp932")
        if not _NOT_JAPANESE.search(text):  # a few characters of a Japanese microscope are too few for a guess
            return text
    except UnicodeDecodeError:
        pass
    from charset_normalizer import from_bytes

    candidates = ["cp932", "cp1252", "utf_16_le", "utf_16_be", "gb18030", "latin_1"]
    best = from_bytes(data[:_MAX_DETECTED_BYTES], cp_isolation=candidates).best()
    return data.decode(best.encoding if best is not None else "latin-1", "replace")


def _find_wide_encoding(data: bytes) -> str:
    """UTF-16 without its mark, whose western letters have a NUL in every second byte; "" for other texts."""
    n_even = data[::2].count(0)
    n_odd = data[1::2].count(0)
    if 2 * max(n_even, n_odd) < len(data) // 2 or 8 * min(n_even, n_odd) > max(n_even, n_odd):
        return ""
    return "utf-16-le" if n_odd > n_even else "utf-16-be"


def parse_key_values(text: str) -> dict[str, str]:
    """The values in a text by their keys, which are in lower case; a key in a [section] is "section.key".

    Reads "Key=value", "Key: value" and "$KEY value". The first value of a repeated key counts; empty values count not.
    """
    values: dict[str, str] = {}
    section = ""
    for line in map(str.strip, text.splitlines()):
        if heading := _HEADING.fullmatch(line):
            section = f"{heading[1].strip().lower()}."
            continue
        pair = _SPACED_PAIR.fullmatch(line) or _PAIR.fullmatch(line)
        if pair and (value := pair[2].strip()):
            values.setdefault(f"{section}{pair[1].strip().lower()}", value)
    return values


def get_value(values: Mapping[str, str], *keys: str) -> str | None:
    """The first value of parse_key_values() at one of `keys`, in any section where the key names none; case is free."""
    for key in map(str.lower, keys):
        if key in values:
            return values[key]
        if "." not in key:
            value = next((value for name, value in values.items() if name.rpartition(".")[2] == key), None)
            if value is not None:
                return value
    return None
