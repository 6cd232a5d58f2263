"""Damage of the compressed pixels of a JPEG, which libjpeg does not report to Python."""

import math
import struct
from dataclasses import dataclass, field

import numpy as np

# Frames whose codes are followed: baseline, extended and progressive Huffman. Of others Pillow reads arithmetic ones.
_HUFFMAN_FRAMES = (0xC0, 0xC1, 0xC2)
_OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_MARKERS_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))
_END_OF_IMAGE = 0xD9
_START_OF_SCAN = 0xDA
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
    """Contents of the segments of a JPEG that were read so far."""

    huffman_tables: np.ndarray = field(default_factory=lambda: np.zeros((8, 65536), np.uint16))
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
    """Phrase for the damage of the compressed pixels of a JPEG; "" for none, and for kinds that cannot be followed.

    tables: a stream that only defines tables (TIFF's JPEGTables). Every code of every scan is followed: a scan that
    ends early, or late, or has bits that are no code, is damaged. Changed bits that leave all codes valid cannot be
    seen, since JPEG has no checksum.
    """
    state = _JpegState()
    try:
        if tables:
            _read_segments(tables, state)
        return _read_segments(data, state)
    except _UnsupportedJpeg:
        return ""
    except (struct.error, IndexError, ValueError, KeyError, ArithmeticError):
        return "its segments are broken" if state.n_scans else ""  # else the decoder itself says so


def _read_segments(data: bytes, state: _JpegState) -> str:
    """Phrase for the damage of the first damaged scan; "" for none."""
    from emqa_dask.archive.checks.jpeg_codes import find_marker

    array = np.frombuffer(data, np.uint8)
    position = 2
    while True:
        position = find_marker(array, position)
        if position >= len(data):
            return "its end is missing" if state.n_scans else ""
        code = data[position + 1]
        position += 2
        if code == _END_OF_IMAGE:
            return ""
        if code in _MARKERS_WITHOUT_LENGTH:
            continue
        length = struct.unpack_from(">H", data, position)[0]
        segment_bytes = data[position + 2 : position + length]
        position += length
        if code != _START_OF_SCAN:
            _read_segment(code, segment_bytes, state)
            continue
        end = find_marker(array, position)
        damage = _check_scan(array, position, end, segment_bytes, state)
        if damage:
            return damage
        position = end


def _read_segment(code: int, segment_bytes: bytes, state: _JpegState) -> None:
    """Add the contents of a segment to `state`; _UnsupportedJpeg for a kind of JPEG that cannot be followed."""
    if code in _OTHER_FRAMES or code == 0xDC:
        raise _UnsupportedJpeg
    if code in _HUFFMAN_FRAMES:
        _read_frame(segment_bytes, state, code == 0xC2)
    match code:
        case 0xC4:
            _read_huffman_tables(segment_bytes, state)
        case 0xDB:
            _read_quantisation(segment_bytes, state)
        case 0xDD:
            state.interval = struct.unpack(">H", segment_bytes)[0]


def _read_huffman_tables(segment_bytes: bytes, state: _JpegState) -> None:
    position = 0
    while position < len(segment_bytes):
        table_class = segment_bytes[position] >> 4  # 0: DC, 1: AC
        number = segment_bytes[position] & 15
        if table_class > 1 or number > 3:
            raise ValueError("a table of codes that no scan can name")
        counts = segment_bytes[position + 1 : position + 17]
        symbols = segment_bytes[position + 17 : position + 17 + sum(counts)]
        state.huffman_tables[4 * table_class + number] = _make_lookup(counts, symbols)
        position += 17 + sum(counts)


def _make_lookup(counts: bytes, symbols: bytes) -> np.ndarray:
    """(65536,) uint16: for 16 bits that start with a code, its length times 256, plus its symbol; 0 for no code."""
    lookup = np.zeros(65536, np.uint16)
    code = 0
    k = 0
    for n_bits, count in enumerate(counts, 1):
        for _ in range(count):
            lookup[code << (16 - n_bits) : (code + 1) << (16 - n_bits)] = n_bits << 8 | symbols[k]
            code = code + 1
            k = k + 1
        code <<= 1
    return lookup


def _read_quantisation(segment_bytes: bytes, state: _JpegState) -> None:
    position = 0
    while position < len(segment_bytes):
        is_wide = segment_bytes[position] >> 4
        number = segment_bytes[position] & 15
        state.quantisation[number] = struct.unpack_from(">H" if is_wide else ">B", segment_bytes, position + 1)[0]
        position += 1 + 64 * (2 if is_wide else 1)


def _read_frame(segment_bytes: bytes, state: _JpegState, is_progressive: bool) -> None:
    fields = struct.unpack_from(">BHHB", segment_bytes)
    state.precision = fields[0]
    height, width, n = fields[1:]
    if state.components or n > 4:
        raise _UnsupportedJpeg
    state.is_progressive = is_progressive
    state.size = (height, width)
    if not height or not width:  # a height that comes later
        raise _UnsupportedJpeg
    for component_number in range(n):
        identity, factors, table = segment_bytes[6 + 3 * component_number : 9 + 3 * component_number]
        state.components[identity] = (component_number, factors >> 4, factors & 15, table)
    if len(state.components) < n:
        raise ValueError("two components of one name")
    n_blocks = 0
    for _, n_across, n_down, _ in state.components.values():
        rows, columns = _count_units(state)
        state.first_blocks.append(n_blocks)
        n_blocks += rows * n_down * columns * n_across
    state.masks = np.zeros(n_blocks if is_progressive else 1, np.uint64)


def _count_units(state: _JpegState) -> tuple[int, int]:
    """Rows and columns of minimum coded units of interleaved scans."""
    max_across = max(c[1] for c in state.components.values())
    max_down = max(c[2] for c in state.components.values())
    return math.ceil(state.size[0] / (8 * max_down)), math.ceil(state.size[1] / (8 * max_across))


def _check_scan(array: np.ndarray, start: int, end: int, segment_bytes: bytes, state: _JpegState) -> str:
    """Phrase for the damage of the scan with header `segment_bytes`; "" for none."""
    from emqa_dask.archive.checks.jpeg_codes import follow_scan

    n = segment_bytes[0]
    first, final, bits = segment_bytes[1 + 2 * n : 4 + 2 * n]
    is_mixed = state.is_progressive and first == 0 and final > 0
    components, first_blocks, grid = _scan_components(segment_bytes, state)
    if (n > 1 and first > 0) or final > 63 or first > final or is_mixed:
        return "a scan of an impossible range of coefficients"
    bands = (int(first), int(final) if state.is_progressive else 63, bits >> 4, bits & 15)
    damage, unit = follow_scan(
        array, start, end, state.huffman_tables, np.array(components, np.int64), grid, state.interval, bands,
        state.is_progressive, state.masks, np.array(first_blocks, np.int64),
    )  # fmt: skip
    state.n_scans += 1
    if not damage:
        return ""
    return f"{_DAMAGE_TEXTS[damage]}, at block {unit:,} of {grid[0] * grid[1]:,} of scan {state.n_scans}"


def _scan_components(segment_bytes: bytes, state: _JpegState) -> tuple[list[list[int]], list[int], tuple[int, int]]:
    """(components, first_blocks, grid) of a scan, as follow_scan() takes them."""
    n = segment_bytes[0]
    grid = _count_units(state)
    n_columns = grid[1]
    components = []
    first_blocks = []
    for k in range(n):
        identity, tables = segment_bytes[1 + 2 * k : 3 + 2 * k]
        component_number, *factors, table = state.components[identity]
        n_across, n_down = factors
        limit = (8 << state.precision >> 1) // max(state.quantisation.get(table, 1), 1) + 1
        component = [n_across, n_down, tables >> 4 & 3, tables & 3, n_columns * n_across, limit]
        if n == 1:  # in a scan of one component a unit is a block, and only blocks with pixels are in it
            grid = _count_blocks(state, n_across, n_down)
            component[:2] = 1, 1
        components.append(component)
        first_blocks.append(state.first_blocks[component_number])
    return components, first_blocks, grid


def _count_blocks(state: _JpegState, n_across: int, n_down: int) -> tuple[int, int]:
    """Rows and columns of blocks with pixels of one component."""
    max_across = max(c[1] for c in state.components.values())
    max_down = max(c[2] for c in state.components.values())
    height = math.ceil(state.size[0] * n_down / max_down)
    width = math.ceil(state.size[1] * n_across / max_across)
    return math.ceil(height / 8), math.ceil(width / 8)
