"""The last block of frames that was decoded: a stack whose chunks hold several frames is decoded once per chunk.

A reader of arrays calls read_plane_of_block() in place of axes.read_plane() in the function that it gives to its Frame:

    read_plane_of_block(array, axes, plane, y0, y1, chunks=array.chunks, key=(str(path), modified_ns, name))

The first rows that are read decode all frames of their chunks. The other frames come from memory, or from a temporary
file where the block is large, until the last rows of the last frame of the block are read or another block is needed.
Each thread keeps one block. Survey and storage read the frames of a file in their order, so that one block is enough.
"""

import math
import tempfile
import threading
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from emqa_dask.archive.axes import ImageAxes, read_plane

MAX_MEMORY_BYTES = 2**28  # of a block in memory: 32 frames of 2048 x 2048 x 2 bytes
MAX_FILE_BYTES = 2**32  # of a block in a temporary file; some ten seconds of decoding
_PIECE_BYTES = 2**26  # decoded at a time while a block is filled


@dataclass(frozen=True)
class _Extent:
    """The frames of a block: first position and number along each axis that counts images; shape of a frame."""

    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    frame_shape: tuple[int, ...]

    @property
    def n_frames(self) -> int:
        return math.prod(self.lengths)

    def get_number(self, plane: tuple[int, ...]) -> int:
        """Position of `plane` among the frames of the block."""
        offsets = tuple(position - start for position, start in zip(plane, self.starts, strict=True))
        return int(np.ravel_multi_index(offsets, self.lengths))


class _MemoryBlock:
    """Decoded frames in memory."""

    def __init__(self, frames: np.ndarray):
        self._frames = frames  # (n_frames, h, w) or (n_frames, h, w, 3)

    def write(self, y0: int, rows: np.ndarray) -> None:
        """Keep `rows` (n_frames, h, w) or (n_frames, h, w, 3), which begin at row `y0`."""
        self._frames[:, y0 : y0 + rows.shape[1]] = rows

    def read(self, number: int, y0: int, y1: int) -> np.ndarray:
        return self._frames[number, y0:y1].copy()


class _FileBlock:
    """Decoded frames in a temporary file without a name, which the system removes with the process at the latest."""

    def __init__(self, extent: _Extent, dtype: np.dtype):
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="emqa-")  # noqa: SIM115 - open as long as the block
        self._dtype = dtype
        self._frame_shape = extent.frame_shape
        self._row_bytes = math.prod(extent.frame_shape[1:]) * dtype.itemsize

    def __del__(self) -> None:
        self._file.close()

    def _seek(self, number: int, y: int) -> None:
        self._file.seek((number * self._frame_shape[0] + y) * self._row_bytes)

    def write(self, y0: int, rows: np.ndarray) -> None:
        for number, frame_rows in enumerate(rows):
            self._seek(number, y0)
            self._file.write(np.ascontiguousarray(frame_rows).data)

    def read(self, number: int, y0: int, y1: int) -> np.ndarray:
        self._seek(number, y0)
        rows = np.empty((y1 - y0, *self._frame_shape[1:]), self._dtype)
        if self._file.readinto(rows.data.cast("B")) != rows.nbytes:  # type: ignore[attr-defined]
            raise OSError("the temporary file of decoded frames is shorter than it was written")
        return rows


class _LastBlock(threading.local):
    """The block of this thread and what it holds."""

    key: Hashable = None
    frames: _MemoryBlock | _FileBlock | None = None


_LAST_BLOCK = _LastBlock()


def read_plane_of_block(
    array: Any,
    axes: ImageAxes,
    plane: tuple[int, ...],
    y0: int,
    y1: int,
    *,
    chunks: Sequence[int] | None,
    key: Hashable,
) -> np.ndarray:
    """Rows y0:y1 of one image, equal to axes.read_plane(), decoding each chunk of a stack once.

    chunks: of `array`, one length per axis; None for an array stored in one piece. key: identifies the array and its
    version (path, time of modification, name in the file). The result belongs to the caller.
    """
    extent = _find_extent(array, axes, plane, chunks)
    if extent.n_frames == 1:
        return read_plane(array, axes, plane, y0, y1)
    block_key = (key, extent)
    if _LAST_BLOCK.key != block_key or _LAST_BLOCK.frames is None:
        _release_block()
        frames = _decode_block(array, axes, extent, chunks)
        if frames is None:
            return read_plane(array, axes, plane, y0, y1)
        _LAST_BLOCK.key = block_key
        _LAST_BLOCK.frames = frames
    number = extent.get_number(plane)
    rows = _LAST_BLOCK.frames.read(number, y0, y1)
    if number == extent.n_frames - 1 and y1 == extent.frame_shape[0]:
        _release_block()
    return rows


def _release_block() -> None:
    _LAST_BLOCK.key = None
    _LAST_BLOCK.frames = None


def _find_extent(array: Any, axes: ImageAxes, plane: tuple[int, ...], chunks: Sequence[int] | None) -> _Extent:
    """The block that `plane` is in: the frames of its chunks, or a part of them where these are over MAX_FILE_BYTES."""
    shape = array.shape
    n_samples = () if axes.colour is None else (min(3, int(shape[axes.colour])),)
    frame_shape = (int(shape[axes.y]), int(shape[axes.x]), *n_samples)
    frame_bytes = math.prod(frame_shape) * array.dtype.itemsize
    lengths = [_count_frames_of_chunk(shape, axes, k, chunks) for k in axes.stack]
    slowest = next((j for j, n in enumerate(lengths) if n > 1), len(lengths))  # frames follow in the order of a C array
    lengths[slowest + 1 :] = [int(shape[k]) for k in axes.stack[slowest + 1 :]]
    chunk_starts = [position // n * n for position, n in zip(plane, lengths, strict=True)]
    while math.prod(lengths) > 1 and math.prod(lengths) * frame_bytes > MAX_FILE_BYTES:
        slowest = next(j for j, n in enumerate(lengths) if n > 1)
        lengths[slowest] = (lengths[slowest] + 1) // 2
    starts = [c + (p - c) // n * n for c, p, n in zip(chunk_starts, plane, lengths, strict=True)]
    lengths = [min(n, int(shape[k]) - start) for n, k, start in zip(lengths, axes.stack, starts, strict=True)]
    return _Extent(tuple(starts), tuple(lengths), frame_shape)


def _count_frames_of_chunk(shape: Sequence[int], axes: ImageAxes, k: int, chunks: Sequence[int] | None) -> int:
    """Frames along axis `k` that are read together: those of a chunk, or all where frames lie interleaved."""
    if chunks is not None:
        return max(1, min(int(chunks[k]), int(shape[k])))
    return 1 if k < min(axes.y, axes.x) else int(shape[k])


def _decode_block(
    array: Any, axes: ImageAxes, extent: _Extent, chunks: Sequence[int] | None
) -> _MemoryBlock | _FileBlock | None:
    """The frames of `extent`; None where there is no room for them on the disk."""
    dtype = np.dtype(array.dtype).newbyteorder("=")
    n_bytes = extent.n_frames * math.prod(extent.frame_shape) * dtype.itemsize
    is_in_order = (*axes.stack, axes.y, axes.x) == tuple(range(len(array.shape)))
    if n_bytes <= MAX_MEMORY_BYTES and is_in_order:
        ((_, rows),) = _iterate_pieces(array, axes, extent, chunks, 2 * MAX_MEMORY_BYTES)  # all rows in one piece
        return _MemoryBlock(np.ascontiguousarray(rows, dtype))
    if n_bytes <= MAX_MEMORY_BYTES:
        frames: _MemoryBlock | _FileBlock = _MemoryBlock(np.empty((extent.n_frames, *extent.frame_shape), dtype))
    else:
        frames = _FileBlock(extent, dtype)
    for y0, rows in _iterate_pieces(array, axes, extent, chunks, _PIECE_BYTES):
        try:
            frames.write(y0, rows.astype(dtype, copy=False))
        except OSError:
            return None
    return frames


def _iterate_pieces(
    array: Any, axes: ImageAxes, extent: _Extent, chunks: Sequence[int] | None, piece_bytes: int
) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, rows of all frames of the block), at most about `piece_bytes` at a time and whole chunks."""
    height = extent.frame_shape[0]
    row_bytes = extent.n_frames * math.prod(extent.frame_shape[1:]) * array.dtype.itemsize
    chunk_rows = min(height, int(chunks[axes.y])) if chunks is not None else 1
    step = max(1, piece_bytes // max(1, row_bytes) // chunk_rows) * chunk_rows
    image_axes = (axes.y, axes.x) if axes.colour is None else (axes.y, axes.x, axes.colour)
    index: list[Any] = [slice(None)] * len(array.shape)
    for k, start, length in zip(axes.stack, extent.starts, extent.lengths, strict=True):
        index[k] = slice(start, start + length)
    if axes.colour is not None:
        index[axes.colour] = slice(0, 3)
    for y0 in range(0, height, step):
        index[axes.y] = slice(y0, min(y0 + step, height))
        piece = array[tuple(index)]
        if hasattr(piece, "compute"):  # a dask array; in this thread, whatever scheduler is set
            piece = piece.compute(scheduler="synchronous")
        piece = np.transpose(np.asarray(piece), (*axes.stack, *image_axes))
        yield y0, piece.reshape(extent.n_frames, *piece.shape[len(axes.stack) :])
