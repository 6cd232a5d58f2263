"""absent_chunks(): chunks of a Zarr array that were lost or never written; check_blosc(): those that were cut."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

from emqa_dask.archive.source import ReadError

_ABSENT_OFFSET = np.uint64(2**64 - 1)  # offset and length of a chunk that a shard does not have


def count_absent_chunks(folder: Path, array: Any, plane: tuple[int, ...], y0: int, y1: int) -> tuple[int, int]:
    """(chunks that are absent, chunks that there should be) among those of rows y0:y1 of one plane of `array`.

    zarr-python reads the fill value there. folder: of the array itself. An inner chunk of a shard counts as a chunk.
    """
    shards = _list_blocks(array.shape, array.shards or array.chunks, plane, y0, y1)
    if array.shards is None:
        return sum(not (folder / _make_chunk_key(array, block)).is_file() for block in shards), len(shards)
    chunks_per_shard = [s // c for s, c in zip(array.shards, array.chunks)]
    indices = {
        block: _read_shard_index(folder / _make_chunk_key(array, block), array, chunks_per_shard) for block in shards
    }
    chunks = _list_blocks(array.shape, array.chunks, plane, y0, y1)
    n_absent = 0
    for chunk in chunks:
        index = indices[tuple(c // n for c, n in zip(chunk, chunks_per_shard))]
        n_absent += index is None or bool(
            (index[tuple(c % n for c, n in zip(chunk, chunks_per_shard))] == _ABSENT_OFFSET).all()
        )
    return n_absent, len(chunks)


def check_blosc(folder: Path, array: Any, plane: tuple[int, ...], y0: int, y1: int) -> None:
    """ReadError for a chunk of these rows that is shorter than its Blosc header says: Blosc reads on behind its end."""
    codecs = [getattr(array.metadata, "compressor", None), *getattr(array.metadata, "codecs", ())]
    if array.shards is not None or not any(type(codec).__name__.startswith("Blosc") for codec in codecs):
        return
    for block in _list_blocks(array.shape, array.chunks, plane, y0, y1):
        if (folder / _make_chunk_key(array, block)).is_file():
            check_blosc_file(folder / _make_chunk_key(array, block))


def check_blosc_file(path: Path) -> None:
    """ReadError where a Blosc buffer is shorter than it says."""
    with open(path, "rb") as file:
        head = file.read(16)
        n_bytes = file.seek(0, 2)
    n_stated = int.from_bytes(head[12:16], "little") if len(head) == 16 else 16
    if n_bytes < n_stated:
        raise ReadError(f"Zarr chunks are broken: {path.name} ends after {n_bytes:,} of {n_stated:,} bytes")


def _list_blocks(shape, sizes, plane: tuple[int, ...], y0: int, y1: int) -> list[tuple[int, ...]]:
    """Positions in the grid of blocks of `sizes` that rows y0:y1 of a plane touch."""
    ranges = [range(k // n, k // n + 1) for k, n in zip(plane, sizes)]
    ranges.append(range(y0 // sizes[-2], math.ceil(y1 / sizes[-2])))
    ranges.append(range(math.ceil(shape[-1] / sizes[-1])))
    return list(itertools.product(*ranges))


def _make_chunk_key(array: Any, block: tuple[int, ...]) -> str:
    return array.metadata.encode_chunk_key(block)


def _read_shard_index(path: Path, array: Any, chunk_shape: list[int]) -> np.ndarray | None:
    """(..., 2) offsets and lengths of a shard's chunks; None where there is no such file.

    An index that is not plain (compressed, say) is left to zarr-python: none of its chunks counts as absent.
    """
    if not path.is_file():
        return None
    codec = next(c for c in array.metadata.codecs if type(c).__name__ == "ShardingCodec")
    names = [type(c).__name__ for c in codec.index_codecs]
    n_bytes = 16 * math.prod(chunk_shape)
    if names not in (["BytesCodec"], ["BytesCodec", "Crc32cCodec"]):
        return np.zeros((*chunk_shape, 2), np.uint64)
    tail = n_bytes + (4 if len(names) == 2 else 0)
    with open(path, "rb") as file:
        if str(getattr(codec.index_location, "value", codec.index_location)) == "end":
            file.seek(max(0, file.seek(0, 2) - tail))
        data = file.read(n_bytes)
    if len(data) < n_bytes:  # zarr-python says that it is broken
        return np.zeros((*chunk_shape, 2), np.uint64)
    endian = getattr(codec.index_codecs[0].endian, "value", "little")
    return np.frombuffer(data, "<u8" if endian == "little" else ">u8").reshape(*chunk_shape, 2)
