"""Small files that carry their own checksum: settings.toml, a model's card.toml, and the marker workspace.json."""

import hashlib
import json
import re
from collections.abc import Mapping

SETTINGS_HEAD = b"# Written by emqa, which notices any change: use --set SECTION.KEY=VALUE or --settings with a copy.\n"
DIGEST_LINE = b"\n# sha256: "
CHECKSUMMED_FORMATS = (4, 5, 6)  # of workspaces: their markers have a checksum


def add_checksum(text: str, head: bytes = b"") -> bytes:
    """TOML `text` after the comment `head` and before a comment with the SHA-256 of both."""
    data = head + text.encode()
    return data + DIGEST_LINE + hashlib.sha256(data).hexdigest().encode() + b"\n"


def strip_checksum(data: bytes) -> bytes | None:
    """The text that add_checksum() was given, with its head; None when any bit of it has changed."""
    text, _, digest = data.rpartition(DIGEST_LINE)
    return text if hashlib.sha256(text).hexdigest().encode() == digest.strip() else None


def has_checksum(data: bytes) -> bool:
    """Whether add_checksum() wrote `data`, even if it has changed; one wrong bit in the comments does not matter."""
    is_signed = DIGEST_LINE in data or re.search(rb"[0-9a-f]{60}\s*\Z", data) is not None
    return is_signed or data.startswith(SETTINGS_HEAD[:17])


def format_marker(version: int, sources: str | Mapping[str, str]) -> bytes:
    """JSON with a workspace's format version and archive: its source, or several sources, each with its name."""
    entry = {"source": sources} if isinstance(sources, str) else {"sources": dict(sources)}
    marker = {"format": version, **entry, "sha256": _hash_marker(version, sources)}
    return json.dumps(marker, indent=2).encode() + b"\n"


def parse_marker(data: bytes) -> tuple[int, str | dict[str, str]] | None:
    """(format version, source or sources of the archive) of a marker; None where it is damaged."""
    try:
        marker = json.loads(data)
        version = marker["format"]
        sources = marker["sources"] if "sources" in marker else marker["source"]
        if not isinstance(version, int) or not _are_sources(sources):
            return None
        if "sha256" not in marker and version not in CHECKSUMMED_FORMATS:
            return version, sources
        return (version, sources) if marker["sha256"] == _hash_marker(version, sources) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _are_sources(sources: object) -> bool:
    if isinstance(sources, dict):
        return bool(sources) and all(isinstance(name, str) for name in sources.values())
    return isinstance(sources, str)


def hash_document(document: dict) -> str:
    """SHA-256 of `document` as JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _hash_marker(version: int, sources: str | Mapping[str, str]) -> str:
    document = [version, sources if isinstance(sources, str) else dict(sources)]
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
