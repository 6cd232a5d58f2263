"""Micrographs of a workspace: all of the ledger, those that the archive still contains, and those of a partition."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from emqa_dask import tables
from emqa_dask.partition import Partition
from emqa_dask.store import digests, parts, plan
from emqa_dask.store.digests import DigestSet
from emqa_dask.store.layout import Workspace


def iter_partitions(
    workspace: Workspace, columns: Sequence[str] | None = None
) -> Iterator[tuple[Partition, pd.DataFrame]]:
    """Every partition in the ledger's order, with its rows in the order of its slots: all columns, or `columns`.

    Memory holds one row group of the ledger at a time.
    """
    for rows in _iterate_whole_partitions(workspace, columns):
        shown_rows = rows if columns is None else rows[list(columns)]
        for partition, positions in plan.split_by_partition(rows):
            yield partition, shown_rows.iloc[positions]


def iter_packed_partitions(workspace: Workspace, columns: Sequence[str]) -> Iterator[tuple[Partition, bytes]]:
    """As iter_partitions(), with the rows as an Arrow stream for unpack_rows().

    A stream of 32 rows is made in a tenth of the time that pandas takes to pickle them, and a million images have
    30,000 of those.
    """
    schema = pa.schema([tables.MICROGRAPHS.field(name) for name in columns])
    for rows in _iterate_whole_partitions(workspace, columns):
        table = pa.Table.from_pandas(rows[list(columns)], schema, preserve_index=False).combine_chunks()
        for partition, positions in plan.split_by_partition(rows):
            yield partition, _pack(table.slice(positions.start, positions.stop - positions.start))


def _pack(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


def pack_rows(rows: pd.DataFrame) -> bytes:
    """`rows` of the ledger, all columns or some of them, as an Arrow stream for unpack_rows()."""
    schema = pa.schema([tables.MICROGRAPHS.field(name) for name in rows])
    return _pack(pa.Table.from_pandas(rows, schema, preserve_index=False))


def unpack_rows(packed: bytes) -> pd.DataFrame:
    """The rows that pack_rows() or iter_packed_partitions() packed."""
    with pa.ipc.open_stream(packed) as stream:
        return stream.read_all().to_pandas()


def list_partitions(workspace: Workspace) -> Iterator[Partition]:
    """The partitions, in the ledger's order."""
    for rows in _iterate_whole_partitions(workspace, ()):
        yield from (partition for partition, _ in plan.split_by_partition(rows))


def count_micrographs(workspace: Workspace, names: set[str]) -> int:
    """Number of micrographs in the partitions `names`."""
    return sum(len(partition) for partition in list_partitions(workspace) if partition.name in names) if names else 0


def iter_current(workspace: Workspace, columns: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
    """Micrographs whose file is in the archive with this content: tables of whole partitions, in the ledger's order.

    Each has some thousand rows of tables.MICROGRAPHS (all columns, or those named); none is empty.
    """
    for rows, is_current in iter_ledger(workspace, columns):
        if is_current.any():
            yield rows[is_current].reset_index(drop=True)


def iter_ledger(
    workspace: Workspace, columns: Sequence[str] | None = None
) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    """All micrographs in tables of whole partitions, and whether the archive still contains each: (n,) bool."""
    present = DigestSet()
    for rows in parts.iterate_table(workspace.catalog, tables.CATALOG, ["uri", "content_sha256", "is_present"]):
        present.add(digests.digest_contents(rows[rows["content_sha256"].notna() & rows["is_present"].ne(False)]))
    read_columns = None if columns is None else [*columns, "uri", "content_sha256"]
    for rows in _iterate_whole_partitions(workspace, read_columns):
        yield rows if columns is None else rows[list(columns)], present.has(digests.digest_contents(rows))


def _iterate_whole_partitions(workspace: Workspace, columns: Sequence[str] | None) -> Iterator[pd.DataFrame]:
    """The ledger in tables of whole partitions."""
    if columns is not None:
        columns = list(dict.fromkeys([*columns, "stack", "index", "partition"]))
    remaining_rows = None
    for rows in parts.iterate_table(workspace.micrographs, tables.MICROGRAPHS, columns, plan.MICROGRAPHS_PER_BATCH):
        rows = rows if remaining_rows is None else pd.concat([remaining_rows, rows], ignore_index=True)
        is_last_partition = rows["partition"].eq(rows["partition"].iloc[-1]).to_numpy()
        end = int(np.argmax(is_last_partition))
        remaining_rows = rows.iloc[end:]
        if end:
            yield rows.iloc[:end]
    if remaining_rows is not None:
        yield remaining_rows
