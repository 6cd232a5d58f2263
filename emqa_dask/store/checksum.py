"""A checksum inside a Parquet file, over all its other bytes: any reader opens the file, and ours sees one wrong bit.

Parquet's own page checksums leave out page headers and the footer, where one bit changes values, too. Readers find the
footer from the end of the file and pages by their offsets, so bytes between the last page and the footer harm nobody:
there lie MARK and the CRC-32C of everything before MARK and after the checksum.
"""

from typing import BinaryIO

import google_crc32c

MARK = b"emqaCRC1"
BLOCK_BYTES = len(MARK) + 4
_TAIL_BYTES = 8  # the footer's length and "PAR1"
_READ_BYTES = 2**22


class ChecksumError(ValueError):
    """A file whose bytes are not those that were written."""


def add_checksum(data: bytes) -> bytes:
    """`data`, a whole Parquet file, with its checksum."""
    start = len(data) - _TAIL_BYTES - int.from_bytes(data[-_TAIL_BYTES:-4], "little")
    return b"".join([data[:start], MARK, _to_bytes(google_crc32c.value(data)), data[start:]])


def add_checksum_to_stream(stream: BinaryIO) -> None:
    """Put its checksum into `stream`, which was opened with "w+b" and holds a whole Parquet file."""
    size = stream.seek(0, 2)
    start = _find_footer(stream, size)
    stream.seek(start)
    footer = stream.read(size - start)
    crc = google_crc32c.extend(_compute_crc(stream, 0, start), footer)
    stream.seek(start)
    stream.write(MARK + _to_bytes(crc) + footer)


def verify_checksum(stream: BinaryIO) -> bytes:
    """The checksum of the Parquet file `stream`, whose position is 0 then; ChecksumError where it does not fit."""
    size = stream.seek(0, 2)
    start = _find_footer(stream, size) - BLOCK_BYTES
    if start < 0:
        raise ChecksumError("it is too short")
    stream.seek(start)
    block = stream.read(BLOCK_BYTES)
    if block[: len(MARK)] != MARK:
        raise ChecksumError("there is no checksum in it")
    crc = _compute_crc(stream, 0, start)
    crc = google_crc32c.extend(crc, _read_range(stream, start + BLOCK_BYTES, size))
    if block[len(MARK) :] != _to_bytes(crc):
        raise ChecksumError("its checksum does not fit")
    stream.seek(0)
    return block[len(MARK) :]


def read_footer(stream: BinaryIO) -> bytes:
    """Parquet's metadata at the end of the file `stream`, whose position is 0 then."""
    size = stream.seek(0, 2)
    footer = _read_range(stream, _find_footer(stream, size), size)
    stream.seek(0)
    return footer


def _find_footer(stream: BinaryIO, size: int) -> int:
    if size < _TAIL_BYTES:
        raise ChecksumError("it is too short")
    stream.seek(size - _TAIL_BYTES)
    tail = stream.read(_TAIL_BYTES)
    start = size - _TAIL_BYTES - int.from_bytes(tail[:4], "little")
    if tail[4:] != b"PAR1" or start < 0:
        raise ChecksumError("its end is missing")
    return start


def _compute_crc(stream: BinaryIO, start: int, stop: int) -> int:
    """CRC-32C of a range of bytes, of which a few megabytes are in memory at a time."""
    stream.seek(start)
    crc = 0
    while start < stop:
        block = stream.read(min(_READ_BYTES, stop - start))
        if not block:
            raise ChecksumError("it is too short")
        crc = google_crc32c.extend(crc, block)
        start += len(block)
    return crc


def _read_range(stream: BinaryIO, start: int, stop: int) -> bytes:
    stream.seek(start)
    return stream.read(stop - start)


def _to_bytes(crc: int) -> bytes:
    return crc.to_bytes(4, "little")
