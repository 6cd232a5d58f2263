"""Single files that were packed by gzip, bzip2, xz or zstd, and single members of ZIP archives."""

import bz2
import lzma
import shutil
import tempfile
import weakref
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from emqa_dask.archive.source import Frame, ReadError, Source

MAX_UNPACKED_BYTES = 64 * 2**30  # a movie of a camera
SMALL_BYTES = 2**30  # always unpacked, however well it was packed
MAX_RATIO = 50  # of larger ones; micrographs pack to a third or half, and blank ones are small
FREE_FRACTION = 0.5  # of the free space in the temporary folder that one file may take
_BLOCK_BYTES = 2**20  # read at a time
PACKERS = {"gzip": (".gz",), "bzip2": (".bz2",), "xz": (".xz",), "zstd": (".zst", ".zstd")}


class TemporaryCopy:
    """A file in a temporary folder, which is removed with the last reference to this object."""

    def __init__(self, name: str, blocks: Iterator[bytes], limit: int):
        self.folder = tempfile.mkdtemp(prefix="emqa-")
        self._remove = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.path = Path(self.folder) / name
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


def limit_unpacked_bytes(packed_bytes: int) -> int:
    """Bytes that a packed file of this size may unpack to."""
    return min(MAX_UNPACKED_BYTES, max(SMALL_BYTES, MAX_RATIO * packed_bytes))


def keep_copy(source: Source, copy: TemporaryCopy) -> Source:
    """`source`, whose frames keep the file that they are read from."""

    def read_rows(frame: Frame, copy: TemporaryCopy, y0: int, y1: int) -> np.ndarray:
        return frame.read_rows(y0, y1)

    return replace(
        source, frames=tuple(replace(f, read_rows=partial(read_rows, f, copy)) for f in source.frames)
    )


def name_content(path: Path, packer: str) -> str:
    """Name of the file that was packed: that of `path` without the suffix of the packer."""
    stem, suffix = path.stem, path.suffix.lower()
    return stem if suffix in PACKERS.get(packer, ()) and stem.strip(".") else path.name


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
    with open(path, "rb") as file:
        try:
            yield from _STREAMS[packer](file)
        except (zlib.error, lzma.LZMAError, OSError, EOFError, RuntimeError, ValueError) as error:
            if isinstance(error, ReadError) or (isinstance(error, OSError) and error.errno is not None):
                raise
            raise ReadError(f"broken {packer} data: {' '.join(str(error).split())[:200]}") from error


def _iterate_streams(file: BinaryIO, make_decompressor: Callable) -> Iterator[bytes]:
    """Content of streams that follow one another, as bzip2, xz and parallel packers write them."""
    data = file.read(_BLOCK_BYTES)
    while data:
        decompressor = make_decompressor()
        while not decompressor.eof:
            block = decompressor.decompress(data, _BLOCK_BYTES)
            data = b""
            if block:
                yield block
            elif decompressor.eof:
                break
            if getattr(decompressor, "needs_input", False) or not block:
                data = file.read(_BLOCK_BYTES)
                if not data:
                    raise ReadError("the packed data end early")
        data = decompressor.unused_data.lstrip(b"\0") or file.read(_BLOCK_BYTES).lstrip(b"\0")
