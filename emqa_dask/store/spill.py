"""What outgrows memory while it is made: bytes put aside on disk, and rows that come back in order."""

import tempfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence

import pyarrow as pa

ROWS_PER_RUN = 32_768  # rows that are sorted in memory at a time
ROWS_PER_CHUNK = 256  # rows of a run that are in memory while runs are merged


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

    def close(self) -> None:
        self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.close()


class ExternalSort(SpillFile):
    """A table of `schema` in any order in, sorted by `sort_columns` out, each of them ascending and never null.

    An external merge sort: runs of RUN rows are sorted in memory and put aside, then read side by side.
    """

    def __init__(self, schema: pa.Schema, sort_columns: Sequence[str], folder: str | None = None):
        super().__init__(folder)
        self.schema = schema
        self.sort_columns = list(sort_columns)
        self._waiting: list[pa.Table] = []
        self._runs: list[list[tuple[int, int]]] = []  # (offset, bytes) of the chunks of each run

    def add(self, rows: pa.Table) -> None:
        self._waiting.append(rows.select(self.schema.names).cast(self.schema))
        if sum(map(len, self._waiting)) >= ROWS_PER_RUN:
            self._write_run()

    def iterate_sorted(self, n_rows: int) -> Iterator[pa.Table]:
        """All rows, sorted, in tables of `n_rows` rows or a little more; can be asked for again."""
        if self._waiting:
            self._write_run()
        runs = [_RunReader(self, chunks) for chunks in self._runs]
        mergeable_batches: list[pa.RecordBatch] = []
        while runs:
            key_limit = min(run.last for run in runs)  # what is not above it can be told from what is yet to be read
            for run in runs:
                mergeable_batches += run.take_rows(key_limit)
            runs = [run for run in runs if run.rows is not None]
            if not runs or sum(map(len, mergeable_batches)) >= n_rows:
                yield self._sort_rows(pa.Table.from_batches(mergeable_batches, self.schema))
                mergeable_batches = []

    def _write_run(self) -> None:
        rows = self._sort_rows(pa.concat_tables(self._waiting))
        self._waiting = []
        chunks = [batch.serialize() for batch in rows.combine_chunks().to_batches(ROWS_PER_CHUNK)]
        self._runs.append([(self.append(chunk), chunk.size) for chunk in chunks])

    def _sort_rows(self, rows: pa.Table) -> pa.Table:
        return rows.sort_by([(name, "ascending") for name in self.sort_columns])


class _RunReader:
    """The chunk of a run that is being merged; `rows` is None once there is no more."""

    def __init__(self, runs: ExternalSort, chunks: list[tuple[int, int]]):
        self._runs = runs
        self._chunks = iter(chunks)
        self._read()

    def _read(self) -> None:
        location = next(self._chunks, None)
        self.rows = None
        if location is not None:
            self.rows = pa.ipc.read_record_batch(pa.py_buffer(self._runs.get(*location)), self._runs.schema)
            self.first = self._key(0)
            self.last = self._key(len(self.rows) - 1)

    def _key(self, k: int) -> tuple:
        return tuple(self.rows[name][k].as_py() for name in self._runs.sort_columns)

    def take_rows(self, key_limit: tuple) -> list[pa.RecordBatch]:
        """Cut off the rows whose key is not above `key_limit`."""
        if self.first > key_limit:
            return []
        if self.last <= key_limit:
            rows = self.rows
            self._read()
            return [rows]
        n = bisect_right(range(len(self.rows)), key_limit, key=self._key)
        rows = self.rows.slice(0, n)
        self.rows = self.rows.slice(n)
        self.first = self._key(0)
        return [rows]
