"""Chunks of a Zarr array: those that are absent, cut, or would unpack to too much."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from emqa_dask.archive.checks.decompressed_size import COMPRESSORS, SIZED_COMPRESSORS, check_decompressed_size
from emqa_dask.archive.checks.zarr_files import ZarrFiles
from emqa_dask.archive.source import ReadError

Spans = Sequence[tuple[int, int]]  # first and last + 1 index along each axis of an array
_ABSENT_OFFSET = np.uint64(2**64 - 1)  # offset and length of a chunk that a shard does not have
_HEADER_BYTES = 32  # of a chunk: they contain its stated size


def count_absent_chunks(files: ZarrFiles, array: Any, spans: Spans) -> tuple[int, int]:
    """(chunks that are absent, chunks that there should be) among those of this part of `array`.

    zarr-python reads the fill value there. An inner chunk of a shard counts as a chunk.
    """
    shards = _list_blocks(array.shards or array.chunks, spans)
    if array.shards is None:
        return sum(not files.is_file(_make_chunk_name(array, block)) for block in shards), len(shards)
    chunks_per_shard = [s // c for s, c in zip(array.shards, array.chunks)]
    indices = {
        block: _read_shard_index(files, _make_chunk_name(array, block), array, chunks_per_shard) for block in shards
    }
    chunks = _list_blocks(array.chunks, spans)
    n_absent = 0
    for chunk in chunks:
        index = indices[tuple(c // n for c, n in zip(chunk, chunks_per_shard))]
        n_absent += index is None or bool(
            (index[tuple(c % n for c, n in zip(chunk, chunks_per_shard))] == _ABSENT_OFFSET).all()
        )
    return n_absent, len(chunks)


def check_chunks(files: ZarrFiles, array: Any, spans: Spans) -> None:
    """ReadError for a chunk of this part of `array` that must not be decoded.

    Blosc reads on behind the end of a chunk that is shorter than its header says. Chunks within shards can unpack to
    any size.
    """
    if array.shards is not None:
        _check_shards(files, array, spans)
        return
    codecs = [getattr(array.metadata, "compressor", None), *getattr(array.metadata, "codecs", ())]
    if not any(type(codec).__name__.startswith("Blosc") for codec in codecs):
        return
    for block in _list_blocks(array.chunks, spans):
        name = _make_chunk_name(array, block)
        if files.is_file(name):
            check_blosc_file(files, name)


def check_blosc_file(files: ZarrFiles, name: str) -> None:
    """ReadError where a Blosc buffer is shorter than it says."""
    head = files.read(name, 16)
    n_bytes = files.get_size(name)
    n_stated = int.from_bytes(head[12:16], "little") if len(head) == 16 else 16
    if n_bytes < n_stated:
        chunk_name = name.rpartition("/")[2]
        raise ReadError(f"Zarr chunks are broken: {chunk_name} ends after {n_bytes:,} of {n_stated:,} bytes")


def _check_shards(files: ZarrFiles, array: Any, spans: Spans) -> None:
    """ReadError where a chunk in a shard unpacks to much more than it should."""
    names = [type(c).__name__.removesuffix("Codec").lower() for c in _find_sharding_codec(array).codecs]
    compressors = [name for name in names if name in COMPRESSORS]
    if not compressors:
        return
    n_bytes = math.prod(array.chunks) * np.dtype(array.dtype).itemsize
    chunks_per_shard = [s // c for s, c in zip(array.shards, array.chunks)]
    for block in _list_blocks(array.shards, spans):
        name = _make_chunk_name(array, block)
        index = _read_shard_index(files, name, array, chunks_per_shard)
        size = files.get_size(name) if index is not None else 0
        for offset, length in [] if index is None else index.reshape(-1, 2).tolist():
            if length and offset + length <= size:
                n_read = min(length, _HEADER_BYTES) if compressors[0] in SIZED_COMPRESSORS else length
                data = files.read(name, n_read, offset)
                check_decompressed_size(compressors[0], data, n_bytes, name)


def _list_blocks(sizes: Sequence[int], spans: Spans) -> list[tuple[int, ...]]:
    """Positions in the grid of blocks of `sizes` that these spans touch."""
    return list(itertools.product(*(range(a // n, math.ceil(b / n)) for (a, b), n in zip(spans, sizes))))


def _make_chunk_name(array: Any, block: tuple[int, ...]) -> str:
    key = array.metadata.encode_chunk_key(block)
    return f"{array.path}/{key}" if array.path else key


def _find_sharding_codec(array: Any) -> Any:
    return next(c for c in array.metadata.codecs if type(c).__name__ == "ShardingCodec")


def _read_shard_index(files: ZarrFiles, name: str, array: Any, chunk_shape: list[int]) -> np.ndarray | None:
    """(..., 2) offsets and lengths of a shard's chunks; None where there is no such file.

    An index that is not plain (compressed, say) is left to zarr-python: none of its chunks counts as absent.
    """
    if not files.is_file(name):
        return None
    codec = _find_sharding_codec(array)
    names = [type(c).__name__ for c in codec.index_codecs]
    n_bytes = 16 * math.prod(chunk_shape)
    if names not in (["BytesCodec"], ["BytesCodec", "Crc32cCodec"]):
        return np.zeros((*chunk_shape, 2), np.uint64)
    tail = n_bytes + (4 if len(names) == 2 else 0)
    is_last = str(getattr(codec.index_location, "value", codec.index_location)) == "end"
    data = files.read(name, n_bytes, -tail if is_last else 0)
    if len(data) < n_bytes:  # zarr-python says that it is broken
        return np.zeros((*chunk_shape, 2), np.uint64)
    endian = getattr(codec.index_codecs[0].endian, "value", "little")
    return np.frombuffer(data, "<u8" if endian == "little" else ">u8").reshape(*chunk_shape, 2)
