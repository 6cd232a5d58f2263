"""File names and URIs as valid UTF-8 that leads nowhere else, and back."""

import re

_ESCAPED = re.compile(r"\\x(?:[89a-f][0-9a-f]|2[ef])")


_UNSAFE_COMPONENT = re.compile(r"(?:^|/)(?:\.{0,2}(?:/|$))")  # a component that is empty, "." or ".."


def escape_name(name: str) -> str:
    r"""A file name as valid UTF-8: bytes that are not UTF-8 become \xNN. unescape_name() reverts it."""
    if name.isascii() and "\\" not in name:  # true of nearly all of what may be millions of names
        return name
    if not _ESCAPED.search(name) and not any("\ud800" <= c <= "\udfff" for c in name):
        return name
    out = name.replace("\\", "\\\\")
    return "".join(f"\\x{ord(c) - 0xDC00:02x}" if "\udc80" <= c <= "\udcff" else c for c in out)


def escape_uri(name: str) -> str:
    r"""escape_name(name) of a path in the archive, in which no component is empty, "." or "..".

    Keys of a bucket and members of a ZIP file may have such components; their dots become \x2e, their slashes \x2f.
    """
    out = escape_name(name)
    if not _UNSAFE_COMPONENT.search(out):
        return out
    if out == name:
        out = out.replace("\\", "\\\\")
    out = re.sub(r"^/|(?<=/)/|/$", r"\\x2f", out)
    return re.sub(r"(?:^|(?<=/))\.{1,2}(?=/|$)", lambda dots: r"\x2e" * len(dots[0]), out)


def unescape_name(uri: str) -> str:
    """Name that escape_name() or escape_uri() has converted."""
    if not _ESCAPED.search(uri):
        return uri
    return re.sub(r"\\(?:\\|x([89a-f][0-9a-f]|2[ef]))", lambda m: _decode_escape(m[1]) if m[1] else "\\", uri)


def _decode_escape(code: str) -> str:
    return chr(int(code, 16) if code[0] == "2" else 0xDC00 + int(code, 16))
