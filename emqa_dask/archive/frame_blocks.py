"""The last block of frames that was decoded: a stack whose chunks hold several frames is decoded once per chunk.

A reader of arrays calls read_plane_of_block() in place of axes.read_plane() in the function that it gives to its Frame:

    read_plane_of_block(array, axes, plane, y0, y1, chunks=array.chunks, key=(str(path), modified_ns, name))

The first rows that are read decode all frames of their chunks. The other frames come from memory, or from a temporary
file where the block is large, until the last rows of the last frame of the array are read or another block is needed,
which takes the memory of the one before. An array may have read_into(index, out), which reads into that memory.
Each thread keeps one block. Survey and storage read the frames of a file in their order, so that one block is enough.
"""

import math
import threading
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emqa_dask.archive.axes import ImageAxes, read_plane
from emqa_dask.archive.block_memory import FileBlock, MemoryBlock, take_memory

MAX_MEMORY_BYTES = 2**28  # of a block in memory: 32 frames of 2048 x 2048 x 2 bytes
MAX_FILE_BYTES = 2**32  # of a block in a temporary file; some ten seconds of decoding
_PIECE_BYTES = 2**26  # decoded at a time while a block is filled


@dataclass(frozen=True)
class _Extent:
    """The frames of a block: first position and number along each axis that counts images; shape of a frame."""

    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    frame_shape: tuple[int, ...]
    is_last: bool  # the array has no frames behind those of the block

    @property
    def n_frames(self) -> int:
        return math.prod(self.lengths)

    def contains(self, plane: tuple[int, ...]) -> bool:
        """Whether `plane` is a frame of the block."""
        return all(
            start <= position < start + n for position, start, n in zip(plane, self.starts, self.lengths, strict=True)
        )

    def get_number(self, plane: tuple[int, ...]) -> int:
        """Position of `plane` among the frames of the block."""
        offsets = tuple(position - start for position, start in zip(plane, self.starts, strict=True))
        return int(np.ravel_multi_index(offsets, self.lengths))


class _LastBlock(threading.local):
    """The block of this thread and what it holds."""

    key: Hashable = None
    extent: _Extent | None = None
    frames: MemoryBlock | FileBlock | None = None


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
    rows = read_last_block(plane, y0, y1, key=key)
    if rows is not None:
        return rows
    extent = _find_extent(array, axes, plane, chunks)
    if extent.n_frames == 1:
        return read_plane(array, axes, plane, y0, y1)
    old_frames = _LAST_BLOCK.frames if _LAST_BLOCK.key == key else None
    _release_block()
    _LAST_BLOCK.frames = _decode_block(array, axes, extent, chunks, old_frames)
    if _LAST_BLOCK.frames is None:
        return read_plane(array, axes, plane, y0, y1)
    _LAST_BLOCK.key = key
    _LAST_BLOCK.extent = extent
    return _read_block_rows(_LAST_BLOCK.frames, extent, plane, y0, y1)


def read_last_block(plane: tuple[int, ...], y0: int, y1: int, *, key: Hashable) -> np.ndarray | None:
    """Rows y0:y1 of one image as read_plane_of_block() gives them, if it is in memory; else None.

    The file does not have to be open.
    """
    frames = _LAST_BLOCK.frames
    extent = _LAST_BLOCK.extent
    if _LAST_BLOCK.key != key or frames is None or extent is None or not extent.contains(plane):
        return None
    return _read_block_rows(frames, extent, plane, y0, y1)


def _read_block_rows(
    frames: MemoryBlock | FileBlock, extent: _Extent, plane: tuple[int, ...], y0: int, y1: int
) -> np.ndarray:
    """Rows of a frame of the block, which is released with the last of them if the array has no later frames."""
    number = extent.get_number(plane)
    rows = frames.read(number, y0, y1)
    if number == extent.n_frames - 1 and y1 == extent.frame_shape[0]:
        if extent.is_last or isinstance(frames, FileBlock):
            _release_block()
        else:  # the next block takes its memory
            _LAST_BLOCK.extent = None
    return rows


def _release_block() -> None:
    _LAST_BLOCK.key = None
    _LAST_BLOCK.extent = None
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
    is_last = all(s + n == int(shape[k]) for s, n, k in zip(starts, lengths, axes.stack, strict=True))
    return _Extent(tuple(starts), tuple(lengths), frame_shape, is_last)


def _count_frames_of_chunk(shape: Sequence[int], axes: ImageAxes, k: int, chunks: Sequence[int] | None) -> int:
    """Frames along axis `k` that are read together: those of a chunk, or all where frames lie interleaved."""
    if chunks is not None:
        return max(1, min(int(chunks[k]), int(shape[k])))
    return 1 if k < min(axes.y, axes.x) else int(shape[k])


def _decode_block(
    array: Any,
    axes: ImageAxes,
    extent: _Extent,
    chunks: Sequence[int] | None,
    old_frames: MemoryBlock | FileBlock | None,
) -> MemoryBlock | FileBlock | None:
    """The frames of `extent`, in the memory of `old_frames` where it fits; None without room for them on the disk."""
    dtype = np.dtype(array.dtype).newbyteorder("=")
    n_bytes = extent.n_frames * math.prod(extent.frame_shape) * dtype.itemsize
    is_in_order = (*axes.stack, axes.y, axes.x) == tuple(range(len(array.shape)))
    if n_bytes <= MAX_MEMORY_BYTES and is_in_order and hasattr(array, "read_into") and array.dtype == dtype:
        block = take_memory(old_frames, (*extent.lengths, *extent.frame_shape), dtype)
        array.read_into(tuple(_make_index(array, axes, extent)), block)
        return MemoryBlock(block.reshape(extent.n_frames, *extent.frame_shape))
    if n_bytes <= MAX_MEMORY_BYTES and is_in_order:
        ((_, rows),) = _iterate_pieces(array, axes, extent, chunks, 2 * MAX_MEMORY_BYTES)  # all rows in one piece
        return MemoryBlock(np.ascontiguousarray(rows, dtype))
    if n_bytes <= MAX_MEMORY_BYTES:
        frames: MemoryBlock | FileBlock = MemoryBlock(np.empty((extent.n_frames, *extent.frame_shape), dtype))
    else:
        frames = FileBlock(extent.frame_shape, dtype)
    for y0, rows in _iterate_pieces(array, axes, extent, chunks, _PIECE_BYTES):
        try:
            frames.write(y0, rows.astype(dtype, copy=False))
        except OSError:
            return None
    return frames


def _make_index(array: Any, axes: ImageAxes, extent: _Extent) -> list[Any]:
    """All rows of the frames of the block, as an index of the array."""
    index: list[Any] = [slice(None)] * len(array.shape)
    for k, start, length in zip(axes.stack, extent.starts, extent.lengths, strict=True):
        index[k] = slice(start, start + length)
    if axes.colour is not None:
        index[axes.colour] = slice(0, 3)
    return index


def _iterate_pieces(
    array: Any, axes: ImageAxes, extent: _Extent, chunks: Sequence[int] | None, piece_bytes: int
) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, rows of all frames of the block), at most about `piece_bytes` at a time and whole chunks."""
    height = extent.frame_shape[0]
    row_bytes = extent.n_frames * math.prod(extent.frame_shape[1:]) * array.dtype.itemsize
    chunk_rows = min(height, int(chunks[axes.y])) if chunks is not None else 1
    step = max(1, piece_bytes // max(1, row_bytes) // chunk_rows) * chunk_rows
    image_axes = (axes.y, axes.x) if axes.colour is None else (axes.y, axes.x, axes.colour)
    index = _make_index(array, axes, extent)
    for y0 in range(0, height, step):
        index[axes.y] = slice(y0, min(y0 + step, height))
        piece = array[tuple(index)]
        if hasattr(piece, "compute"):  # a dask array; in this thread, whatever scheduler is set
            piece = piece.compute(scheduler="synchronous")
        piece = np.transpose(np.asarray(piece), (*axes.stack, *image_axes))
        yield y0, piece.reshape(extent.n_frames, *piece.shape[len(axes.stack) :])
