"""Tables on disk as Parquet, each file whole or not at all: a stage's parts (one per partition) and single tables."""

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
from emqa_dask.store import checksum, files, layout

Rows: TypeAlias = pd.DataFrame | list[dict]
RowFilter = tuple[str, str | Sequence[str]]  # a column, and the value or values in it of the rows that are wanted
pa.set_memory_pool(pa.system_memory_pool())  # pyarrow's own keeps some 100 MB of what was freed
MAX_BUFFERED_BYTES = 2**20  # files up to this size are read in one go
N_WRITER_THREADS = 4  # threads that write parts
N_FAILED_KEY = b"emqa_dask.n_failed"  # key of a part's metadata: how many images failed when it was made
VERSION_REMEDY = "another version of emqa_dask wrote it: use that one, or give another --workspace"
ROWS_PER_GROUP = 16_384  # of a row group: tables that grow with the archive are read and written by so many rows


class DamagedTable(ValueError):
    """A table at `uri` whose bytes are not those that were written."""

    def __init__(self, uri: str, why: object):
        super().__init__(f"{uri} is damaged ({why}): run `emqa triage` on its workspace, which makes it again")
        self.uri = uri


def write_table(uri: str, rows: Rows, schema: pa.Schema) -> int:
    """Write `rows` as a table of exactly `schema`; gives the number of bytes. An empty table has all its columns."""
    return _write_table(uri, tables.conform(rows, schema))


def _write_table(uri: str, table: pa.Table) -> int:
    buffer = io.BytesIO()
    # Parts are small (one partition), so they are encoded in memory and written in one go. Of 30 rows a page of zstd,
    # a dictionary of numbers and statistics cost thrice the time to write and to read, and no byte less.
    pq.write_table(
        table, buffer, compression="lz4", use_dictionary=_list_text_columns(table.schema), write_statistics=False
    )
    data = checksum.add_checksum(buffer.getvalue())
    files.write_bytes(uri, data)
    return len(data)


def _list_text_columns(schema: pa.Schema) -> list[str]:
    """The columns of text, as Parquet names them: what is worth a dictionary."""
    lists = [f"{field.name}.list.element" for field in schema if field.type == pa.list_(pa.string())]
    return [field.name for field in schema if field.type == pa.string()] + lists


def load_table(uri: str, schema: pa.Schema, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The table at `uri` (all columns of `schema`, or those named); an empty one where there is no file.

    DamagedTable when its bytes are not those that were written, ValueError when it has another schema.
    """
    wanted = _select_columns(schema, columns)
    try:
        return _load_columns(uri, wanted).to_pandas()
    except FileNotFoundError:
        return tables.empty(wanted)


@contextlib.contextmanager
def open_table_writer(uri: str, schema: pa.Schema) -> Iterator[Callable[[Rows], None]]:
    """write(rows): a table of any length in row groups, of which one is in memory; there whole once the block ends."""
    with files.write_whole(uri) as stream:
        with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
            yield lambda rows: writer.write_table(tables.conform(rows, schema), row_group_size=ROWS_PER_GROUP)
        checksum.add_checksum_to_stream(stream)


def iterate_table(
    uri: str,
    schema: pa.Schema,
    columns: Sequence[str] | None = None,
    rows: int = ROWS_PER_GROUP,
    row_filter: RowFilter | None = None,
) -> Iterator[pd.DataFrame]:
    """As load_table(), but a table of at most `rows` rows after the other; none where there is no file.

    `only` (column, value or values) leaves out other rows before they become pandas'; tables without rows are left out
    then.
    """
    wanted = _select_columns(schema, columns)
    try:
        with _open_table(uri, wanted) as found:
            for group in range(found.num_row_groups):  # else the readers of all groups stay until the end
                for batch in found.iter_batches(rows, [group], wanted.names, use_threads=False):
                    table = pa.Table.from_batches([batch]).select(wanted.names).cast(wanted)
                    if row_filter is not None:
                        table = _filter_rows(table, row_filter)
                    if row_filter is None or len(table):
                        yield table.to_pandas()
    except FileNotFoundError:
        return


def _filter_rows(table: pa.Table, only: RowFilter) -> pa.Table:
    column, values = only
    known = pa.array([values] if isinstance(values, str) else values, table.schema.field(column).type)
    return table.filter(pc.is_in(table[column], known))


def count_rows(uri: str) -> int:
    """How many rows the table at `uri` has; 0 where there is no file."""
    try:
        with _open_table(uri, pa.schema([])) as found:
            return found.metadata.num_rows
    except FileNotFoundError:
        return 0


def verify_table(uri: str) -> bytes:
    """The checksum of the table at `uri`; DamagedTable unless its bytes are those that were written."""
    try:
        with files.open_read(uri) as stream:
            return checksum.verify_checksum(stream)
    except checksum.ChecksumError as error:
        raise DamagedTable(uri, error) from error


def write_part(root: str, table: str, name: str, rows: Rows, schema: pa.Schema, n_failed: int = 0) -> int:
    """Write the part of partition `name` into folder `table` of the workspace; gives its bytes.

    `n_failed` images have no rows in it, since they failed: a table of their failures belongs to it.
    """
    conformed = tables.conform(rows, schema)
    if n_failed:
        conformed = conformed.replace_schema_metadata({N_FAILED_KEY: str(n_failed)})
    return _write_table(layout.part_uri(root, table, name), conformed)


def read_n_failed(uri: str) -> int:
    """The `n_failed` that the part at `uri` was written with; DamagedTable unless its bytes are those that were."""
    try:
        with files.open_read(uri) as stream:
            checksum.verify_checksum(stream)
            if N_FAILED_KEY not in checksum.read_footer(
                stream
            ):  # of nearly all parts; to parse it takes ten times as long
                return 0
            return int(pq.read_schema(stream).metadata[N_FAILED_KEY])
    except checksum.ChecksumError as error:
        raise DamagedTable(uri, error) from error


def write_parts(
    root: str, table: str, rows: pd.DataFrame, row_parts: ArrayLike, names: Sequence[str], schema: pa.Schema
) -> None:
    """Write the parts `names` at once: of each the `rows`, in their order, whose entry of `of` (n,) is its name.

    The same bytes as write_part() writes one by one; a part without rows is written, too. Some threads write, since
    disks and buckets answer late. ValueError for an entry of `of` that is not in `names`; then nothing is written.
    """
    code = pd.Index(names).get_indexer(np.asarray(row_parts, dtype=object))
    if (code < 0).any():
        raise ValueError(
            f"a row of {table} is of {np.asarray(row_parts, dtype=object)[code < 0][0]!r}, none of these parts"
        )
    order = np.argsort(code, kind="stable")
    whole = tables.conform(rows.iloc[order], schema)
    ends = np.cumsum(np.bincount(code, minlength=len(names)))
    with ThreadPoolExecutor(N_WRITER_THREADS) as pool:
        written = [
            pool.submit(_write_table, layout.part_uri(root, table, name), whole.slice(start, stop - start))
            for name, start, stop in zip(names, (0, *ends[:-1].tolist()), ends.tolist())
        ]
        for one in written:
            one.result()


def read_part(
    root: str, table: str, name: str, schema: pa.Schema, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """The part of partition `name`; FileNotFoundError when there is none."""
    return _load_columns(layout.part_uri(root, table, name), _select_columns(schema, columns)).to_pandas()


def has_part(root: str, table: str, name: str, schema: pa.Schema | None = None) -> bool:
    """Is there a whole, valid part: does its checksum fit, and are its columns those of `schema` (when given)?"""
    try:
        with _open_table(layout.part_uri(root, table, name), pa.schema([])) as found:
            return schema is None or found.schema_arrow.equals(schema)
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
    """All parts of folder `table` (or those of `partitions`, in that order) under one another; of them the rows `only`.

    No part gives an empty table with all its columns. A partition that was named and has no part is an error
    (FileNotFoundError): rows are never left out in silence.
    """
    wanted = _select_columns(schema, columns)
    chosen = list_parts(root, table) if partitions is None else partitions
    loaded = (_load_columns(layout.part_uri(root, table, name), wanted) for name in chosen)
    if row_filter is not None:
        loaded = (_filter_rows(one, row_filter) for one in loaded)
    return pa.concat_tables([wanted.empty_table(), *loaded]).to_pandas()


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
    """File `uri`, open; a small one is in memory, from where its columns are read in two thirds of the time."""
    stream = files.open_read(uri)
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    if size > MAX_BUFFERED_BYTES:
        return stream
    with stream:
        return pa.BufferReader(stream.read())


@contextlib.contextmanager
def _open_table(uri: str, wanted: pa.Schema) -> Iterator[pq.ParquetFile]:
    """The Parquet file at `uri`, seen to be whole and to have the columns `wanted`.

    FileNotFoundError without a file; DamagedTable, or ValueError with the remedy.
    """
    stream = _open_buffered(uri)  # outside of what follows: a bucket that does not answer is no damaged file
    try:
        with stream:
            checksum.verify_checksum(stream)
            with pq.ParquetFile(stream) as found:
                _check_columns(uri, found.schema_arrow, wanted)
                yield found
    except (checksum.ChecksumError, pa.ArrowInvalid, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise DamagedTable(uri, error) from error


def _check_columns(uri: str, found: pa.Schema, wanted: pa.Schema) -> None:
    types = {field.name: field for field in found}
    if missing := sorted(set(wanted.names) - set(types)):
        raise ValueError(f"{uri} lacks the columns {', '.join(missing)}: {VERSION_REMEDY}")
    if not pa.schema([types[name] for name in wanted.names]).equals(wanted):
        raise ValueError(f"{uri} has columns of other types: {VERSION_REMEDY}")


def _load_columns(uri: str, wanted: pa.Schema) -> pa.Table:
    with _open_table(uri, wanted) as found:
        return found.read(columns=wanted.names, use_threads=False).select(wanted.names)
