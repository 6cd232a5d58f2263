"""Row groups of a large table: those that a filter leaves, by Parquet's statistics, and their rows.

Only the footer and the columns of these row groups are read and decoded. A checksum is of the whole file, so the file
is verified once in each process, before the first row group is read.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from emqa_dask.store import files, parts


def read_version(uri: str) -> str:
    """A text that changes whenever file `uri` is written, from its metadata; FileNotFoundError when there is none."""
    fs, path = files.locate(uri)
    return fs.ukey(path)


def find_row_groups(uri: str, schema: pa.Schema, predicate: pc.Expression | None = None) -> list[int]:
    """Numbers of the row groups whose statistics leave it open whether rows fulfil `predicate`; all without one."""
    with _open_fragment(uri) as fragment:
        parts.check_columns(uri, fragment.physical_schema, schema)
        left_fragment = fragment if predicate is None else fragment.subset(predicate, schema=schema)
        return [group.id for group in left_fragment.row_groups]


def read_row_group(
    uri: str,
    version: str,
    group: int,
    schema: pa.Schema,
    columns: Sequence[str],
    predicate: pc.Expression | None = None,
    *,
    verify: bool = True,
) -> pa.Table:
    """The `columns` of those rows of a row group that fulfil `predicate`.

    Raises RuntimeError when the file is no longer of `version`, and DamagedTable unless it is as it was written;
    without `verify` only damage that Parquet itself notices.
    """
    if read_version(uri) != version:
        raise RuntimeError(f"{uri} was written again since the run was opened: open the run again")
    if verify:
        _verify_version(uri, version)
    with _open_fragment(uri) as fragment:
        selected = fragment.subset(row_group_ids=[group])
        return selected.to_table(schema=schema, columns=list(columns), filter=predicate, use_threads=False)


@functools.lru_cache(maxsize=256)
def _verify_version(uri: str, version: str) -> bytes:
    """The checksum of a version of the table at `uri`; DamagedTable when its bytes do not fit."""
    return parts.verify_table(uri)


@contextlib.contextmanager
def _open_fragment(uri: str) -> Iterator[ds.ParquetFileFragment]:
    """The table at `uri`, of which the footer and later the asked ranges are read."""
    fs, path = files.locate(uri)
    stream = fs.open(path, "rb")  # outside of the try block: a missing file is no damaged one
    with stream:
        try:
            yield ds.ParquetFileFormat().make_fragment(stream)
        except pa.ArrowInvalid as error:
            raise parts.DamagedTable(uri, error) from error
