"""Arrow schemas whose columns carry descriptions, and functions that give rows a schema."""

import pandas as pd
import pyarrow as pa

Columns = dict[str, tuple[pa.DataType, str]]  # name of a column -> its type and description


def define_schema(columns: Columns) -> pa.Schema:
    """Schema of `columns`; the description of a column is in its metadata, under the key "meaning"."""
    return pa.schema([pa.field(name, kind, metadata={"meaning": text}) for name, (kind, text) in columns.items()])


def with_column(schema: pa.Schema, name: str, meaning: str) -> pa.Schema:
    """`schema` with one more string column."""
    return schema.append(pa.field(name, pa.string(), metadata={"meaning": meaning}))


def empty(schema: pa.Schema) -> pd.DataFrame:
    """A table with all columns of `schema` and no rows."""
    return schema.empty_table().to_pandas()


def conform(rows: pd.DataFrame | list[dict], schema: pa.Schema) -> pa.Table:
    """`rows` as an Arrow table of exactly `schema`: columns in its order, absent columns null.

    Raises ValueError for a column that the schema does not have, and pyarrow.ArrowInvalid for values that do not fit.
    """
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    surplus = sorted(set(map(str, frame.columns)) - set(schema.names))
    if surplus:
        raise ValueError(f"columns not in the schema: {', '.join(surplus)}")
    arrays = [_convert_column(frame, field) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _convert_column(frame: pd.DataFrame, field: pa.Field) -> pa.Array:
    if field.name not in frame.columns:
        return pa.nulls(len(frame), field.type)
    # NaN means unknown in float columns and stays; elsewhere a missing value is null.
    is_nan_null = not pa.types.is_floating(field.type)
    return pa.array(frame[field.name], type=field.type, from_pandas=is_nan_null, safe=True)


ID: Columns = {
    "micrograph_id": (
        pa.string(),
        "Identity of the micrograph: the first 32 hex digits of the SHA-256 of the file's SHA-256, the file's path in "
        "the archive and the frame number.",
    )
}
