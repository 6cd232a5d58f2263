"""Which tables a partition has, and the folder each lies in: a digest of its settings, models and upstream folder."""

import dataclasses

from emqa_dask import models, tables
from emqa_dask.run.supervise import Died
from emqa_dask.settings import Settings, digest
from emqa_dask.store import layout

# A stage's number goes up when its code gives other tables for the same settings.
VERSIONS = {"detect": 3, "evidence": 1, "featurise": 3, "predict": 2}
SCHEMAS = {
    "thumbnails": tables.THUMBNAILS,
    "detections": tables.DETECTIONS,
    "evidence": tables.EVIDENCE,
    "features": tables.FEATURES,
    "predictions": tables.PREDICTIONS,
}


def folders(settings: Settings) -> dict[str, str]:
    """The folder of every table of SCHEMAS in the workspace, for these settings."""
    cohorts = [cohort.plain() for cohort in settings.cohorts]
    # A network counts by what it is, not by where it lies.
    named = [name if name == "log" else models.digest(models.locate(name)) for name in settings.detect.detectors]
    detect = dataclasses.replace(settings.detect, detectors=tuple(named))
    detections = digest("detect", VERSIONS["detect"], detect, *cohorts)
    evidence = digest("evidence", VERSIONS["evidence"], settings.featurise.score_floor, detections)
    features = digest("featurise", VERSIONS["featurise"], settings.featurise.order, detections)
    forests = [models.digest(models.locate(name)) for name in settings.predict.forests]
    predicted = digest("predict", VERSIONS["predict"], *forests, evidence, features)
    return {
        "thumbnails": layout.table_dir("thumbnails"),
        "detections": layout.table_dir("detections", detections),
        "evidence": layout.table_dir("evidence", evidence),
        "features": layout.table_dir("features", features),
        "predictions": layout.table_dir("predictions", predicted),
    }


def failures_dir(folder: str) -> str:
    """The folder with the failures of the table in `folder`: parts of tables.FAILURES, of partitions that have any."""
    return f"failures-{folder}"


def failure_row(uri: str, micrograph_id: str | None, stage: str, died: Died, worker: str) -> dict:
    """The row of tables.FAILURES of a file, or of one micrograph of it."""
    said = ("kind", "error", "traceback", "attempts", "peak_memory_bytes")
    row = {"uri": uri, "micrograph_id": micrograph_id, "stage": stage, "worker": worker}
    return row | {key: getattr(died, key) for key in said}
