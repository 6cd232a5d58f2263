"""What outgrows memory while it is made: bytes put aside on disk, and rows that come back in order."""

import os
import tempfile
from bisect import bisect_left
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

ROWS_PER_RUN = 32_768  # rows that are in memory before they are put aside


class SpillFile:
    """Bytes in a file without a name: it goes with the program, however that ends. `folder` says on which disk."""

    def __init__(self, folder: str | None = None):
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        self.n_bytes = 0

    def append(self, data: bytes | memoryview) -> int:
        """Append `data`; gives the offset at which it lies."""
        offset = self.n_bytes
        unwritten = memoryview(data).cast("B")
        self._file.seek(offset)
        while unwritten:
            unwritten = unwritten[self._file.write(unwritten) :]
        self.n_bytes = self._file.tell()
        return offset

    def get(self, offset: int, n_bytes: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(n_bytes)

    def get_many(self, offsets: Sequence[int], lengths: Sequence[int]) -> bytes:
        """Bytes at several places, one after the other."""
        if not hasattr(os, "pread"):
            return b"".join(map(self.get, offsets, lengths))
        descriptor = self._file.fileno()
        return b"".join([os.pread(descriptor, n_bytes, offset) for offset, n_bytes in zip(offsets, lengths)])

    def close(self) -> None:
        self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.close()


class RangeSort(SpillFile):
    """A table of `schema` in any order in, sorted by `sort_columns` out, each of them ascending and never null.

    The sorted keys `limits` divide it into ranges, each of which is sorted in memory: a distribution sort. Keys that
    divide a sample evenly divide the table nearly so.
    """

    def __init__(
        self, schema: pa.Schema, sort_columns: Sequence[str], limits: Sequence[tuple], folder: str | None = None
    ):
        super().__init__(folder)
        self.schema = schema
        self.sort_columns = list(sort_columns)
        self._limits = limits  # the first key of every range but the first range
        self._waiting: list[pa.Table] = []
        self._chunks: list[list[tuple[int, int]]] = [[] for _ in range(len(limits) + 1)]  # (offset, bytes) by range

    def add(self, rows: pa.Table) -> None:
        self._waiting.append(rows.select(self.schema.names).cast(self.schema))
        if sum(map(len, self._waiting)) >= ROWS_PER_RUN:
            self._write_waiting()

    def iterate_sorted(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All rows, sorted, a table for each range that has some; can be asked for again.

        `columns`, by default all, include the `sort_columns`.
        """
        self._write_waiting()
        for chunks in filter(None, self._chunks):
            batches = [pa.ipc.read_record_batch(pa.py_buffer(self.get(*chunk)), self.schema) for chunk in chunks]
            rows = pa.Table.from_batches(batches)
            yield self._sort_rows(rows if columns is None else rows.select(columns))

    def _write_waiting(self) -> None:
        if not self._waiting:
            return
        rows = self._sort_rows(pa.concat_tables(self._waiting)).combine_chunks()
        self._waiting = []
        keys = rows.select(self.sort_columns)

        def get_key(k: int) -> tuple:
            return tuple(column[k].as_py() for column in keys.columns)

        starts = [0, *(bisect_left(range(len(rows)), limit, key=get_key) for limit in self._limits)]
        for chunks, start, stop in zip(self._chunks, starts, [*starts[1:], len(rows)], strict=True):
            for batch in rows.slice(start, stop - start).to_batches() if stop > start else ():
                data = batch.serialize()
                chunks.append((self.append(data), data.size))

    def _sort_rows(self, rows: pa.Table) -> pa.Table:
        order = pc.sort_indices(rows, [(name, "ascending") for name in self.sort_columns])
        is_sorted = np.array_equal(order, np.arange(len(rows)))  # as archives mostly are
        return rows if is_sorted else rows.take(order)
