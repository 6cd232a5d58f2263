"""Size of compressed data after decompression, found without keeping the result in memory."""

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable

from emqa_dask.archive.source import ReadError

SLACK_BYTES = 256 * 2**20  # a chunk may decompress to so much more than its array needs
MAX_DEFLATE_RATIO = 1032  # largest compression ratio that the deflate format allows
SIZED_COMPRESSORS = ("zstd", "blosc", "lz4")  # whose header states the decompressed size
COMPRESSORS = ("zlib", "gzip", "bz2", "lzma", *SIZED_COMPRESSORS)
_BLOCK_BYTES = 2**24  # decompressed at a time


def check_decompressed_size(compressor: str, data: bytes, n_bytes: int, name: str) -> None:
    """Raises ReadError when `data` state, or decompress to, a size much larger than `n_bytes`."""
    limit = n_bytes + SLACK_BYTES
    try:
        if compressor in SIZED_COMPRESSORS:
            size = _read_stated_size(compressor, data)
        else:
            size = _measure_decompressed(compressor, data, limit)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, struct.error):
        return  # broken data: the reader reports them
    if size > limit:
        raise ReadError(f"a chunk of {name} decodes to over {limit:,} bytes instead of {n_bytes:,}: refused")


def fits_deflate_chunk(data: bytes, n_bytes: int) -> bool:
    """Whether zlib `data` decompress to exactly `n_bytes`, by libdeflate, which takes a third of the time of zlib.

    False also where they are broken or longer, which check_decompressed_size() then looks at.
    """
    import imagecodecs

    try:
        return len(imagecodecs.deflate_decode(data, out=n_bytes)) == n_bytes
    except (RuntimeError, ValueError):
        return False


def _measure_decompressed(compressor: str, data: bytes, limit: int) -> int:
    """Number of bytes that `data` decompress to; at most a little more than `limit` is decompressed."""
    size = 0
    while data and size <= limit:
        decompressor, n_bytes, data = _decompress_stream(compressor, data, limit - size)
        size += n_bytes
        if not decompressor.eof:
            break
        data = decompressor.unused_data
    return size


def _decompress_stream(compressor: str, data: bytes, limit: int) -> tuple:
    """(decompressor, number of decompressed bytes, data left over) after the first of several joined streams."""
    is_deflate = compressor in ("zlib", "gzip")
    make_decompressor: Callable = {"bz2": bz2.BZ2Decompressor, "lzma": lzma.LZMADecompressor}.get(
        compressor, zlib.decompressobj
    )
    decompressor = make_decompressor(47) if is_deflate else make_decompressor()  # 47: zlib or gzip, told by the header
    size = 0
    while not decompressor.eof and size <= limit:
        block = decompressor.decompress(data, _BLOCK_BYTES)
        data = decompressor.unconsumed_tail if is_deflate else b""
        size += len(block)
        if not block:
            break
    return decompressor, size, data


def _read_stated_size(compressor: str, head: bytes) -> int:
    """Decompressed size that the header of a chunk states; 0 when it states none."""
    if compressor == "blosc":
        return struct.unpack_from("<I", head, 4)[0]
    if compressor == "lz4":
        return struct.unpack_from("<I", head, 0)[0]
    # zstd frame header (RFC 8878, 3.1.1.1)
    descriptor = head[4]
    size_flag = descriptor >> 6
    is_single_segment = descriptor >> 5 & 1
    n_dictionary_bytes = (0, 1, 2, 4)[descriptor & 3]
    start = 5 + (not is_single_segment) + n_dictionary_bytes
    width = (is_single_segment, 2, 4, 8)[size_flag]
    return int.from_bytes(head[start : start + width], "little") + (256 if width == 2 else 0)
