"""Members of ZIP archives from others, which can state any size and unpack to a thousand times theirs."""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from emqa_dask.archive.source import ReadError

MAX_MEMBERS = 2_000_000  # of an archive; each costs about 500 bytes of memory
_LOCAL_HEADER_BYTES = 30  # of a member, before its name
_BLOCK_BYTES = 2**20  # read at a time


def list_members(path: Path) -> list[zipfile.ZipInfo]:
    """Files in the ZIP archive at `path`; ReadError where its directory is broken."""
    try:
        with zipfile.ZipFile(path) as file:
            members = file.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, struct.error) as error:
        raise ReadError(f"broken ZIP archive: {error}") from error
    if len(members) > MAX_MEMBERS:
        raise ReadError(f"a ZIP archive of over {MAX_MEMBERS:,} files is not read")
    return [info for info in members if not info.is_dir()]


def check_member(info: zipfile.ZipInfo, limit: int) -> None:
    """ReadError for a member that cannot be unpacked here, or that has more than `limit` bytes."""
    if info.flag_bits & 1:
        raise ReadError(f"{info.filename} is encrypted: unpack the archive with its password")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ReadError(f"{info.filename} is compressed by method {info.compress_type} of ZIP: unpack the archive")
    if info.file_size > limit:
        raise ReadError(f"{info.filename} unpacks to {info.file_size:,} bytes, over the limit of {limit:,}: refused")


def read_member(path: Path, info: zipfile.ZipInfo, n_bytes: int, start: int = 0) -> bytes:
    """At most `n_bytes` of a member from `start` on; ReadError where it is broken.

    Never unpacks more than the member states, whatever its data hold.
    """
    stop = min(info.file_size, start + n_bytes)
    data = b"".join(iterate_blocks(path, info, stop, start))
    if len(data) < stop - start:
        raise ReadError(f"{info.filename} of the ZIP archive ends early")
    return data


def iterate_blocks(path: Path, info: zipfile.ZipInfo, stop: int, start: int = 0) -> Iterator[bytes]:
    """Bytes `start` to `stop` of a member, a block at a time; fewer where it ends early.

    ReadError where all of it is read and its checksum does not fit.
    """
    checksum = 0
    with open(path, "rb") as file:
        for block in _iterate_stored(file, info, stop, start):
            checksum = zlib.crc32(block, checksum)
            yield block
    if start == 0 and stop == info.file_size and checksum != info.CRC:
        raise ReadError(f"{info.filename} of the ZIP archive is broken: its checksum does not fit")


def _iterate_stored(file: BinaryIO, info: zipfile.ZipInfo, stop: int, start: int) -> Iterator[bytes]:
    check_member(info, info.file_size)
    file.seek(info.header_offset)
    head = file.read(_LOCAL_HEADER_BYTES)
    if len(head) < _LOCAL_HEADER_BYTES or head[:4] != b"PK\3\4":
        raise ReadError(f"{info.filename} of the ZIP archive is not where its directory says")
    file.seek(sum(struct.unpack_from("<HH", head, 26)), 1)
    if info.compress_type != zipfile.ZIP_STORED:
        yield from _inflate(file, info, stop, start)
        return
    file.seek(start, 1)
    n_left = min(stop, info.compress_size) - start
    while n_left > 0 and (block := file.read(min(n_left, _BLOCK_BYTES))):
        n_left -= len(block)
        yield block


def _inflate(file: BinaryIO, info: zipfile.ZipInfo, stop: int, start: int) -> Iterator[bytes]:
    inflate = zlib.decompressobj(-15)  # deflate without a header
    n_packed = info.compress_size
    position = 0
    while position < stop and not inflate.eof:
        data = inflate.unconsumed_tail
        if not data:
            data = file.read(min(n_packed, _BLOCK_BYTES))
            n_packed -= len(data)
        try:
            block = inflate.decompress(data, min(_BLOCK_BYTES, stop - position))
        except zlib.error as error:
            raise ReadError(f"{info.filename} of the ZIP archive is broken: {error}") from error
        if not block and not data:
            return
        position += len(block)
        if position > start:
            yield block[max(0, len(block) - (position - start)) :]
