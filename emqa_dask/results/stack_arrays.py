"""A stack as a dask.array of axes (n, y, x): only the micrographs and rows that a result needs are read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from emqa_dask.partition import Partition
from emqa_dask.store import shards, stacks
from emqa_dask.store.shards import Grid

CHUNK_BYTES = 128 * 2**20  # of a chunk of the array, at most, unless one micrograph's rows of a Zarr chunk have more


@dataclass(frozen=True)
class StackReader:
    """Reads micrographs as numpy arrays; OSError when one is missing or damaged."""

    root: str
    stack: str
    grid: Grid
    indices: tuple[int, ...]  # of the micrographs, on the n axis of the stored stack

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n, y, x)."""
        return len(self.indices), self.grid.height, self.grid.width

    @property
    def dtype(self) -> np.dtype:
        """As acquired."""
        return self.grid.dtype

    @property
    def ndim(self) -> int:
        """Always 3."""
        return 3

    def __getitem__(self, key: tuple) -> NDArray:
        """The pixels at `key`: for each axis a slice or an index; axes with an index are dropped."""
        key = key if isinstance(key, tuple) else (key,)
        keys = (*key, *[slice(None)] * (3 - len(key)))
        y_key = keys[1] if isinstance(keys[1], slice) else slice(keys[1], keys[1] + 1)
        rows = range(self.grid.height)[y_key]
        selected = np.atleast_1d(np.asarray(self.indices, dtype=np.int64)[keys[0]])
        images = np.empty((len(selected), len(rows), self.grid.width), self.dtype)
        if images.size:
            first, last = min(rows), max(rows) + 1
            for image, window in zip(images, self._read(selected.tolist(), (first, last)), strict=True):
                image[:] = window[np.asarray(rows) - first]
        is_scalar = [not isinstance(axis_key, slice | list | np.ndarray) for axis_key in keys]
        return images[0 if is_scalar[0] else slice(None), 0 if is_scalar[1] else slice(None)][..., keys[2]]

    def _read(self, indices: Sequence[int], rows: tuple[int, int]) -> Iterator[NDArray]:
        """Windows of full rows of the micrographs at `indices`; a shard is opened once for neighbours."""
        length = self.grid.shard_length
        position = 0
        while position < len(indices):
            shard = indices[position] // length
            end = position
            while end < len(indices) and indices[end] // length == shard:
                end += 1
            partition = Partition(self.stack, shard * length, (shard + 1) * length)
            uri = stacks.shard_uri(self.root, partition, length)
            yield from shards.read_micrographs(uri, self.grid, [i % length for i in indices[position:end]], rows)
            position = end


def open_stack(root: str, stack: str, indices: Sequence[int]) -> da.Array:
    """Micrographs at `indices` (sorted) of a stack, as an array (n, y, x) with the dtype as acquired."""
    reader = StackReader(root, stack, stacks.read_grid(root, stack), tuple(indices))
    return da.from_array(reader, chunks=_choose_chunks(reader), asarray=False, meta=np.empty((0, 0, 0), reader.dtype))


def _choose_chunks(reader: StackReader) -> tuple[tuple[int, ...], int, int]:
    """Chunks of whole partitions as far as CHUNK_BYTES allows; of Zarr chunks where micrographs are larger."""
    grid = reader.grid
    n_per_chunk = max(1, CHUNK_BYTES // (grid.rows * grid.width * grid.dtype.itemsize))
    _, n_in_shards = np.unique(np.asarray(reader.indices, dtype=np.int64) // grid.shard_length, return_counts=True)
    lengths: list[int] = []
    for n in n_in_shards.tolist():
        lengths += [n_per_chunk] * (n // n_per_chunk) + ([n % n_per_chunk] if n % n_per_chunk else [])
    return tuple(lengths) or (0,), grid.rows, grid.width
