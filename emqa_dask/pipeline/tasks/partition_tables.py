"""The task of a partition: makes its missing tables and reads its pixels once."""

import concurrent.futures
from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd

from emqa_dask import tables
from emqa_dask.partition import Partition
from emqa_dask.pipeline.tasks.classify import classify_micrographs
from emqa_dask.pipeline.tasks.image_stages import ImageStages
from emqa_dask.pipeline.tasks.map_tiles import map_stored_tiles
from emqa_dask.pipeline.tasks.measure_images import measure_partition
from emqa_dask.pipeline.tasks.measure_objects import MEASUREMENT_TABLES, measure_stored_objects
from emqa_dask.pipeline.tasks.predict import FEATURE_COLUMNS, join_evidence, predict_rows, summarise_detections
from emqa_dask.pipeline.tasks.store_partition import store_partition
from emqa_dask.pipeline.workspace.failures import drop_parts, read_failed_ids
from emqa_dask.pipeline.workspace.part_folders import name_failures_folder
from emqa_dask.pipeline.workspace.stages import NEEDS_PIXELS, SCHEMAS, TABLES, list_downstream_tables, list_run_folders
from emqa_dask.run.supervise import Call, call_directly
from emqa_dask.settings import Settings
from emqa_dask.store import micrographs, parts
from emqa_dask.store.layout import Workspace

# Tables that are made from other tables at the end.
PREDICTED = tuple(table for table, stage in TABLES.items() if stage.step == "predict")
DERIVED = (*PREDICTED, "tiles", *MEASUREMENT_TABLES)


def make_tables(
    workspace: Workspace,
    partition: Partition,
    rows: pd.DataFrame,
    settings: Settings,
    final_tables: tuple[str, ...],
    call: Call = call_directly,
) -> dict:
    """Record of the task that makes every table of `final_tables` that `partition` lacks, in the order of stages.

    `rows` are the partition's micrographs in the order of its slots, with the columns make_tables.TASK_COLUMNS.
    Every table is one part, written whole. A micrograph on which a stage fails finally (`call` raises CallFailed) has
    no row in that stage's table and the tables made from it. It has a row in the part of tables.FAILURES in the folder
    "failures-<table's folder>", which is written first. The record has "n_failed" and under "stages" the seconds of
    each.
    """
    table_folders = list_run_folders(settings)
    missing = _find_missing(workspace, partition, table_folders, final_tables)
    stages = ImageStages(call)
    remaining = _store_or_find(workspace, partition, rows, table_folders, missing, stages)
    new_rows: dict[str, list] = {table: [] for table in missing if table not in DERIVED}
    if set(new_rows) == {"evidence"}:  # another score floor: no pixel is needed
        with stages.time_stage("featurise"):
            new_rows["evidence"] = summarise_detections(workspace, remaining, settings, [partition.name])
    elif new_rows:
        measure_partition(workspace, partition, remaining, settings, new_rows, stages)
    _write(workspace, partition, table_folders, new_rows, stages.failures)
    if "tiles" in missing:
        with stages.time_stage("tiles"):
            tiles = map_stored_tiles(workspace, rows, settings, [partition.name])
            parts.write_part(workspace.uri, table_folders["tiles"], partition.name, tiles, tables.TILES)
    if set(PREDICTED) & set(missing):
        with stages.time_stage("predict"):
            _predict(workspace, partition, rows, settings, table_folders, missing)
    if set(MEASUREMENT_TABLES) & set(missing):
        with stages.time_stage("measure"):
            measured_rows = measure_stored_objects(workspace, rows, settings, [partition.name])
            missing_rows = {table: measured_rows[table] for table in MEASUREMENT_TABLES if table in missing}
            _write(workspace, partition, table_folders, missing_rows, stages.failures)
    n_bytes = sum(row.height_px * row.width_px * np.dtype(row.dtype).itemsize for row in remaining.itertuples())
    return {
        "stages": stages.seconds,
        "n_images": len(rows),
        "bytes": n_bytes,
        "n_failed": sum(map(len, stages.failures.values())),
        "outcome": "done" if missing else "found",
    }


def _find_missing(
    workspace: Workspace, partition: Partition, table_folders: dict[str, str], final_tables: Collection[str]
) -> list[str]:
    """The missing tables of `final_tables`; for damaged pixels also the thumbnails, which are made with the shard.

    Removes tables that were made without unstored images, if these may be stored now.
    """
    missing = [
        table
        for table in final_tables
        if not parts.has_part(workspace.uri, table_folders[table], partition.name, SCHEMAS[table])
    ]
    if "thumbnails" in missing or not (
        NEEDS_PIXELS & set(missing) and micrographs.find_damaged_slots(workspace.uri, partition)
    ):
        return missing
    if not len(read_failed_ids(workspace, table_folders["thumbnails"], partition.name)):
        return ["thumbnails", *missing]
    drop_parts(workspace, table_folders, list_downstream_tables("thumbnails", table_folders)[1:], partition.name)
    return list(final_tables)


def _store_or_find(
    workspace: Workspace,
    partition: Partition,
    rows: pd.DataFrame,
    table_folders: dict[str, str],
    missing: Collection[str],
    stages: ImageStages,
) -> pd.DataFrame:
    """The micrographs of `rows` that are in the store and did not fail in the stages of existing tables."""
    if "thumbnails" in missing:
        with stages.time_stage("store"):
            stages.failures["thumbnails"] = store_partition(workspace, partition, rows, stages.call)
        failed = [failure["micrograph_id"] for failure in stages.failures["thumbnails"]]
    else:
        stored = parts.read_part(
            workspace.uri, table_folders["thumbnails"], partition.name, tables.THUMBNAILS, ["micrograph_id"]
        )
        failed = rows["micrograph_id"][~rows["micrograph_id"].isin(stored["micrograph_id"])]
    if {"evidence", "features"} & set(missing) and "detections" not in missing:
        # An image without detections and one on which detection failed both have no rows.
        failed = [*failed, *read_failed_ids(workspace, table_folders["detections"], partition.name)]
    return rows[~rows["micrograph_id"].isin(failed)]


def _write(
    workspace: Workspace,
    partition: Partition,
    table_folders: dict[str, str],
    new_rows: Mapping[str, list],
    failures: Mapping[str, list],
) -> None:
    """Writes the tables `new_rows`, each after its failures; all at once, as each waits for the disk or bucket."""

    def write_table(table: str) -> None:
        rows = new_rows[table]
        failed_rows = failures[table]
        if failed_rows:
            folder = name_failures_folder(table_folders[table])
            parts.write_part(workspace.uri, folder, partition.name, failed_rows, tables.FAILURES)
        if table in ("detections", "probabilities") and rows:
            rows = pd.concat(rows, ignore_index=True)
        parts.write_part(
            workspace.uri, table_folders[table], partition.name, rows, SCHEMAS[table], len(failures[table])
        )

    if new_rows:
        with concurrent.futures.ThreadPoolExecutor(len(new_rows)) as threads:
            list(threads.map(write_table, new_rows))  # raises the first error


def _predict(
    workspace: Workspace,
    partition: Partition,
    rows: pd.DataFrame,
    settings: Settings,
    table_folders: dict[str, str],
    missing: Collection[str],
) -> None:
    """Writes those of the tables PREDICTED that are `missing`; `rows` are all micrographs of the partition."""

    def read(table: str, columns: list[str] | None = None) -> pd.DataFrame:
        return parts.read_part(workspace.uri, table_folders[table], partition.name, SCHEMAS[table], columns)

    features = read("features", FEATURE_COLUMNS)
    features = features.merge(rows[["micrograph_id", "voltage_kv"]], on="micrograph_id", how="left")
    if "predictions" in missing:
        embeddings = read("embeddings") if "embeddings" in table_folders else None
        predicted = predict_rows(join_evidence(read("evidence"), features, embeddings), settings)
        parts.write_part(workspace.uri, table_folders["predictions"], partition.name, predicted, tables.PREDICTIONS)
    if "classifications" in missing:
        for table in ("probabilities", "regions"):
            failed = read_failed_ids(workspace, table_folders[table], partition.name)
            features = features[~features["micrograph_id"].isin(failed)]
        classified = classify_micrographs(read("probabilities"), read("regions"), features, settings)
        parts.write_part(
            workspace.uri, table_folders["classifications"], partition.name, classified, tables.CLASSIFICATIONS
        )
