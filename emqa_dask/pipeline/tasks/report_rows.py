"""Input rows of the verdicts on some thousand micrographs, joined from a workspace's tables and checked."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from emqa_dask import tables
from emqa_dask.landmark_codes import LANDMARKS_BYTES
from emqa_dask.pipeline.tasks.condition_losses import compute_losses
from emqa_dask.pipeline.workspace.acquisition_groups import name_groups
from emqa_dask.pipeline.workspace.detectors import name_detectors
from emqa_dask.pipeline.workspace.micrograph_ledger import unpack_rows
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.run.supervise import Call, call_directly
from emqa_dask.settings import Flags, Settings
from emqa_dask.store import parts
from emqa_dask.store.arrow_streams import write_streams
from emqa_dask.store.layout import Workspace
from emqa_dask.triage import duplicates
from emqa_dask.triage.custom_checks import flag_custom_checks
from emqa_dask.triage.detector_choice import select_detector
from emqa_dask.triage.flags import flag_images, join_image_columns
from emqa_dask.triage.rows import (
    ACQUISITION_COLUMNS,
    EVIDENCE_COLUMNS,
    FEATURE_COLUMNS,
    MEASUREMENT_COLUMNS,
    MICROGRAPH_COLUMNS,
    ROWS,
    describe_all_failures,
    join_tables,
)

LEDGER_COLUMNS = ["micrograph_id", *MICROGRAPH_COLUMNS, *ACQUISITION_COLUMNS, "pixel_sha256", "dtype"]
LEDGER_COLUMNS += ["pixel_size_problem", "partition"]
COLUMNS = {  # of each table that are read
    "features": ["micrograph_id", *FEATURE_COLUMNS, *tables.IMAGE_STATISTICS, "signature", "landmarks"],
    "evidence": ["micrograph_id", "detector", *EVIDENCE_COLUMNS],
    "predictions": tables.PREDICTIONS.names,
    "measurements": ["micrograph_id", "detector", "label", *MEASUREMENT_COLUMNS],
    "classifications": tables.CLASSIFICATIONS.names,
    "custom_checks": tables.CUSTOM_CHECKS.names,
}
FLAG_TYPE = pa.struct([field for field in tables.FLAGS if field.name != "micrograph_id"])
FLAGGED_ROWS = ROWS.append(pa.field("flags", pa.list_(FLAG_TYPE)))
INDEX_FIELDS = (  # what is compared among all micrographs: see triage.duplicates
    pa.field("signature", pa.binary(duplicates.SIGNATURE_BYTES)),  # zeros where there is none
    pa.field("landmarks", pa.binary(LANDMARKS_BYTES)),  # zeros where there are none
    pa.field("pixels", pa.binary(duplicates.IDENTITY_BYTES)),
    pa.field("content", pa.binary(duplicates.IDENTITY_BYTES)),
    pa.field("shape", pa.uint32()),
    pa.field("acquisition_group", pa.uint64()),  # digest of the label; 0 where it is unknown
)
COLLECTED_ROWS = pa.schema([*FLAGGED_ROWS, *INDEX_FIELDS])


def write_rows(uri: str, *args, call: Call = call_directly) -> dict:
    """Record of a task that writes collect_rows(*args) into the file `uri`, for read_streams()."""
    rows = collect_rows(*args)
    write_streams(uri, [rows])
    return {"n_images": len(rows)}


def collect_rows(
    workspace: Workspace,
    packed_rows: bytes,
    is_current: NDArray,
    part_names: Mapping[str, Sequence[str]],
    settings: Settings,
    failures: pd.DataFrame,
) -> pa.Table:
    """Rows (COLLECTED_ROWS) of the micrographs in `packed_rows` that the archive contains: `is_current` (n,) bool.

    packed_rows: LEDGER_COLUMNS of whole partitions, for micrograph_ledger.unpack_rows(). part_names: partitions of
    them that have a part, for each of COLUMNS. Raises ValueError for a micrograph that occurs twice or is not in the
    ledger, and for impossible intervals.
    """
    ledger = unpack_rows(packed_rows)
    rows = ledger[is_current].reset_index(drop=True)
    _check_unique(rows[["micrograph_id"]], "the ledger")
    own_tables = _read_tables(workspace, ledger["micrograph_id"], part_names, settings)
    contents = own_tables["features"].set_index("micrograph_id")[["signature", "landmarks"]]
    contents = contents.reindex(rows["micrograph_id"])
    rows = rows.assign(**describe_all_failures(rows["micrograph_id"], failures))
    rows["session"] = name_groups(rows)
    joined_rows = join_tables(
        rows, own_tables["features"], own_tables["predictions"], own_tables.get("classifications")
    )
    joined_rows = joined_rows.assign(**compute_losses(joined_rows, settings))
    flagged_rows = tables.conform(joined_rows, ROWS).append_column(
        "flags", _list_flags(rows, own_tables, settings.flags)
    )
    arrays = [*flagged_rows.columns, *_make_index_columns(rows, contents)]
    return pa.Table.from_arrays(arrays, schema=COLLECTED_ROWS)


def _read_tables(
    workspace: Workspace, ledger_ids: pd.Series, part_names: Mapping[str, Sequence[str]], settings: Settings
) -> dict[str, pd.DataFrame]:
    """Rows of the parts `part_names` of each table of COLUMNS.

    `predictions` are the rows that `select_detector` chooses, with the columns of `evidence` and `measurements`.
    """
    folder_names = {table: folder for table, folder in list_run_folders(settings).items() if table in COLUMNS}
    own_tables = {}
    for table, folder in folder_names.items():
        own_tables[table] = parts.read_table(
            workspace.uri, folder, SCHEMAS[table], COLUMNS[table], partitions=part_names[table]
        )
        keys = [name for name in ("micrograph_id", "detector", "label", "name") if name in COLUMNS[table]]
        _check_unique(own_tables[table][keys], folder)
        _check_in_ledger(own_tables[table]["micrograph_id"], ledger_ids, folder)
    _check_intervals(own_tables["predictions"], folder_names["predictions"])
    predictions = select_detector(
        own_tables.pop("evidence"),
        own_tables["predictions"],
        list(name_detectors(settings.detect)),
        settings.triage.max_ood_distance,
    )
    measurements = own_tables.pop("measurements")
    of_all_classes = measurements[measurements["label"].isna()].drop(columns="label")
    own_tables["predictions"] = predictions.merge(of_all_classes, on=["micrograph_id", "detector"], how="left")
    return own_tables


def _make_index_columns(rows: pd.DataFrame, contents: pd.DataFrame) -> list[pa.Array]:
    """Arrays of INDEX_FIELDS for `rows` of the ledger and their signatures and landmarks (bytes, or null)."""
    byte_arrays = [duplicates.pack_bytes(contents["signature"], duplicates.SIGNATURE_BYTES)]
    byte_arrays.append(duplicates.pack_bytes(contents["landmarks"], LANDMARKS_BYTES))
    for columns in (duplicates.PIXELS, duplicates.CONTENT):
        byte_arrays.append(duplicates.compute_identities(*(rows[column] for column in columns)))
    group = duplicates.compute_identities(label_acquisition_groups(rows))[:, 0]
    return [
        *(
            pa.FixedSizeBinaryArray.from_buffers(field.type, len(rows), [None, pa.py_buffer(values.tobytes())])
            for field, values in zip(INDEX_FIELDS, byte_arrays)
        ),
        pa.array(duplicates.encode_shapes(rows["height_px"], rows["width_px"])),
        pa.array(np.ascontiguousarray(group)),
    ]


def label_acquisition_groups(micrographs: pd.DataFrame) -> pd.Series:
    """Labels of instrument, magnification and shape, whose images should share a pixel size; null where unknown."""
    instrument = micrographs["instrument"]
    magnification = micrographs["magnification"]
    shape = micrographs["height_px"].astype(str) + "x" + micrographs["width_px"].astype(str)
    label = instrument.fillna("").astype(str) + "|" + magnification.astype(str) + "|" + shape
    return label.where(instrument.notna() | magnification.notna())


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
    is_known = pc.is_in(pa.array(ids, pa.string()), pa.array(ledger_ids, pa.string())).to_numpy(zero_copy_only=False)
    if not is_known.all():
        unknown = ids[~is_known].iloc[0]
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
