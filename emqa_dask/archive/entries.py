"""Entry: one file of an archive as the listing of its folder shows it."""

import errno
from typing import NamedTuple

ZARR_SUFFIXES = (".zarr", ".zspy", ".n5")  # of folders that are one data set


class Entry(NamedTuple):
    """One file of the archive (or one Zarr folder, which counts as a file)."""

    uri: str  # archive-relative, forward slashes, valid UTF-8
    path: str  # for open() or fsspec
    size_bytes: int = 0  # 0 for Zarr folders, whose chunks are not listed yet
    modified_ns: int = 0
    problem: str = ""  # why it cannot be read, as far as the listing tells
    sidecars: tuple[str, ...] = ()  # files that may belong to an image in a bucket; local ones are found by their name


def describe_os_error(error: OSError) -> str:
    """Phrase for why a file or folder cannot be read."""
    texts = {
        errno.ELOOP: "symbolic link loop",
        errno.EACCES: "no permission to read",
        errno.EPERM: "no permission to read",
        errno.ENOENT: "dangling symbolic link, or the file is gone",
        errno.ENAMETOOLONG: "the path is too long",
    }
    return texts.get(error.errno or 0, f"cannot be read: {error.strerror or error}")
