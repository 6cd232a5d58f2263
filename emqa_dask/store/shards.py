"""One shard file of an OME-Zarr stack: write it in one pass, whole or not at all; read micrographs or windows of it.

The bytes are those of Zarr v3's `sharding_indexed` codec (inner codecs bytes, zstd or blosc, crc32c; the index at the
end, with its crc32c), so any Zarr reader opens them; the tests hold both directions against zarr-python. Why not
zarr-python itself: 3.1 needs the whole shard in memory, reads a shard before it writes it, even all of it, and reads a
missing chunk as black. Specification: zarr-specs.readthedocs.io, v3 codecs, sharding-indexed 1.0.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import google_crc32c
import numpy as np
from numcodecs.abc import Codec

from emqa_dask.store import files

BAND_BYTES = 64 * 2**20  # a chunk is a whole micrograph up to this size, else a band of rows
MAX_SLOTS = 4096  # that find_shard_length() tries; shards of archives with a million images have some tens
_ABSENT = np.uint64(2**64 - 1)


class LostFrame(Exception):
    """A micrograph that can no longer be read from its file."""


@dataclass(frozen=True)
class Grid:
    """Chunks and shards of a stack: (height, width) in px, dtype, rows per chunk, micrographs per shard, codec."""

    height: int
    width: int
    dtype: np.dtype
    rows: int
    shard_length: int
    codec: Codec | None  # numcodecs; None = not compressed

    @property
    def n_bands(self) -> int:
        return -(-self.height // self.rows)


def choose_band_rows(height: int, width: int, itemsize: int) -> int:
    """Rows per chunk: all of them for micrographs up to BAND_BYTES, else an even cut into bands of at most that."""
    bands = -(-height * width * itemsize // BAND_BYTES)
    return -(-height // min(max(bands, 1), height))


def write_shard(uri: str, grid: Grid, frames: Iterable[Iterable[np.ndarray]]) -> int:
    """Write `frames`, each the windows of full rows of one micrograph from top to bottom; gives the shard's bytes.

    One chunk is in memory at a time, besides what `frames` gives. A micrograph whose windows raise LostFrame leaves
    its slot absent. ValueError when windows do not add up to a micrograph of the grid's shape and dtype.
    """
    index = np.full((grid.shard_length * grid.n_bands, 2), _ABSENT, "<u8")
    offset = 0
    with files.write_whole(uri) as stream:
        for slot, windows in enumerate(frames):
            first = slot * grid.n_bands
            try:
                for band, chunk in enumerate(_cut_chunks(windows, grid)):
                    data = _encode_chunk(chunk, grid.codec)
                    stream.write(data)
                    index[first + band] = offset, len(data)
                    offset += len(data)
            except LostFrame:
                index[first : first + grid.n_bands] = _ABSENT
        stream.write(_append_crc(index.tobytes()))
    return offset + index.nbytes + 4


def _cut_chunks(windows: Iterable[np.ndarray], grid: Grid) -> Iterator[np.ndarray]:
    """Chunks of (rows, width), the last one filled up with zeros, from windows of any heights."""
    n_rows = 0
    chunk = None
    for window in windows:
        if window.ndim != 2 or window.shape[1] != grid.width or window.dtype != grid.dtype:
            raise ValueError(f"a window of {window.dtype} {window.shape} in a stack of {grid.dtype} x {grid.width}")
        if len(window) > grid.height - n_rows:
            raise ValueError(f"more than {grid.height} rows")
        while len(window):
            row = n_rows % grid.rows
            if row == 0 and len(window) >= grid.rows:
                yield window[: grid.rows]
                n_new = grid.rows
            else:
                chunk = np.zeros((grid.rows, grid.width), grid.dtype) if row == 0 else chunk
                n_new = min(grid.rows - row, len(window))
                chunk[row : row + n_new] = window[:n_new]
                if row + n_new == grid.rows or n_rows + n_new == grid.height:
                    yield chunk
            n_rows = n_rows + n_new
            window = window[n_new:]
    if n_rows != grid.height:
        raise ValueError(f"{n_rows} rows instead of {grid.height}")


def _encode_chunk(chunk: np.ndarray, codec: Codec | None) -> bytes:
    data = np.ascontiguousarray(chunk).view(np.uint8).reshape(-1)
    return _append_crc(data.tobytes() if codec is None else codec.encode(data))


def _append_crc(data: bytes) -> bytes:
    return data + google_crc32c.value(data).to_bytes(4, "little")


def _has_crc(data: bytes) -> bool:
    return len(data) >= 4 and google_crc32c.value(data[:-4]).to_bytes(4, "little") == data[-4:]


def _strip_crc(data: bytes, name: str) -> memoryview:
    if not _has_crc(data):
        raise OSError(f"{name} is damaged: its checksum does not fit")
    return memoryview(data)[:-4]


def read_micrographs(
    uri: str, grid: Grid, slots: Iterable[int], rows: tuple[int, int] | None = None
) -> Iterator[np.ndarray]:
    """The micrographs (height, width) in `slots` of the shard, or their `rows` [start, stop), one at a time.

    OSError when the shard or a chunk is missing or damaged: never zeros instead of pixels.
    """
    first, last = rows if rows is not None else (0, grid.height)
    if not 0 <= first <= last <= grid.height:
        raise ValueError(f"rows {first}...{last} of a micrograph with {grid.height}")
    fs, path = files.locate(uri)
    try:
        stream = fs.open(path, "rb")
    except FileNotFoundError as error:
        raise OSError(f"{uri} is missing: `emqa triage` on its workspace stores it again") from error
    with stream:
        index = _read_index(stream, uri, grid)
        for slot in slots:
            out = np.empty((last - first, grid.width), grid.dtype)
            for band in range(first // grid.rows, -(-last // grid.rows)):
                _read_band(stream, f"{uri}, micrograph {slot}", index[slot, band], grid, band, out, first)
            yield out


def find_damaged_slots(uri: str, grid: Grid, n_slots: int) -> list[int]:
    """The first `n_slots` slots of the shard whose chunks do not fit their checksums; all where its index does not.

    A slot that is absent is not damaged: it was left so when the shard was written. Nothing is decoded.
    """
    fs, path = files.locate(uri)
    try:
        with fs.open(path, "rb") as stream:
            index = _read_index(stream, uri, grid)
            return [slot for slot in range(n_slots) if not _is_intact(stream, index[slot])]
    except OSError:  # missing, or without a whole index
        return list(range(n_slots))


def find_shard_length(uri: str, bands: int, min_length: int) -> int:
    """The number of slots, `least` or more, whose index fits its checksum at the end of the shard; 0 for none."""
    size = files.read_size(uri)
    lengths = range(min_length, min(size // (16 * bands), MAX_SLOTS) + 1)
    if not lengths:
        return 0
    fs, path = files.locate(uri)
    with fs.open(path, "rb") as stream:
        stream.seek(max(0, size - lengths[-1] * bands * 16 - 4))
        tail = stream.read()
    for length in lengths:
        data = tail[-(length * bands * 16 + 4) :]
        if len(data) == length * bands * 16 + 4 and _has_crc(data):
            return length
    return 0


def _is_intact(stream: BinaryIO, entries: np.ndarray) -> bool:
    """Whether every chunk at `entries` (bands, 2) fits its checksum."""
    for offset, size in entries[entries[:, 0] != _ABSENT]:
        stream.seek(int(offset))
        try:
            _strip_crc(stream.read(int(size)), "")
        except OSError:
            return False
    return True


def _read_index(stream: BinaryIO, uri: str, grid: Grid) -> np.ndarray:
    size = grid.shard_length * grid.n_bands * 16 + 4
    if stream.seek(0, 2) < size:
        raise OSError(f"{uri} is damaged: it is too short for its index")
    stream.seek(-size, 2)
    data = _strip_crc(stream.read(size), f"{uri}, its index")
    return np.frombuffer(data, "<u8").reshape(grid.shard_length, grid.n_bands, 2)


def _read_band(
    stream: BinaryIO, name: str, entry: np.ndarray, grid: Grid, band: int, out: np.ndarray, first: int
) -> None:
    """Decode the chunk at `entry` (offset, size) and copy its part into `out`, whose first row is row `first`."""
    if entry[0] == _ABSENT:
        raise OSError(f"{name} is missing: its file could not be read when the others were stored")
    stream.seek(int(entry[0]))
    data = _strip_crc(stream.read(int(entry[1])), name)
    top = band * grid.rows
    start = max(first, top)
    stop = min(first + len(out), top + grid.rows)
    part = out[start - first : stop - first]
    chunk = part if len(part) == grid.rows else np.empty((grid.rows, grid.width), grid.dtype)
    flat = chunk.view(np.uint8).reshape(-1)
    if grid.codec is None:
        if len(data) != flat.nbytes:
            raise OSError(f"{name} is damaged: {len(data)} bytes instead of {flat.nbytes}")
        flat[:] = np.frombuffer(data, np.uint8)
    else:
        try:
            grid.codec.decode(data, flat)
        except (RuntimeError, ValueError) as error:
            raise OSError(f"{name} is damaged: {error}") from error
    if chunk is not part:
        part[:] = chunk[start - top : stop - top]
