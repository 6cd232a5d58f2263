"""Input rows of the verdicts, gathered in one pass over a workspace's tables and checked against its ledger."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow as pa

from emqa_dask import tables
from emqa_dask.pipeline.commands.report_copies import MicrographIndex
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pipeline.workspace.acquisition_groups import name_groups
from emqa_dask.pipeline.workspace.detectors import name_detectors
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.settings import Flags, Settings
from emqa_dask.store import parts
from emqa_dask.store.layout import Workspace
from emqa_dask.store.spill import ExternalSort
from emqa_dask.triage.custom_checks import flag_custom_checks
from emqa_dask.triage.detector_choice import select_detector
from emqa_dask.triage.flags import flag_images, join_image_columns
from emqa_dask.triage.rows import (
    EVIDENCE_COLUMNS,
    FEATURE_COLUMNS,
    FILE_COLUMNS,
    MICROGRAPH_COLUMNS,
    ROWS,
    describe_all_failures,
    join_tables,
    list_files,
)

LEDGER_COLUMNS = ["micrograph_id", *MICROGRAPH_COLUMNS, "pixel_sha256", "dtype", "instrument", "magnification"]
LEDGER_COLUMNS += ["pixel_size_problem", "voltage_kv", "partition"]
COLUMNS = {  # of each table that are read
    "features": ["micrograph_id", *FEATURE_COLUMNS, *tables.IMAGE_STATISTICS, "signature"],
    "evidence": ["micrograph_id", "detector", *EVIDENCE_COLUMNS],
    "predictions": tables.PREDICTIONS.names,
    "classifications": tables.CLASSIFICATIONS.names,
    "custom_checks": tables.CUSTOM_CHECKS.names,
}
FLAG_TYPE = pa.struct([field for field in tables.FLAGS if field.name != "micrograph_id"])
NUMBERED_ROWS = ROWS.append(pa.field("number", pa.int32()))  # position of a micrograph in the ledger, of current ones
SPILLED_ROWS = NUMBERED_ROWS.append(pa.field("flags", pa.list_(FLAG_TYPE)))


def gather_rows(
    workspace: Workspace, settings: Settings, failures: pd.DataFrame, runs: ExternalSort, index: MicrographIndex
) -> None:
    """Adds all rows (SPILLED_ROWS) of files and micrographs to `runs`, and all micrographs to `index`.

    Raises ValueError for a micrograph that occurs twice or is not in the ledger, and for impossible intervals.
    """
    for rows, own_tables in _read_batches(workspace, settings):
        image_signatures = own_tables["features"].set_index("micrograph_id")["signature"].reindex(rows["micrograph_id"])
        row_numbers = np.arange(index.n_micrographs, index.n_micrographs + len(rows), dtype="int32")
        index.add(rows, image_signatures)
        rows = rows.assign(**describe_all_failures(rows["micrograph_id"], failures))
        if "classifications" in own_tables:
            rows["cohort"] = name_groups(rows)
        joined_rows = join_tables(
            rows, own_tables["features"], own_tables["predictions"], own_tables.get("classifications")
        )
        joined_rows = tables.conform(joined_rows.assign(number=row_numbers), NUMBERED_ROWS)
        runs.add(joined_rows.append_column("flags", _list_flags(rows, own_tables, settings.flags)))
    columns = ["uri", "content_sha256", *FILE_COLUMNS, "is_present"]
    for catalog in parts.iterate_table(workspace.catalog, tables.CATALOG, columns):
        catalog["status"] = catalog["status"].where(catalog["is_present"].ne(False), "removed")
        joined_rows = tables.conform(list_files(catalog), NUMBERED_ROWS)
        runs.add(joined_rows.append_column("flags", pa.nulls(len(joined_rows), pa.list_(FLAG_TYPE))))


def _read_batches(workspace: Workspace, settings: Settings) -> Iterator[tuple[pd.DataFrame, dict[str, pd.DataFrame]]]:
    """Batches of some thousand micrographs: (rows of the ledger, their rows of each table of COLUMNS).

    `predictions` are the rows that `select_detector` chooses, with the columns of `evidence`.
    """
    folder_names = {table: folder for table, folder in list_run_folders(settings).items() if table in COLUMNS}
    part_names = {table: set(parts.list_parts(workspace.uri, folder)) for table, folder in folder_names.items()}
    detector_order = list(name_detectors(settings.detect))
    for ledger, is_current in micrograph_ledger.iter_ledger(workspace, LEDGER_COLUMNS):
        rows = ledger[is_current].reset_index(drop=True)
        if rows.empty:
            continue
        _check_unique(rows[["micrograph_id"]], "the ledger")
        own_tables = {}
        for table, folder in folder_names.items():
            names = [name for name in rows["partition"].unique() if name in part_names[table]]
            own_tables[table] = parts.read_table(
                workspace.uri, folder, SCHEMAS[table], COLUMNS[table], partitions=names
            )
            keys = [name for name in ("micrograph_id", "detector", "name") if name in COLUMNS[table]]
            _check_unique(own_tables[table][keys], folder)
            _check_in_ledger(own_tables[table]["micrograph_id"], ledger["micrograph_id"], folder)
        _check_intervals(own_tables["predictions"], folder_names["predictions"])
        own_tables["predictions"] = select_detector(
            own_tables.pop("evidence"), own_tables["predictions"], detector_order, settings.triage.max_ood_distance
        )
        yield rows, own_tables


def _list_flags(rows: pd.DataFrame, own_tables: dict[str, pd.DataFrame], settings: Flags) -> pa.ListArray:
    """Flags of each of `rows`, as lists of FLAG_TYPE: of features and the ledger, then of custom checks."""
    flags = flag_images(join_image_columns(own_tables["features"], rows), settings)
    if settings.custom:
        custom_flags = flag_custom_checks(own_tables["custom_checks"], settings.custom)
        flags = pd.concat([flags, custom_flags], ignore_index=True) if len(custom_flags) else flags
    positions = pd.Index(rows["micrograph_id"]).get_indexer(flags["micrograph_id"])
    order = np.argsort(positions, kind="stable")
    flags = flags.iloc[order]
    positions = positions[order]
    ends = np.searchsorted(positions, np.arange(len(rows) + 1)).astype("int32")
    details = tables.conform(flags, tables.FLAGS).drop_columns("micrograph_id").to_struct_array().combine_chunks()
    return pa.ListArray.from_arrays(pa.array(ends), details)


def _check_unique(keys: pd.DataFrame, source: str) -> None:
    if keys.duplicated().any():
        first_duplicate = keys[keys.duplicated()].iloc[0]
        raise ValueError(
            ", ".join(f"{name} {value!r}" for name, value in first_duplicate.items()) + f" occurs twice in {source}"
        )


def _check_in_ledger(ids: pd.Series, ledger_ids: pd.Series, folder: str) -> None:
    is_unknown = ~ids.isin(ledger_ids)
    if is_unknown.any():
        unknown = ids[is_unknown].iloc[0]
        raise ValueError(
            f"{folder} has micrograph {unknown!r}, which the ledger does not have: {_describe_remedy(folder)}"
        )


def _check_intervals(predictions: pd.DataFrame, folder: str) -> None:
    """Raises ValueError unless 0 <= low <= mean <= high <= 1 in all rows where these are known."""
    for name in ("predicted_f1", "predicted_precision", "predicted_recall"):
        low, mean, high = (predictions[name + end].to_numpy() for end in ("_low", "", "_high"))
        is_wrong = (low > mean) | (mean > high) | (low < 0) | (high > 1)
        if is_wrong.any():
            k = int(np.flatnonzero(is_wrong)[0])
            micrograph = predictions["micrograph_id"].iloc[k]
            raise ValueError(
                f"{folder}: micrograph {micrograph} has a {name} of {mean[k]:g} in an interval of {low[k]:g} to "
                f"{high[k]:g}, which cannot be: {_describe_remedy(folder)}"
            )


def _describe_remedy(folder: str) -> str:
    return f"delete the folder {folder} of the workspace and run `emqa triage` again, which makes it anew"
