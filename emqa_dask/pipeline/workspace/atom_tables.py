"""Tables and pictures of the types of atomic columns in a workspace, and a check of them."""

import hashlib
from collections.abc import Callable

import pandas as pd
import pyarrow as pa

from emqa_dask import tables
from emqa_dask.store import aside, files, parts
from emqa_dask.store.layout import Workspace

# The last one marks a finished partition, so it is written last.
SCHEMAS = {"atom_columns": tables.ATOM_COLUMNS, "atom_types": tables.ATOM_TYPES, "atom_maps": tables.ATOM_MAPS}
REMEDY = "`emqa tune types` makes it again"
Say = Callable[[str], None]


def read_tables(workspace: Workspace, name: str) -> dict[str, pd.DataFrame]:
    """The tables SCHEMAS of a partition as they are; empty ones where any of them is missing or damaged."""
    if all(parts.has_part(workspace.uri, table, name, schema) for table, schema in SCHEMAS.items()):
        return {table: parts.read_part(workspace.uri, table, name, schema) for table, schema in SCHEMAS.items()}
    return {table: tables.empty(schema) for table, schema in SCHEMAS.items()}


def write_tables(workspace: Workspace, name: str, new_tables: dict[str, list[pd.DataFrame]]) -> None:
    """Writes the tables SCHEMAS of a partition, each from several tables of rows."""
    for table, schema in SCHEMAS.items():
        rows = [tables.conform(own, schema) for own in new_tables[table]]
        merged = pa.concat_tables([schema.empty_table(), *rows]).to_pandas()
        parts.write_part(workspace.uri, table, name, merged, schema)


def has_overlay(workspace: Workspace, overlay: str, sha256: str) -> bool:
    """Whether the picture is as it was written."""
    uri = files.join(workspace.atom_overlays, overlay)
    return files.exists(uri) and hashlib.sha256(files.read_bytes(uri)).hexdigest() == sha256


def put_aside_damaged(workspace: Workspace, say: Say) -> int:
    """Number of damaged parts and pictures of atom types; each is put aside and reported with the remedy."""
    damaged = [
        workspace.part(table, name)
        for table in SCHEMAS
        for name in parts.list_parts(workspace.uri, table)
        if not parts.has_part(workspace.uri, table, name)
    ]
    maps = [
        parts.read_part(workspace.uri, "atom_maps", name, tables.ATOM_MAPS, ["overlay", "overlay_sha256"])
        for name in parts.list_parts(workspace.uri, "atom_maps")
        if workspace.part("atom_maps", name) not in damaged
    ]
    for row in pd.concat([tables.empty(tables.ATOM_MAPS), *maps]).dropna(subset="overlay").itertuples():
        if not has_overlay(workspace, row.overlay, row.overlay_sha256):
            damaged.append(files.join(workspace.atom_overlays, row.overlay))
    for uri in damaged:
        place = f", put aside as {aside.put_aside(workspace.uri, uri)}" if files.exists(uri) else ""
        say(f"damaged or missing: {uri}{place}; {REMEDY}")
    return len(damaged)
