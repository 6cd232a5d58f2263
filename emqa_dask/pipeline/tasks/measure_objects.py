"""Measurements and sizes of objects from stored detections, of one partition or of several at once."""

import time
from collections.abc import Sequence

import pandas as pd

from emqa_dask.measure import micrograph
from emqa_dask.measure.micrograph import Field, Objects
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.run.supervise import Call, call_directly
from emqa_dask.settings import Measure, Settings
from emqa_dask.store import parts
from emqa_dask.store.layout import Workspace

MEASUREMENT_TABLES = ("measurements", "sizes")  # tables that the stage makes
DETECTION_COLUMNS = ["micrograph_id", "detector", "score", *micrograph.COLUMNS]
FIELD_COLUMNS = ["micrograph_id", "height_px", "width_px", "nm_per_pixel", "nm_per_pixel_y"]
EVIDENCE_COLUMNS = ["micrograph_id", "detector", "score_floor"]


def measure_stored_objects(
    workspace: Workspace, rows: pd.DataFrame, settings: Settings, names: Sequence[str]
) -> dict[str, list[dict]]:
    """Rows of MEASUREMENT_TABLES of partitions `names`: of every micrograph and detector with evidence.

    `rows`: their micrographs, with FIELD_COLUMNS.
    """
    folders = list_run_folders(settings)
    columns = {"evidence": EVIDENCE_COLUMNS, "detections": DETECTION_COLUMNS}
    evidence, detections = (
        parts.read_table(workspace.uri, folders[table], SCHEMAS[table], columns[table], names) for table in columns
    )
    return measure_detections(evidence, detections, rows, settings.measure)


def measure_detections(
    evidence: pd.DataFrame, detections: pd.DataFrame, rows: pd.DataFrame, settings: Measure
) -> dict[str, list[dict]]:
    """Rows of MEASUREMENT_TABLES of the micrographs `rows`, in the order of `evidence`."""
    fields = {
        micrograph_id: Field((height, width), x, y)
        for micrograph_id, height, width, x, y in zip(*(rows[name] for name in FIELD_COLUMNS), strict=True)
    }
    keys = ["micrograph_id", "detector"]
    positions = detections.groupby(keys, sort=False).indices
    scores = detections["score"].to_numpy()
    objects = Objects.from_detections(detections)
    new_rows: dict[str, list[dict]] = {table: [] for table in MEASUREMENT_TABLES}
    for micrograph_id, detector, score_floor in evidence[EVIDENCE_COLUMNS].itertuples(index=False):
        own_positions = positions.get((micrograph_id, detector), [])
        own_objects = objects.select([k for k in own_positions if scores[k] >= score_floor])
        image_rows = micrograph.measure_objects(own_objects, fields[micrograph_id], settings)
        ids = {"micrograph_id": micrograph_id, "detector": detector}
        for table, table_rows in zip(MEASUREMENT_TABLES, image_rows, strict=True):
            new_rows[table] += [ids | row for row in table_rows]
    return new_rows


def make_measurements_together(
    workspace: Workspace, rows: pd.DataFrame, settings: Settings, call: Call = call_directly
) -> dict:
    """Record of the task that makes the tables MEASUREMENT_TABLES of partitions with detections and evidence.

    `rows` and errors: see `predict.make_predictions_together`.
    """
    started = time.perf_counter()
    folders = list_run_folders(settings)
    names = list(dict.fromkeys(rows["partition"]))
    partition_names = dict(zip(rows["micrograph_id"], rows["partition"], strict=True))
    for table, new_rows in measure_stored_objects(workspace, rows, settings, names).items():
        # A killed run may have left one of the two tables: what is there stays.
        schema = SCHEMAS[table]
        missing = [name for name in names if not parts.has_part(workspace.uri, folders[table], name, schema)]
        table_rows = pd.DataFrame(new_rows, columns=schema.names)
        row_names = table_rows["micrograph_id"].map(partition_names)
        is_missing = row_names.isin(missing)
        parts.write_parts(workspace.uri, folders[table], table_rows[is_missing], row_names[is_missing], missing, schema)
    return {"stages": {"measure": time.perf_counter() - started}, "n_images": len(rows)}
