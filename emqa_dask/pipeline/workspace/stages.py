"""Which tables a partition has, and the folder each lies in: a digest of its settings, models and upstream folder."""

import dataclasses
from collections.abc import Iterable

from emqa_dask import models, tables
from emqa_dask.run.supervise import Died
from emqa_dask.settings import Settings, digest
from emqa_dask.store import layout

# A stage's number goes up when its code gives other tables for the same settings.
VERSIONS = {"detect": 4, "evidence": 1, "featurise": 4, "predict": 2, "classify": 2, "judge_classes": 2}
SCHEMAS = {
    "thumbnails": tables.THUMBNAILS,
    "detections": tables.DETECTIONS,
    "evidence": tables.EVIDENCE,
    "features": tables.FEATURES,
    "predictions": tables.PREDICTIONS,
    "probabilities": tables.PROBABILITIES,
    "regions": tables.REGIONS,
    "classifications": tables.CLASSIFICATIONS,
}
MADE_FROM = {
    "thumbnails": (),
    "detections": ("thumbnails",),
    "evidence": ("detections",),
    "features": ("detections",),
    "predictions": ("evidence", "features"),
    "probabilities": ("thumbnails",),
    "regions": ("probabilities",),
    "classifications": ("features", "probabilities", "regions"),
}
OF_STEP = {
    "ingest": ("thumbnails",),
    "detect": ("detections",),
    "classify": ("probabilities", "regions"),
    "featurise": ("evidence", "features"),
    "predict": ("predictions", "classifications"),
}


def folders(settings: Settings) -> dict[str, str]:
    """The folder of every table of a run with these settings, in the order of SCHEMAS."""
    cohorts = [cohort.plain() for cohort in settings.cohorts]
    # A network counts by what it is, not by where it lies.
    named = [name if name == "log" else models.digest(models.locate(name)) for name in settings.detect.detectors]
    detect = dataclasses.replace(settings.detect, detectors=tuple(named))
    detections = digest("detect", VERSIONS["detect"], detect, settings.run.device, *cohorts)
    evidence = digest("evidence", VERSIONS["evidence"], settings.featurise.score_floor, detections)
    of_features = (settings.featurise.order, settings.featurise.rings, settings.featurise.cs_mm)
    features = digest("featurise", VERSIONS["featurise"], *of_features, detections)
    quality_models = [models.digest(models.locate(name)) for name in settings.predict.models]
    predicted = digest("predict", VERSIONS["predict"], *quality_models, evidence, features)
    of = {"thumbnails": "", "detections": detections, "evidence": evidence, "features": features}
    of["predictions"] = predicted
    if settings.classify.model:
        how = settings.classify
        model = models.digest(models.locate(settings.classify.model))
        networks = model, models.digest(models.CONTENT)
        said = digest("classify", VERSIONS["classify"], how.method, how.precision, settings.run.device, *networks)
        of |= {"probabilities": said, "regions": said}
        of["classifications"] = digest("judge_classes", VERSIONS["judge_classes"], said, features)
    return {table: layout.table_dir(table, key) for table, key in of.items()}


def upstream(wanted: Iterable[str], there: Iterable[str]) -> tuple[str, ...]:
    """The tables `wanted` and all that they are made from, as far as a run has them (`there`), in order."""
    found: set[str] = set()

    def add(table: str) -> None:
        found.add(table)
        for source in MADE_FROM[table]:
            add(source)

    for table in wanted:
        add(table)
    return tuple(table for table in there if table in found)


def downstream(table: str, there: Iterable[str]) -> tuple[str, ...]:
    """`table` and all that is made from it, as far as a run has them (`there`), in order."""
    return tuple(other for other in there if table in upstream([other], SCHEMAS))


def failures_dir(folder: str) -> str:
    """The folder with the failures of the table in `folder`: parts of tables.FAILURES, of partitions that have any."""
    return f"failures-{folder}"


def failure_row(uri: str, micrograph_id: str | None, stage: str, died: Died, worker: str) -> dict:
    """The row of tables.FAILURES of a file, or of one micrograph of it."""
    said = ("kind", "error", "traceback", "attempts", "peak_memory_bytes")
    row = {"uri": uri, "micrograph_id": micrograph_id, "stage": stage, "worker": worker}
    return row | {key: getattr(died, key) for key in said}


# folders of the two tables that a survey writes
SURVEY_FILES = "survey"


SURVEY_FRAMES = "survey-micrographs"


SURVEY_FAILURES = failures_dir(SURVEY_FILES)


LOST = "the task that was to survey it failed; the next run tries it again"
