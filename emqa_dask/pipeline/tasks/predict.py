"""Evidence and predictions from what was detected: of one partition in its task, or of many partitions at once."""

import itertools
import time

import pandas as pd

from emqa_dask import tables
from emqa_dask.pipeline.workspace.failures import failed_ids
from emqa_dask.pipeline.workspace.stages import SCHEMAS, folders
from emqa_dask.run.supervise import Call, call_directly
from emqa_dask.settings import Settings
from emqa_dask.store import parts
from emqa_dask.store.layout import Workspace

DETECTION_COLUMNS = ["micrograph_id", "detector", "y0", "x0", "y1", "x1", "score", "circularity"]
FEATURE_COLUMNS = [name for name in tables.FEATURES.names if name != "signature"]


def join_evidence(evidence: pd.DataFrame, features: pd.DataFrame) -> pd.DataFrame:
    """A row per micrograph and detector with all that is known of both: what models predict from."""
    return evidence.merge(features, on="micrograph_id", how="inner", validate="many_to_one")


def summarise_detections(workspace: Workspace, rows: pd.DataFrame, settings: Settings, names: list[str]) -> list[dict]:
    """The rows of tables.EVIDENCE of the micrographs `rows` of partitions `names`, as far as their features are there.

    From the detections that are there: no pixel is needed.
    """
    from emqa_dask.pipeline.tasks.image_measurement import summarise_images

    table_folders = folders(settings)
    detections = parts.read_table(
        workspace.uri, table_folders["detections"], SCHEMAS["detections"], DETECTION_COLUMNS, names
    )
    failed = {one for name in names for one in failed_ids(workspace, table_folders["features"], name)}
    records = rows[~rows["micrograph_id"].isin(failed)].to_dict("records")
    return list(itertools.chain.from_iterable(summarise_images(records, detections, settings)))


def make_evidence_together(
    workspace: Workspace, rows: pd.DataFrame, settings: Settings, call: Call = call_directly
) -> dict:
    """Make the evidence of partitions whose thumbnails, detections and features are there, as make_tables() does.

    `rows`, errors: see make_predictions_together().
    """
    started = time.perf_counter()
    table_folders = folders(settings)
    names = list(dict.fromkeys(rows["partition"]))
    stored = parts.read_table(
        workspace.uri, table_folders["thumbnails"], SCHEMAS["thumbnails"], ["micrograph_id"], names
    )
    failed = {one for name in names for one in failed_ids(workspace, table_folders["detections"], name)}
    summarised = rows[rows["micrograph_id"].isin(stored["micrograph_id"]) & ~rows["micrograph_id"].isin(failed)]
    evidence = pd.DataFrame(summarise_detections(workspace, summarised, settings, names), columns=tables.EVIDENCE.names)
    partition_names = evidence["micrograph_id"].map(dict(zip(rows["micrograph_id"], rows["partition"])))
    parts.write_parts(workspace.uri, table_folders["evidence"], evidence, partition_names, names, tables.EVIDENCE)
    return {"stages": {"featurise": time.perf_counter() - started}, "n_images": len(rows)}


def make_predictions_together(
    workspace: Workspace, rows: pd.DataFrame, settings: Settings, call: Call = call_directly
) -> dict:
    """Make the predictions of partitions whose evidence and features are there, as make_tables() does.

    `rows` are their micrographs, with the columns OF_LEDGER. A partition of 32 images by itself takes four times as
    long as its share of a thousand. Raises ValueError or FileNotFoundError where a part is damaged or gone, and
    whatever models raise: then partitions are dealt with one by one, and it is known whose fault it was. Parts that are
    written stay.
    """
    from emqa_dask.predict.predictions import predict_images  # where it runs: a driver of many workers does without

    started = time.perf_counter()
    table_folders = folders(settings)
    names = list(dict.fromkeys(rows["partition"]))
    features = parts.read_table(workspace.uri, table_folders["features"], SCHEMAS["features"], FEATURE_COLUMNS, names)
    evidence = parts.read_table(workspace.uri, table_folders["evidence"], SCHEMAS["evidence"], None, names)
    inputs = join_evidence(evidence, features.merge(rows, on="micrograph_id", how="left"))
    predicted = predict_images(inputs, settings.predict.models)
    parts.write_parts(
        workspace.uri, table_folders["predictions"], predicted, inputs["partition"], names, tables.PREDICTIONS
    )
    return {"stages": {"predict": time.perf_counter() - started}, "n_images": len(rows)}
