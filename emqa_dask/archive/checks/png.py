"""Damage of a PNG by the checksums of its chunks and compressed pixels, which Pillow does not check."""

import struct
import zlib

_BLOCK = 2**22
_CHECKED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")  # what the pixels depend on


def find_png_damage(data: bytes, n_bytes: int) -> str:
    """What is wrong with the chunks of a PNG that hold its pixels, one phrase; "" where all are whole.

    n_bytes: what the pixels are decoded to, at most; a stream that goes on is not followed further. 0: a decoder that
    checks the stream (libpng) has read it, and only the chunks are looked at.
    """
    position = 8
    pixel_chunks = []
    has_end = False
    view = memoryview(data)
    while position + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        chunk = view[position + 8 : position + 8 + length]
        if len(chunk) < length or position + 12 + length > len(data):
            return f"a chunk ends after {len(chunk):,} of {length:,} bytes"
        if (
            name in _CHECKED
            and zlib.crc32(view[position + 4 : position + 8 + length])
            != struct.unpack_from(">I", data, position + 8 + length)[0]
        ):
            return f"the checksum of a chunk {name.decode()} does not fit"
        position += 12 + length
        if name == b"IEND":
            has_end = True
            break
        if name == b"IDAT":
            pixel_chunks.append(chunk)
    if not has_end:
        return "its end is missing"
    return _find_stream_damage(pixel_chunks, n_bytes + _BLOCK) if n_bytes else ""


def _find_stream_damage(chunks: list[memoryview], max_bytes: int) -> str:
    """What is wrong with the compressed pixels in `chunks`; only `max_bytes` of them are unpacked."""
    import imagecodecs

    try:
        imagecodecs.deflate_decode(b"".join(chunks), out=max_bytes)  # libdeflate takes half of zlib's time
        return ""
    except (RuntimeError, ValueError):
        pass  # damaged, or longer: zlib tells which
    inflate = zlib.decompressobj()
    n_left = max_bytes
    for chunk in chunks:
        if n_left <= 0 or inflate.eof:
            break
        try:
            n_left -= _inflate(inflate, chunk, n_left)
        except zlib.error as error:
            return f"the compressed pixels are broken: {error}"
    return "" if inflate.eof or n_left <= 0 else "the compressed pixels end early"


def _inflate(inflate, compressed_pixels: memoryview, limit: int) -> int:
    """Bytes that `compressed_pixels` unpacks to, about `left` at most; a block in memory at a time."""
    size = 0
    data = compressed_pixels
    while len(data) and size < limit and not inflate.eof:
        size += len(inflate.decompress(data, _BLOCK))
        data = inflate.unconsumed_tail
    return size
