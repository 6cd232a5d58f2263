"""Names of files in a list: a text with one path per line, or a column of a table, as programs write them."""

import codecs
import csv
import os
import re
import unicodedata
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from urllib.parse import unquote_to_bytes

TEXT_SUFFIXES = (".txt", ".lst", ".list")
TABLE_SUFFIXES = (".csv", ".tsv")
LIST_SUFFIXES = (*TEXT_SUFFIXES, *TABLE_SUFFIXES)
_BYTE_ORDER_MARKS = (  # UTF-32 first: its mark starts with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
_QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019"}
_DRIVE = re.compile(r"([A-Za-z]):[\\/]")
_HEADINGS = {"file", "files", "filename", "file name", "file_name", "filepath", "file path", "file_path", "fullname"}
_HEADINGS |= {"path", "paths", "full path", "uri", "url", "name", "image", "images", "datei", "dateiname", "pfad"}
_BLANKS = " \t\x1a"  # DOS ends a text with the last of these
_START_BYTES = 4096  # of a list, in which its encoding and its delimiter show


def read_listed_paths(list_file: Path) -> Iterator[str]:
    """Absolute path of each file that `list_file` names, in its order; relative ones are relative to its folder.

    A name in the list counts as it is where such a file exists. Otherwise the file may be named with spaces around it,
    in quotes, as a file:// URI, with backslashes, with a Windows drive (mounted as /mnt/c), in another encoding, or
    with other accents (composed or decomposed). A line that starts with # and names no file is a comment.
    """
    folder = str(list_file.parent)
    for name in _read_names(list_file):
        paths = [_join(folder, variant) for variant in list_name_variants(name)]
        path = next(filter(os.path.lexists, paths), None)
        if path is not None:
            yield path
        elif not name.lstrip().startswith("#"):
            yield _join(folder, _read_plain_name(name).replace("\0", ""))


def is_remote_name(path: str) -> bool:
    """Whether `path` ends with a name that is the URI of a bucket, which a list cannot contain."""
    return re.search(r"(?:^|/)[A-Za-z][A-Za-z0-9+.-]+:/[^/]", path) is not None


def list_name_variants(name: str) -> list[str]:
    """`name` as the list has it, then what it means without spaces and quotes, then further readings of it."""
    plain_name = _read_plain_name(name)
    variants = [name, plain_name]
    if "\t" in plain_name:  # a further column
        variants.append(_read_plain_name(plain_name.partition("\t")[0]))
    if plain_name.endswith((",", ";")):
        variants.append(_read_plain_name(plain_name[:-1]))
    if "\\" in plain_name:
        variants.append(plain_name.replace("\\", "/"))
    if drive := _DRIVE.match(plain_name):
        variants.append(f"/mnt/{drive[1].lower()}/" + plain_name[drive.end() :].replace("\\", "/"))
    if not name.isascii():
        variants += [text for variant in variants[1:] for text in _list_spellings(variant)]
    return [variant for variant in dict.fromkeys(variants) if variant and "\0" not in variant]


def _list_spellings(name: str) -> Iterator[str]:
    """`name` with composed and decomposed accents, and decoded as Windows writes it where it is not UTF-8."""
    if any("\udc80" <= c <= "\udcff" for c in name):
        yield name.encode("utf-8", "surrogateescape").decode("cp1252", "replace")
        return
    yield unicodedata.normalize("NFC", name)
    yield unicodedata.normalize("NFD", name)


def _read_plain_name(name: str) -> str:
    """`name` without spaces and quotes around it; the path where it is a file URI."""
    plain_name = _strip_quotes(name)
    return _convert_file_uri(plain_name) if plain_name.lower().startswith("file:") else plain_name


def _strip_quotes(name: str) -> str:
    """`name` without spaces around it and without the pair of quotes that encloses it."""
    stripped_name = name.strip()
    closing_quote = _QUOTES.get(stripped_name[:1])
    if closing_quote and len(stripped_name) > 2 and stripped_name.endswith(closing_quote):
        return stripped_name[1:-1].strip()
    return stripped_name


def _convert_file_uri(uri: str) -> str:
    """Path that a file URI names: file:///a%20b.tif, file:/a.tif, file://localhost/a.tif, file:///C:/a.tif."""
    path = uri[len("file:") :]
    if path.startswith("//"):
        host, slash, path = path[2:].partition("/")
        path = slash + path if host.lower() in ("", "localhost") else f"//{host}{slash}{path}"
    path = os.fsdecode(unquote_to_bytes(path.encode("utf-8", "surrogateescape")))
    return path[1:] if path.startswith("/") and _DRIVE.match(path[1:]) else path


def _join(folder: str, name: str) -> str:
    return os.path.normpath(os.path.join(folder, name))


def _read_names(list_file: Path) -> Iterator[str]:
    """Names in the list as they stand there, without empty ones. Lines end with LF or CR LF."""
    with open(list_file, "rb") as file:
        start = file.read(_START_BYTES)
    encoding = _detect_encoding(start)
    errors = "surrogateescape" if encoding.startswith("utf-8") else "replace"
    line_end = "\r" if b"\r" in start and b"\n" not in start else "\n"  # the former is that of old Macs
    with open(list_file, encoding=encoding, errors=errors, newline=line_end) as lines:
        if list_file.suffix.lower() in TABLE_SUFFIXES:
            try:
                yield from _read_file_column(lines, str(list_file.parent))
            except csv.Error as error:
                raise ValueError(f"{list_file}: not a table of files ({error}); give a list, or a folder") from error
            return
        for line in lines:
            name = line.rstrip("\r\n")
            if name.strip(_BLANKS):
                yield name


def _detect_encoding(start: bytes) -> str:
    """Encoding of a text that starts with `start`: that of its byte order mark, UTF-16 by its zeros, or UTF-8."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if start.startswith(mark):
            return encoding
    if b"\0" in start[1::2] and b"\0" not in start[0::2]:  # no path has a zero byte
        return "utf-16-le"
    if b"\0" in start[0::2] and b"\0" not in start[1::2]:
        return "utf-16-be"
    return "utf-8"


def _read_file_column(lines: Iterator[str], folder: str) -> Iterator[str]:
    """Cells of the column of files, the first one unless the first row has a heading such as "path" over another.

    The delimiter is the first of tab, semicolon and comma in the first row.
    """
    first_line = next(lines, "")
    delimiter = next((c for c in "\t;," if c in first_line), ",")
    rows = csv.reader((line.replace("\0", "") for line in chain([first_line], lines)), delimiter=delimiter)
    first_row = next(rows, [])
    headings = [cell.strip().lower() for cell in first_row]
    column = next((k for k, heading in enumerate(headings) if heading in _HEADINGS), None)
    has_headings = column is not None and not os.path.lexists(_join(folder, first_row[0]))
    for row in rows if has_headings else chain([first_row], rows):
        name = row[column or 0] if len(row) > (column or 0) else ""
        if name.strip():
            yield name
