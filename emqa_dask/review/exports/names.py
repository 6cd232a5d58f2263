"""Names of files that exports write for micrographs."""

import posixpath

MAX_NAME_BYTES = 200  # of a component of a path; most file systems take 255


def name_image_file(uri: str, frame: int, micrograph_id: str) -> str:
    """The URI as a relative path that every file system takes, with the frame unless it is the first; no suffix."""
    folder, name = posixpath.split(uri)
    stem = posixpath.splitext(name)[0] or name
    stem = f"{stem} (frame {frame})" if frame else stem
    components = [*(part for part in folder.split("/") if part), stem]
    return "/".join(_shorten(part if part not in (".", "..") else "_", micrograph_id) for part in components)


def _shorten(name: str, micrograph_id: str) -> str:
    """`name`, or its beginning and the identity if it is too long."""
    encoded = name.encode("utf-8", "replace")
    if len(encoded) <= MAX_NAME_BYTES:
        return name
    return f"{encoded[:MAX_NAME_BYTES].decode('utf-8', 'ignore')}-{micrograph_id[:8]}"


class UniqueNames:
    """File names that were given away; 8 bytes of a hash and a set's entry (some 60 bytes) for each."""

    def __init__(self) -> None:
        self._hashes: set[int] = set()

    def claim(self, name: str, other_name: str) -> str:
        """`name`, or `other_name` if `name` is taken; file systems may not tell upper from lower case."""
        key = hash(name.lower())
        if key in self._hashes:
            return other_name
        self._hashes.add(key)
        return name
