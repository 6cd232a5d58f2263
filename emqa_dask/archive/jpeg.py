"""find_jpeg_damage(): whether all compressed pixels of a JPEG are there, of which libjpeg warns nobody in Python."""

import math
import struct
from dataclasses import dataclass, field

import numpy as np

# Frames whose codes we follow: baseline, extended and progressive Huffman. Pillow reads no others but arithmetic ones.
_HUFFMAN_FRAMES = (0xC0, 0xC1, 0xC2)
_OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_MARKERS_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))  # markers without a length
_DAMAGE_TEXTS = {
    1: "the data end early",
    2: "bits that are no Huffman code",
    3: "a block with more than its 64 coefficients",
    4: "bytes that no pixel uses",
    5: "no restart marker where one has to be",
    6: "the data end in the middle of a code",
    7: "a brightness that no image has",
}


class _UnsupportedJpeg(Exception):
    """A kind of JPEG whose codes are not followed."""


@dataclass
class _JpegState:
    """What the segments of a JPEG have said so far."""

    lookups: np.ndarray = field(default_factory=lambda: np.zeros((8, 65536), np.uint16))
    quantisation: dict[int, int] = field(default_factory=dict)  # table: step of the DC coefficient
    interval: int = 0
    is_progressive: bool = False
    precision: int = 8
    size: tuple[int, int] = (0, 0)
    components: dict[int, tuple[int, int, int, int]] = field(default_factory=dict)  # id: place, across, down, table
    first_blocks: list[int] = field(default_factory=list)
    masks: np.ndarray = field(default_factory=lambda: np.zeros(1, np.uint64))
    n_scans: int = 0


def find_jpeg_damage(data: bytes, tables: bytes = b"") -> str:
    """What is wrong with the compressed pixels of a JPEG, one phrase; "" where all are whole, or cannot be followed.

    tables: a stream that only defines tables (TIFF's JPEGTables). Every code of every scan is followed: a scan that
    ends early, or late, or has bits that are no code, is damaged. Changed bits that leave all codes valid cannot be
    seen, since JPEG has no checksum.
    """
    stream = _JpegState()
    try:
        if tables:
            _read_segments(tables, stream)
        return _read_segments(data, stream)
    except _UnsupportedJpeg:
        return ""
    except (struct.error, IndexError, ValueError, KeyError, ArithmeticError):
        return "its segments are broken" if stream.n_scans else ""  # else the decoder itself says so


def _read_segments(data: bytes, stream: _JpegState) -> str:
    from emqa_dask.archive.jpeg_codes import find_marker

    array = np.frombuffer(data, np.uint8)
    at = 2
    while True:
        at = find_marker(array, at)
        if at >= len(data):
            return "its end is missing" if stream.n_scans else ""
        code = data[at + 1]
        at += 2
        if code == 0xD9:
            return ""
        if code in _MARKERS_WITHOUT_LENGTH:
            continue
        length = struct.unpack_from(">H", data, at)[0]
        body = data[at + 2 : at + length]
        at += length
        if code == 0xC4:
            _read_huffman_tables(body, stream)
        elif code == 0xDB:
            _read_quantisation(body, stream)
        elif code == 0xDD:
            stream.interval = struct.unpack(">H", body)[0]
        elif code in _HUFFMAN_FRAMES:
            _read_frame(body, stream, code == 0xC2)
        elif code in _OTHER_FRAMES or code == 0xDC:
            raise _UnsupportedJpeg
        elif code == 0xDA:
            end = find_marker(array, at)
            trouble = _check_scan(array, at, end, body, stream)
            if trouble:
                return trouble
            at = end


def _read_huffman_tables(body: bytes, stream: _JpegState) -> None:
    at = 0
    while at < len(body):
        kind = body[at] >> 4
        number = body[at] & 15
        if kind > 1 or number > 3:
            raise ValueError("a table of codes that no scan can name")
        counts = body[at + 1 : at + 17]
        symbols = body[at + 17 : at + 17 + sum(counts)]
        lookup = np.zeros(65536, np.uint16)
        code = 0
        k = 0
        for bits, count in enumerate(counts, 1):
            for _ in range(count):
                lookup[code << (16 - bits) : (code + 1) << (16 - bits)] = bits << 8 | symbols[k]
                code = code + 1
                k = k + 1
            code <<= 1
        stream.lookups[4 * kind + number] = lookup
        at += 17 + k


def _read_quantisation(body: bytes, stream: _JpegState) -> None:
    at = 0
    while at < len(body):
        is_wide = body[at] >> 4
        number = body[at] & 15
        stream.quantisation[number] = struct.unpack_from(">H" if is_wide else ">B", body, at + 1)[0]
        at += 1 + 64 * (2 if is_wide else 1)


def _read_frame(body: bytes, stream: _JpegState, is_progressive: bool) -> None:
    stream.precision, height, width, n = struct.unpack_from(">BHHB", body)
    if stream.components or n > 4:
        raise _UnsupportedJpeg
    stream.is_progressive = is_progressive
    stream.size = (height, width)
    if not height or not width:  # a height that comes later
        raise _UnsupportedJpeg
    for place in range(n):
        identity, factors, table = body[6 + 3 * place : 9 + 3 * place]
        stream.components[identity] = (place, factors >> 4, factors & 15, table)
    if len(stream.components) < n:
        raise ValueError("two components of one name")
    n_blocks = 0
    for _, across, down, _ in stream.components.values():
        rows, columns = _count_units(stream)
        stream.first_blocks.append(n_blocks)
        n_blocks += rows * down * columns * across
    stream.masks = np.zeros(n_blocks if is_progressive else 1, np.uint64)


def _count_units(stream: _JpegState) -> tuple[int, int]:
    """Rows and columns of minimum coded units of interleaved scans."""
    most_across = max(c[1] for c in stream.components.values())
    most_down = max(c[2] for c in stream.components.values())
    return math.ceil(stream.size[0] / (8 * most_down)), math.ceil(stream.size[1] / (8 * most_across))


def _check_scan(array: np.ndarray, start: int, end: int, body: bytes, stream: _JpegState) -> str:
    """Follow the scan whose header is `body`."""
    from emqa_dask.archive.jpeg_codes import follow_scan

    n = body[0]
    first, final, bits = body[1 + 2 * n : 4 + 2 * n]
    rows, columns = _count_units(stream)
    grid = (rows, columns)
    parts = []
    first_blocks = []
    for k in range(n):
        identity, tables = body[1 + 2 * k : 3 + 2 * k]
        place, across, down, table = stream.components[identity]
        limit = (8 << stream.precision >> 1) // max(stream.quantisation.get(table, 1), 1) + 1
        part = [across, down, tables >> 4 & 3, tables & 3, columns * across, limit]
        if n == 1:  # a scan of one component has a block for a unit, and only those that hold pixels
            most_down = max(c[2] for c in stream.components.values())
            most_across = max(c[1] for c in stream.components.values())
            height = math.ceil(stream.size[0] * down / most_down)
            width = math.ceil(stream.size[1] * across / most_across)
            grid = (math.ceil(height / 8), math.ceil(width / 8))
            part[:2] = 1, 1
        parts.append(part)
        first_blocks.append(stream.first_blocks[place])
    is_mixed = stream.is_progressive and first == 0 and final > 0
    if (n > 1 and first > 0) or final > 63 or first > final or is_mixed:
        return "a scan of an impossible range of coefficients"
    bands = (int(first), int(final) if stream.is_progressive else 63, bits >> 4, bits & 15)
    found, unit = follow_scan(
        array, start, end, stream.lookups, np.array(parts, np.int64), grid, stream.interval, bands,
        stream.is_progressive, stream.masks, np.array(first_blocks, np.int64),
    )  # fmt: skip
    stream.n_scans += 1
    if not found:
        return ""
    return f"{_DAMAGE_TEXTS[found]}, at block {unit:,} of {grid[0] * grid[1]:,} of scan {stream.n_scans}"
