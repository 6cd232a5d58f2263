"""Single files that were packed by gzip, bzip2, xz or zstd, unpacked into temporary files that remove themselves."""

import bz2
import errno
import gzip
import lzma
import os
import shutil
import tempfile
import weakref
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from emqa_dask.archive.source import Frame, ReadError, Source

MAX_UNPACKED_BYTES = 64 * 2**30  # a movie of a camera
SMALL_BYTES = 2**30  # always unpacked, however well it was packed
MAX_RATIO = 50  # of larger ones; micrographs pack to a third or half, and blank ones are small
FREE_FRACTION = 0.5  # of the free space in the temporary folder that one file may take
_BLOCK_BYTES = 2**20  # read at a time
_HEAD_BYTES = 4096  # by which the content is recognised
PACKERS = {"gzip": (".gz",), "bzip2": (".bz2",), "xz": (".xz",), "zstd": (".zst", ".zstd")}


class TemporaryCopy:
    """A file in a temporary folder, which is removed with the last reference to this object."""

    def __init__(self, name: str, blocks: Iterator[bytes], limit: int):
        self.folder = tempfile.mkdtemp(prefix="emqa-")
        self._remove = weakref.finalize(self, _remove_folder, self.folder, os.getpid())
        self.path = Path(self.folder) / make_safe_name(name)
        limit = min(limit, int(shutil.disk_usage(self.folder).free * FREE_FRACTION))
        size = 0
        try:
            with open(self.path, "wb") as file:
                for block in blocks:
                    size += len(block)
                    if size > limit:
                        raise ReadError(f"unpacks to over {limit:,} bytes: refused; unpack it to have it triaged")
                    file.write(block)
        except BaseException:
            self._remove()
            raise


def _remove_folder(folder: str, process: int) -> None:
    if os.getpid() == process:  # not in a process that was forked from it
        shutil.rmtree(folder, ignore_errors=True)


def make_safe_name(name: str) -> str:
    """`name` as a file name that stays in its folder, with its suffix."""
    stem, suffix = os.path.splitext("".join(c if c.isalnum() or c in "._- " else "_" for c in name))
    return f"{stem.strip('. ')[:80] or 'file'}{suffix[:12]}"


def limit_unpacked_bytes(packed_bytes: int) -> int:
    """Bytes that a packed file of this size may unpack to."""
    return min(MAX_UNPACKED_BYTES, max(SMALL_BYTES, MAX_RATIO * packed_bytes))


def keep_copy(source: Source, copy: TemporaryCopy) -> Source:
    """`source`, whose frames keep the file that they are read from."""

    def read_rows(frame: Frame, copy: TemporaryCopy, y0: int, y1: int) -> np.ndarray:
        return frame.read_rows(y0, y1)

    return replace(source, frames=tuple(replace(f, read_rows=partial(read_rows, f, copy)) for f in source.frames))


def name_content(path: Path, packer: str) -> str:
    """Name of the file that was packed: that of `path` without the suffix of the packer."""
    is_named = path.suffix.lower() in PACKERS.get(packer, ()) and path.stem.strip(".")
    return path.stem if is_named else path.name


def open_packed(path: Path, packer: str, detect_image: Callable, open_image: Callable) -> Source | None:
    """The image that is packed in the file at `path` -> Source; None for an archive or a file of another kind.

    detect_image: the image format of a file by its first bytes and its name, or None. open_image: opens a file of it.
    """
    name = name_content(path, packer)
    format = detect_image(read_first_bytes(path, packer, _HEAD_BYTES), name)
    if format is None:
        return None
    copy = TemporaryCopy(name, iterate_content(path, packer), limit_unpacked_bytes(path.stat().st_size))
    source = open_image(copy.path, format)
    return keep_copy(replace(source, format=f"{source.format} in {packer}"), copy)


def read_first_bytes(path: Path, packer: str, n_bytes: int) -> bytes:
    """The first bytes of the content; b"" where it is broken."""
    head = b""
    try:
        for block in iterate_content(path, packer):
            head += block
            if len(head) >= n_bytes:
                break
    except ReadError:
        pass
    return head[:n_bytes]


def iterate_content(path: Path, packer: str) -> Iterator[bytes]:
    """Blocks of the content of a packed file; ReadError where it is broken or ends early."""
    try:
        with _open_stream(path, packer) as stream:
            while block := stream.read(_BLOCK_BYTES):
                yield block
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
        if isinstance(error, ReadError) or (isinstance(error, OSError) and error.errno not in (None, errno.EIO)):
            raise
        raise ReadError(f"broken {packer} data: {' '.join(str(error).split())[:200]}") from error


def _open_stream(path: Path, packer: str) -> Any:
    """Content of a packed file, unpacked a block at a time; streams that follow one another are joined."""
    if packer == "zstd":
        import pyarrow

        return pyarrow.input_stream(str(path), compression="zstd")
    open_file: Callable = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}[packer]
    return open_file(path, "rb")
