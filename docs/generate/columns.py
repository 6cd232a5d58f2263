"""The data dictionary, from emqa_dask.tables: every table with columns, types, units, missing values and meaning."""

import re

import pyarrow as pa

from docs.generate.markdown import escape, list_table
from docs.generate.source import constant_comments
from emqa_dask import tables
from emqa_dask.pipeline.workspace.stages import SCHEMAS

# File of a table in the workspace; tables of a stage lie in a folder that is named after the table and a digest.
FILES = {
    "CATALOG": "catalog.parquet",
    "MICROGRAPHS": "micrographs.parquet",
    "THUMBNAILS": "thumbnails/*.parquet",
    "FLAGS": "flags.parquet",
    "DUPLICATE_GROUPS": "duplicate_groups.parquet",
    "TRIAGE": "triage.parquet",
    "DRIFTS": "drifts.parquet",
    "SESSIONS": "sessions.parquet",
    "DETECTOR_CHOICES": "detector_choices.parquet",
    "EVENTS": "events.parquet",
    "SAMPLES": "samples.parquet",
    "ESTIMATES": "estimates.parquet",
    "REVIEW_PLAN": "review_plan.parquet",
    "DECISIONS": "decisions/*.json",
    "FAILURES": "failures.parquet",
    "ALARMS": "alarms.parquet",
    "LATTICE_ORDER": "order.parquet in the folder of emqa tune order",
    "LATTICE_ORDER_WINDOWS": "windows.parquet in the folder of emqa tune order",
    "LATTICE_ORDER_POINTS": "points.parquet in the folder of emqa tune order",
    "ATOM_MAPS": "atom_maps/*.parquet",
    "ATOM_TYPES": "atom_types/*.parquet",
    "ATOM_COLUMNS": "atom_columns/*.parquet",
}
UNITS = {
    "dose_e_per_nm2": "e/nm²",
    "nm_per_pixel": "nm/px",
    "nm_per_pixel_y": "nm/px",
    "started": "s",
    "banner_rows": "px",
    "mpx": "Mpx",
    "px": "px",
    "nm": "nm",
    "um": "µm",
    "kv": "kV",
    "s": "s",
    "seconds": "s",
    "ns": "ns",
    "bytes": "bytes",
    "nats": "nats",
    "bits": "bits",
    "deg": "°",
    "cpp": "1/px",
    "fraction": "fraction",
    "share": "fraction",
    "probability": "fraction",
}


def list_schemas() -> dict[str, pa.Schema]:
    """Name of a table's constant -> its schema, in the order in which a run makes them."""
    return {name.upper(): schema for name, schema in tables.ALL_TABLES.items()}


def find_unit(field: pa.Field) -> str:
    """Unit of a column, from its name or else from its meaning; "" for texts and pure numbers."""
    if not _is_number(field.type):
        return ""
    if field.name in UNITS:
        return UNITS[field.name]
    if "square px" in read_meaning(field):
        return "px²"
    if re.search(r"(^|_)[yx][01]$", field.name):
        return "px"
    stem = field.name.rstrip("_0123456789")
    unit = UNITS.get(stem.rpartition("_")[2], "")
    return f"1/{unit}" if "_per_" in stem and unit else unit


def _is_number(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_list(kind) else kind
    return pa.types.is_floating(value) or pa.types.is_integer(value)


def read_meaning(field: pa.Field) -> str:
    """The description of a column."""
    return (field.metadata or {}).get(b"meaning", b"").decode()


def find_missing_value(field: pa.Field) -> str:
    """How a column says that a value is unknown: NaN in columns of reals, else null; "never" where it must be there."""
    if not field.nullable:
        return "never"
    return "NaN" if pa.types.is_floating(field.type) else "null"


def find_file(name: str) -> str:
    """Where a table lies in a workspace."""
    return FILES.get(name, f"{name.lower()}-*/*.parquet" if name.lower() in SCHEMAS else "")


def render_page() -> str:
    """The page: a section per table."""
    comments = constant_comments(tables)
    return "\n".join(_section(name, schema, comments[name]) for name, schema in list_schemas().items())


def _section(name: str, schema: pa.Schema, comment: str) -> str:
    table = name.lower()
    rows = [
        (
            f"{{column-definition}}`{table}.{field.name}`",
            str(field.type).replace("<item: ", "<").replace("<element: ", "<"),
            find_unit(field),
            find_missing_value(field),
            escape(read_meaning(field)),
        )
        for field in schema
    ]
    head = f"(table-{table})=\n## {table}\n\nFile: `{find_file(name)}`\n\n{escape(comment)}\n"
    columns = list_table(("column", "type", "unit", "missing", "meaning"), rows, "columns")
    return f"{head}\n{columns}"
