"""Verdicts on some files of a workspace, from the parts of their partitions only."""

from collections.abc import Collection

import numpy as np
import pandas as pd
import pyarrow as pa

from emqa_dask import tables
from emqa_dask.pipeline.commands.report_verdicts import complete_files, find_entropy_limit
from emqa_dask.pipeline.tasks.report_decisions import decide_rows
from emqa_dask.pipeline.tasks.report_rows import COLUMNS, FLAGGED_ROWS, LEDGER_COLUMNS, collect_rows
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pipeline.workspace.stages import list_run_folders
from emqa_dask.settings import Settings
from emqa_dask.store import digests, parts
from emqa_dask.store.layout import Workspace
from emqa_dask.triage.rows import FILE_COLUMNS, list_files

FILE_ROW_COLUMNS = ["uri", "content_sha256", *FILE_COLUMNS]


def decide_files(workspace: Workspace, uris: Collection[str], settings: Settings) -> pd.DataFrame:
    """Rows of tables.TRIAGE of the files `uris` and their micrographs, sorted by uri and frame.

    Copies and suspect pixel sizes are not known here, because these need all files: the next report has them.
    """
    catalog = read_rows(workspace.catalog, tables.CATALOG, FILE_ROW_COLUMNS, ("uri", list(uris)))
    rows = [tables.conform(list_files(catalog), FLAGGED_ROWS)]
    rows += _collect_micrographs(workspace, catalog, settings)
    table = pa.concat_tables(rows).sort_by([("uri", "ascending"), ("frame", "ascending")])
    column = FLAGGED_ROWS.get_field_index("is_nm_per_pixel_suspect")
    table = table.set_column(column, FLAGGED_ROWS.field(column), pa.array(np.zeros(len(table), bool)))
    no_copies = pd.DataFrame(columns=["row", *tables.FLAGS.names])
    entropy_limit_nats = find_entropy_limit(settings)
    decisions = [decide_rows(part, no_copies, settings, entropy_limit_nats).triage for part in complete_files([table])]
    return pa.concat_tables([tables.TRIAGE.empty_table(), *decisions]).to_pandas()


def _collect_micrographs(workspace: Workspace, catalog: pd.DataFrame, settings: Settings) -> list[pa.Table]:
    """Rows (FLAGGED_ROWS) of the micrographs of the files in `catalog`: one table, or none."""
    own_rows = read_rows(workspace.micrographs, tables.MICROGRAPHS, ["uri", "partition"], ("uri", list(catalog["uri"])))
    names = list(dict.fromkeys(own_rows["partition"]))
    if not names:
        return []
    columns = list(dict.fromkeys([*LEDGER_COLUMNS, "content_sha256"]))
    ledger = read_rows(workspace.micrographs, tables.MICROGRAPHS, columns, ("partition", names))
    present = digests.DigestSet()
    present.add(digests.digest_contents(catalog[catalog["content_sha256"].notna()]))
    is_current = present.has(digests.digest_contents(ledger))
    folder_names = {table: folder for table, folder in list_run_folders(settings).items() if table in COLUMNS}
    part_names = {
        table: [name for name in names if parts.has_part(workspace.uri, folder, name)]
        for table, folder in folder_names.items()
    }
    failures = parts.load_table(workspace.failures, tables.FAILURES)
    failures = failures[failures["micrograph_id"].isin(ledger["micrograph_id"])]
    packed_rows = micrograph_ledger.pack_rows(ledger[LEDGER_COLUMNS])
    rows = collect_rows(workspace, packed_rows, is_current, part_names, settings, failures)
    return [rows.select(FLAGGED_ROWS.names)]


def read_contents(workspace: Workspace, uris: Collection[str]) -> pd.DataFrame:
    """Columns uri and content_sha256 of those files `uris` that are in the catalog and could be read."""
    columns = ["uri", "content_sha256"]
    return read_rows(workspace.catalog, tables.CATALOG, columns, ("uri", list(uris))).dropna()


def read_rows(uri: str, schema: pa.Schema, columns: list[str], row_filter: tuple[str, list[str]]) -> pd.DataFrame:
    """Rows of the table `uri` whose column has one of the values of `row_filter` (column, values)."""
    batches = parts.iterate_table(uri, schema, columns, row_filter=row_filter)
    return pd.concat([tables.empty(schema)[columns], *batches], ignore_index=True)
