"""Evidence and predictions from stored detections, of one partition or of several at once."""

import dataclasses
import itertools
import time

import pandas as pd

from emqa_dask import tables
from emqa_dask.pipeline.workspace.detector_choices import read_choices
from emqa_dask.pipeline.workspace.failures import read_failed_ids
from emqa_dask.pipeline.workspace.quality_models import select_fitting_models
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.run.supervise import Call, call_directly
from emqa_dask.settings import Settings
from emqa_dask.store import parts
from emqa_dask.store.layout import Workspace

DETECTION_COLUMNS = ["micrograph_id", "detector", "y0", "x0", "y1", "x1", "score", "circularity", "stability"]
DETECTION_COLUMNS += ["class_margin", "label"]
FEATURE_COLUMNS = [name for name in tables.FEATURES.names if name not in ("signature", *tables.TILE_COLUMNS)]


def join_evidence(
    evidence: pd.DataFrame, features: pd.DataFrame, embeddings: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Input of the quality models: a row per micrograph and detector with the columns of evidence and features.

    With `embeddings` (tables.EMBEDDINGS) also the columns `embedding`, an array (d,) for the rows of networks, and
    `content_embedding` and `kind_probabilities`, one for all rows of an image; else None.
    """
    rows = evidence.merge(features, on="micrograph_id", how="inner", validate="many_to_one")
    if embeddings is None:
        return rows
    columns = {tables.CONTENT: "content_embedding", tables.OBJECT_KINDS: "kind_probabilities"}
    is_of_image = embeddings["detector"].isin(list(columns))
    rows = rows.merge(embeddings[~is_of_image], on=["micrograph_id", "detector"], how="left", validate="one_to_one")
    for network, name in columns.items():
        of_network = embeddings[embeddings["detector"].eq(network)].set_index("micrograph_id")["embedding"]
        rows[name] = rows["micrograph_id"].map(of_network)
    for name in ("embedding", *columns.values()):
        rows[name] = rows[name].astype(object).where(rows[name].notna(), None)
    return rows


def predict_rows(rows: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Rows of tables.PREDICTIONS for the `rows` of join_evidence(), in their order."""
    from emqa_dask.predict.content_distances import add_content_distances
    from emqa_dask.predict.predictions import predict_images  # where it runs: a driver of many workers does without

    predictions = predict_images(rows, select_fitting_models(settings.predict.models, settings.detect))
    return add_content_distances(predictions, rows, settings.detect.networks)


def summarise_detections(workspace: Workspace, rows: pd.DataFrame, settings: Settings, names: list[str]) -> list[dict]:
    """Rows of tables.EVIDENCE of those micrographs `rows` of partitions `names` that have features.

    They are computed from stored detections, without pixels.
    """
    from emqa_dask.pipeline.tasks.image_measurement import summarise_images

    table_folders = list_run_folders(settings)
    detections = parts.read_table(
        workspace.uri, table_folders["detections"], SCHEMAS["detections"], DETECTION_COLUMNS, names
    )
    failed = {failed_id for name in names for failed_id in read_failed_ids(workspace, table_folders["features"], name)}
    records = rows[~rows["micrograph_id"].isin(failed)].to_dict("records")
    choices = read_choices(workspace, settings)

    def find_settings(row: dict) -> Settings:
        detect = choices.resolve(settings.detect, row["uri"], row["instrument"])
        return settings if detect is settings.detect else dataclasses.replace(settings, detect=detect)

    return list(itertools.chain.from_iterable(summarise_images(records, detections, find_settings)))


def make_evidence_together(
    workspace: Workspace, rows: pd.DataFrame, settings: Settings, call: Call = call_directly
) -> dict:
    """Record of the task that makes the evidence of partitions with thumbnails, detections and features.

    `rows` and errors: see `make_predictions_together`.
    """
    started = time.perf_counter()
    table_folders = list_run_folders(settings)
    names = list(dict.fromkeys(rows["partition"]))
    stored_detections = parts.read_table(
        workspace.uri, table_folders["thumbnails"], SCHEMAS["thumbnails"], ["micrograph_id"], names
    )
    failed = {
        failed_id for name in names for failed_id in read_failed_ids(workspace, table_folders["detections"], name)
    }
    summarised = rows[
        rows["micrograph_id"].isin(stored_detections["micrograph_id"]) & ~rows["micrograph_id"].isin(failed)
    ]
    evidence = pd.DataFrame(summarise_detections(workspace, summarised, settings, names), columns=tables.EVIDENCE.names)
    partition_names = evidence["micrograph_id"].map(dict(zip(rows["micrograph_id"], rows["partition"])))
    parts.write_parts(workspace.uri, table_folders["evidence"], evidence, partition_names, names, tables.EVIDENCE)
    return {"stages": {"featurise": time.perf_counter() - started}, "n_images": len(rows)}


def make_predictions_together(
    workspace: Workspace, rows: pd.DataFrame, settings: Settings, call: Call = call_directly
) -> dict:
    """Record of the task that makes the predictions of partitions with evidence and features.

    `rows` are their micrographs, with the columns bundled_tables.LEDGER_COLUMNS. A partition of 32 images takes four
    times as long by itself as in a task of a thousand images. Raises ValueError or FileNotFoundError where a part is
    damaged or missing, and the errors of models; the partitions then get one task each, which identifies the faulty
    one. Parts that were written remain.
    """
    started = time.perf_counter()
    table_folders = list_run_folders(settings)
    names = list(dict.fromkeys(rows["partition"]))
    features = parts.read_table(workspace.uri, table_folders["features"], SCHEMAS["features"], FEATURE_COLUMNS, names)
    evidence = parts.read_table(workspace.uri, table_folders["evidence"], SCHEMAS["evidence"], None, names)
    embeddings = None
    if "embeddings" in table_folders:
        embeddings = parts.read_table(workspace.uri, table_folders["embeddings"], SCHEMAS["embeddings"], None, names)
    inputs = join_evidence(evidence, features.merge(rows, on="micrograph_id", how="left"), embeddings)
    predicted = predict_rows(inputs, settings)
    parts.write_parts(
        workspace.uri, table_folders["predictions"], predicted, inputs["partition"], names, tables.PREDICTIONS
    )
    return {"stages": {"predict": time.perf_counter() - started}, "n_images": len(rows)}
