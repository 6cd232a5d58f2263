"""Tables as Parquet files that are written whole or not at all: parts of a stage (one per partition), single tables."""

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from emqa_dask import tables
from emqa_dask.store import checksum, files
from emqa_dask.store.layout import Workspace

Rows: TypeAlias = pd.DataFrame | list[dict]
RowFilter = tuple[str, str | Sequence[str]]  # a column, and the value or values of the rows that are kept
pa.set_memory_pool(pa.system_memory_pool())  # pyarrow's default pool keeps some 100 MB of freed memory
MAX_BUFFERED_BYTES = 2**20  # files up to this size are read at once
N_WRITER_THREADS = 4  # threads that write parts
N_FAILED_KEY = b"emqa_dask.n_failed"  # key of a part's metadata: number of images that failed when it was made
VERSION_REMEDY = "another version of emqa_dask wrote it: use that one, or give another --workspace"
ROWS_PER_GROUP = 16_384  # of tables that grow with the archive, which are read and written row group by row group
MIN_ROWS_PER_GROUP = 4096  # fewer rows wait for the next ones: each row group costs 3 ms or more whenever it is read


class DamagedTable(ValueError):
    """The table at `uri` is not as it was written."""

    def __init__(self, uri: str, reason: object):
        super().__init__(f"{uri} is damaged ({reason}): run `emqa triage` on its workspace, which makes it again")
        self.uri = uri


def write_table(uri: str, rows: Rows, schema: pa.Schema) -> int:
    """Write `rows` as a table of exactly `schema`; returns its number of bytes. An empty table has all columns."""
    return _write_table(uri, tables.conform(rows, schema))


def _write_table(uri: str, table: pa.Table) -> int:
    buffer = io.BytesIO()
    # Parts are small (one partition), so they are encoded in memory and written at once. For 30 rows, zstd,
    # dictionaries of numbers and statistics took three times as long to write and to read, and saved no byte.
    pq.write_table(
        table, buffer, compression="lz4", use_dictionary=_list_text_columns(table.schema), write_statistics=False
    )
    data = checksum.add_checksum(buffer.getvalue())
    files.write_bytes(uri, data)
    return len(data)


def _list_text_columns(schema: pa.Schema) -> list[str]:
    """Columns of text, as Parquet names them; only they get a dictionary."""
    lists = [f"{field.name}.list.element" for field in schema if field.type == pa.list_(pa.string())]
    return [field.name for field in schema if field.type == pa.string()] + lists


def load_arrow_table(uri: str, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """As load_table(), as an Arrow table; FileNotFoundError when there is no file."""
    return _load_columns(uri, _select_columns(schema, columns))


def load_table(uri: str, schema: pa.Schema, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The table at `uri` (all columns of `schema`, or those named); an empty table when there is no file.

    Raises DamagedTable for a table that is not as it was written, and ValueError for another schema.
    """
    selected = _select_columns(schema, columns)
    try:
        return _load_columns(uri, selected).to_pandas()
    except FileNotFoundError:
        return tables.empty(selected)


@contextlib.contextmanager
def open_table_writer(uri: str, schema: pa.Schema) -> Iterator[Callable[[Rows | pa.Table], None]]:
    """A function write(rows) that appends rows to the table at `uri`; the table appears when the block ends.

    The row groups have MIN_ROWS_PER_GROUP rows or more, but for the last one: a table that was written anew with a few
    rows more each time would have a row group for each time.
    """
    waiting: list[pa.Table] = []

    with files.write_whole(uri) as stream:
        with pq.ParquetWriter(stream, schema, compression="zstd") as writer:

            def write(rows: Rows | pa.Table) -> None:
                waiting.append(_conform(rows, schema))
                if sum(map(len, waiting)) >= MIN_ROWS_PER_GROUP:
                    write_waiting()

            def write_waiting() -> None:
                writer.write_table(pa.concat_tables(waiting), row_group_size=ROWS_PER_GROUP)
                waiting.clear()

            yield write
            if waiting:
                write_waiting()
        checksum.add_checksum_to_stream(stream)


def _conform(rows: Rows | pa.Table, schema: pa.Schema) -> pa.Table:
    """tables.conform(), or an Arrow table as it is."""
    return rows if isinstance(rows, pa.Table) else tables.conform(rows, schema)


def iterate_table(
    uri: str,
    schema: pa.Schema,
    columns: Sequence[str] | None = None,
    rows: int = ROWS_PER_GROUP,
    row_filter: RowFilter | None = None,
) -> Iterator[pd.DataFrame]:
    """As load_table(), in consecutive tables of at most `rows` rows; none when there is no file.

    `row_filter` (column, value or values) drops other rows before they become pandas objects, and tables without rows.
    """
    for table in iterate_arrow_tables(uri, schema, columns, rows):
        rows_left = table if row_filter is None else _filter_rows(table, row_filter)
        if row_filter is None or len(rows_left):
            yield rows_left.to_pandas()


def iterate_arrow_tables(
    uri: str, schema: pa.Schema, columns: Sequence[str] | None = None, rows: int = ROWS_PER_GROUP
) -> Iterator[pa.Table]:
    """As iterate_table(), as Arrow tables."""
    selected = _select_columns(schema, columns)
    try:
        with _open_table(uri, selected) as file:
            yield from _iterate_batches(file, selected, rows)
    except FileNotFoundError:
        return


def _iterate_batches(file: pq.ParquetFile, schema: pa.Schema, rows: int) -> Iterator[pa.Table]:
    # One row group per reader: a reader of all groups would keep each group's buffers until the end.
    for group in range(file.num_row_groups):
        for batch in file.iter_batches(rows, [group], schema.names, use_threads=False):
            yield pa.Table.from_batches([batch]).select(schema.names).cast(schema)


def _filter_rows(table: pa.Table, row_filter: RowFilter) -> pa.Table:
    column, values = row_filter
    accepted = pa.array([values] if isinstance(values, str) else values, table.schema.field(column).type)
    return table.filter(pc.is_in(table[column], accepted))


def count_rows(uri: str) -> int:
    """Number of rows of the table at `uri`; 0 when there is no file."""
    try:
        with _open_table(uri, pa.schema([])) as file:
            return file.metadata.num_rows
    except FileNotFoundError:
        return 0


def verify_table(uri: str) -> bytes:
    """Checksum of the table at `uri`; DamagedTable when it is not as it was written."""
    try:
        with files.open_read(uri) as stream:
            return checksum.verify_checksum(stream)
    except checksum.ChecksumError as error:
        raise DamagedTable(uri, error) from error


def write_part(root: str, table: str, name: str, rows: Rows, schema: pa.Schema, n_failed: int = 0) -> int:
    """Write the part of partition `name` into folder `table` of the workspace; returns its number of bytes.

    `n_failed` images have no rows in it because they failed; another table lists their failures.
    """
    conformed = tables.conform(rows, schema)
    if n_failed:
        conformed = conformed.replace_schema_metadata({N_FAILED_KEY: str(n_failed)})
    return _write_table(Workspace(root).part(table, name), conformed)


def read_n_failed(uri: str) -> int:
    """The `n_failed` that the part at `uri` was written with; DamagedTable unless its bytes are those that were."""
    try:
        with files.open_read(uri) as stream:
            checksum.verify_checksum(stream)
            if N_FAILED_KEY not in checksum.read_footer(
                stream
            ):  # true of nearly all parts; parsing takes ten times as long
                return 0
            return int(pq.read_schema(stream).metadata[N_FAILED_KEY])
    except checksum.ChecksumError as error:
        raise DamagedTable(uri, error) from error


def write_parts(
    root: str, table: str, rows: pd.DataFrame, row_parts: ArrayLike, names: Sequence[str], schema: pa.Schema
) -> None:
    """Write the parts `names`: to each the `rows`, in their order, whose entry in `row_parts` (n,) is its name.

    The bytes are those of write_part(); parts without rows are written, too. Several threads write, because disks and
    buckets answer late. Raises ValueError, before anything is written, for an entry that is not in `names`.
    """
    part_indices = pd.Index(names).get_indexer(np.asarray(row_parts, dtype=object))
    if (part_indices < 0).any():
        raise ValueError(
            f"a row of {table} is of {np.asarray(row_parts, dtype=object)[part_indices < 0][0]!r}, none of these parts"
        )
    order = np.argsort(part_indices, kind="stable")
    sorted_table = tables.conform(rows.iloc[order], schema)
    ends = np.cumsum(np.bincount(part_indices, minlength=len(names)))
    with ThreadPoolExecutor(N_WRITER_THREADS) as pool:
        futures = [
            pool.submit(_write_table, Workspace(root).part(table, name), sorted_table.slice(start, stop - start))
            for name, start, stop in zip(names, (0, *ends[:-1].tolist()), ends.tolist())
        ]
        for future in futures:
            future.result()


def read_part(
    root: str, table: str, name: str, schema: pa.Schema, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """The part of partition `name`; FileNotFoundError when there is none."""
    return _load_columns(Workspace(root).part(table, name), _select_columns(schema, columns)).to_pandas()


def read_part_table(root: str, table: str, name: str, schema: pa.Schema, columns: Sequence[str]) -> pa.Table:
    """As read_part(), as an Arrow table."""
    return _load_columns(Workspace(root).part(table, name), _select_columns(schema, columns))


def has_part(root: str, table: str, name: str, schema: pa.Schema | None = None) -> bool:
    """Whether there is a part with the right checksum and, if `schema` is given, with its columns."""
    try:
        with _open_table(Workspace(root).part(table, name), pa.schema([])) as file:
            return schema is None or file.schema_arrow.equals(schema)
    except (FileNotFoundError, DamagedTable):
        return False


def list_parts(root: str, table: str) -> list[str]:
    """Sorted names of the partitions that have a part in folder `table`."""
    return [n.removesuffix(".parquet") for n in files.list_names(files.join(root, table)) if n.endswith(".parquet")]


def read_table(
    root: str,
    table: str,
    schema: pa.Schema,
    columns: Sequence[str] | None = None,
    partitions: Iterable[str] | None = None,
    row_filter: RowFilter | None = None,
) -> pd.DataFrame:
    """Rows of all parts of folder `table` (or of `partitions`, in that order) that pass `row_filter`.

    Without parts the table is empty and has all columns. Raises FileNotFoundError for a partition in `partitions`
    without a part, so that rows are never missing without an error.
    """
    selected = _select_columns(schema, columns)
    names = list_parts(root, table) if partitions is None else partitions
    part_tables = (_load_columns(Workspace(root).part(table, name), selected) for name in names)
    if row_filter is not None:
        part_tables = (_filter_rows(part_table, row_filter) for part_table in part_tables)
    return pa.concat_tables([selected.empty_table(), *part_tables]).to_pandas()


def write_json(uri: str, value: object) -> None:
    """Write `value` as readable JSON, whole or not at all."""
    files.write_text(uri, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(uri: str) -> object:
    """The JSON at `uri`; FileNotFoundError when there is none."""
    return json.loads(files.read_bytes(uri))


write_text = files.write_text


def _select_columns(schema: pa.Schema, columns: Sequence[str] | None) -> pa.Schema:
    return schema if columns is None else pa.schema([schema.field(c) for c in columns])


def _open_buffered(uri: str) -> BinaryIO | pa.NativeFile:
    """File `uri`, open for reading; a small file is in memory, so that reading columns takes a third less time."""
    stream = files.open_read(uri)
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    if size > MAX_BUFFERED_BYTES:
        return stream
    with stream:
        return pa.BufferReader(stream.read())


@contextlib.contextmanager
def _open_table(uri: str, selected: pa.Schema) -> Iterator[pq.ParquetFile]:
    """The Parquet file at `uri`, after checks of its checksum and of the columns in `schema`.

    Raises FileNotFoundError without a file, DamagedTable, or ValueError with the remedy for other columns.
    """
    stream = _open_buffered(uri)  # outside of the try block: a bucket that does not answer is no damaged file
    try:
        with stream:
            checksum.verify_checksum(stream)
            with pq.ParquetFile(stream) as file:
                check_columns(uri, file.schema_arrow, selected)
                yield file
    except (checksum.ChecksumError, pa.ArrowInvalid, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise DamagedTable(uri, error) from error


def check_columns(uri: str, schema: pa.Schema, selected: pa.Schema) -> None:
    """ValueError, with the remedy, unless the table at `uri`, of `schema`, has the columns `selected`."""
    types = {field.name: field for field in schema}
    if missing := sorted(set(selected.names) - set(types)):
        raise ValueError(f"{uri} lacks the columns {', '.join(missing)}: {VERSION_REMEDY}")
    if not pa.schema([types[name] for name in selected.names]).equals(selected):
        raise ValueError(f"{uri} has columns of other types: {VERSION_REMEDY}")


def _load_columns(uri: str, selected: pa.Schema) -> pa.Table:
    with _open_table(uri, selected) as file:
        return file.read(columns=selected.names, use_threads=False).select(selected.names)
