"""Tables of a run as dask.dataframe: a part, or a row group of a large table, is read when a result needs it."""

from collections.abc import Sequence
from dataclasses import dataclass

import dask.dataframe as dd
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from emqa_dask import tables
from emqa_dask.store import parts, row_groups

Filters = list[tuple] | list[list[tuple]]  # as pyarrow has them: tuples (column, operator, value), or lists of these


@dataclass(frozen=True)
class TableQuery:
    """What is read of a table: the rows that fulfil `filters`, and of images with an identity in a list only those."""

    table: str  # name in tables.ALL_TABLES
    filters: Filters | None = None
    verify: bool = True  # hold files against their checksums?

    @property
    def schema(self) -> pa.Schema:
        """All columns of the table."""
        return tables.ALL_TABLES[self.table]

    def make_predicate(self, ids: Sequence[str] | None = None) -> pc.Expression | None:
        """The condition of a row; None when every row is wanted."""
        predicate = None if not self.filters else pq.filters_to_expression(self.filters)
        if ids is None:
            return predicate
        is_listed = pc.field("micrograph_id").isin(pa.array(ids, pa.string()))
        return is_listed if predicate is None else predicate & is_listed

    def check_columns(self, columns: Sequence[str] | None) -> list[str]:
        """`columns`, or all of the table; ValueError for one that the table does not have."""
        names = self.schema.names if columns is None else list(columns)
        unknown = sorted({*names, *self._list_filter_columns()} - set(self.schema.names))
        if unknown:
            raise ValueError(f"{self.table} has no column {', '.join(unknown)}; it has {', '.join(self.schema.names)}")
        return names

    def list_read_columns(self, columns: Sequence[str], ids: Sequence[str] | None) -> list[str]:
        """`columns` and those that the condition needs."""
        return list(
            dict.fromkeys([*columns, *self._list_filter_columns(), *([] if ids is None else ["micrograph_id"])])
        )

    def _list_filter_columns(self) -> list[str]:
        conjunctions = self.filters or []
        if conjunctions and isinstance(conjunctions[0], tuple):
            conjunctions = [conjunctions]
        return [column for conjunction in conjunctions for column, *_ in conjunction]


@dataclass(frozen=True)
class PartReader:
    """Reads a part of a table in `folder`: a whole file of some kilobytes, which is verified."""

    query: TableQuery
    folder: str

    def __call__(self, name: str | None, ids: Sequence[str] | None, columns: Sequence[str] | None = None):
        columns = self.query.check_columns(columns)
        if name is None:
            return make_frame(pa.schema([self.query.schema.field(c) for c in columns]).empty_table())
        read_columns = self.query.list_read_columns(columns, ids)
        rows = parts.load_arrow_table(f"{self.folder}/{name}.parquet", self.query.schema, read_columns)
        predicate = self.query.make_predicate(ids)
        return make_frame((rows if predicate is None else rows.filter(predicate)).select(columns))


@dataclass(frozen=True)
class GroupReader:
    """Reads a row group of the table at `uri`."""

    query: TableQuery
    uri: str
    version: str

    def __call__(self, group: int | None, ids: Sequence[str] | None, columns: Sequence[str] | None = None):
        columns = self.query.check_columns(columns)
        if group is None:
            return make_frame(pa.schema([self.query.schema.field(c) for c in columns]).empty_table())
        predicate = self.query.make_predicate(ids)
        rows = row_groups.read_row_group(
            self.uri, self.version, group, self.query.schema, columns, predicate, verify=self.query.verify
        )
        return make_frame(rows)


def make_frame(rows: pa.Table) -> pd.DataFrame:
    """`rows` in pandas, with types that do not depend on values: whole numbers and booleans may be missing."""
    return rows.to_pandas(types_mapper=_choose_type, ignore_metadata=True)


def _choose_type(kind: pa.DataType):
    """The pandas type of a column; None for pandas' own choice (text, floating-point numbers)."""
    if pa.types.is_boolean(kind):
        return pd.BooleanDtype()
    if pa.types.is_integer(kind):
        return pd.api.types.pandas_dtype(str(kind).replace("i", "I").replace("u", "U"))
    return pd.ArrowDtype(kind) if pa.types.is_nested(kind) or pa.types.is_binary(kind) else None


def open_parts(
    query: TableQuery, folder: str, names: Sequence[str], columns: Sequence[str] | None, ids: dict | None = None
) -> dd.DataFrame:
    """The parts `names` in `folder`, one partition each. `ids` has the images of each part that are wanted."""
    if ids is not None:
        names = [name for name in names if name in ids]
    id_lists = [None if ids is None else ids[name] for name in names]
    return _open_pieces(PartReader(query, folder), query, names, id_lists, columns)


def open_table(
    query: TableQuery, uri: str, columns: Sequence[str] | None, ids: Sequence[str] | None = None
) -> dd.DataFrame:
    """The table at `uri`, a partition for each row group that the statistics of the filters leave."""
    query.check_columns(columns)
    version = row_groups.read_version(uri)
    groups = row_groups.find_row_groups(uri, query.schema, query.make_predicate())
    return _open_pieces(GroupReader(query, uri, version), query, groups, [ids] * len(groups), columns)


def _open_pieces(
    reader: PartReader | GroupReader, query: TableQuery, pieces: Sequence, id_lists: Sequence, columns
) -> dd.DataFrame:
    columns = query.check_columns(columns)
    if not pieces:
        pieces, id_lists = [None], [None]
    meta = reader(None, None)
    frame = dd.from_map(reader, list(pieces), list(id_lists), meta=meta, label=f"read-{query.table}")
    return frame[columns] if list(meta.columns) != columns else frame
