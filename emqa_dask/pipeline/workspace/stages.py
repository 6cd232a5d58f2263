"""The stages from an image to its verdict, with the tables that each makes and the folders of the tables."""

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

from emqa_dask import models, tables
from emqa_dask.settings import Detect, Settings, digest
from emqa_dask.store import layout


class Stage(NamedTuple):
    """A step from an image to its verdict. Its output depends on its version, settings, models and needed tables."""

    name: str
    step: str  # of `emqa STEP`, which makes it
    tables: tuple[str, ...]  # that it makes, in this order
    needs: tuple[str, ...]  # tables that it reads
    version: int  # to be raised when the code gives other tables for the same settings; a test detects the change
    has_pixels: bool  # does it read pixels?


# The one list of stages; every other list is derived from it. A stage comes behind those whose tables it needs.
STAGES = (
    Stage("store", "ingest", ("thumbnails",), (), 1, True),
    Stage("detect", "detect", ("detections", "embeddings"), ("thumbnails",), 6, True),
    Stage("classify", "classify", ("probabilities", "regions"), ("thumbnails",), 2, True),
    Stage("evidence", "featurise", ("evidence",), ("detections",), 2, False),
    Stage("featurise", "featurise", ("features",), ("detections",), 8, True),
    Stage("tiles", "featurise", ("tiles",), ("detections", "evidence", "features"), 1, False),
    Stage("check", "featurise", ("custom_checks",), ("thumbnails",), 1, True),
    Stage("predict", "predict", ("predictions",), ("evidence", "features", "embeddings"), 4, False),
    Stage("uncertainty", "predict", ("classifications",), ("features", "probabilities", "regions"), 2, False),
    Stage("measure", "measure", ("measurements", "sizes"), ("detections", "evidence"), 1, False),
)
TABLES = {table: stage for stage in STAGES for table in stage.tables}  # table -> the stage that makes it
SCHEMAS = {table: getattr(tables, table.upper()) for table in TABLES}
VERSIONS = {stage.name: stage.version for stage in STAGES}
NEEDS_PIXELS = {table for table, stage in TABLES.items() if stage.has_pixels}
# `emqa STEP`, in the order of a run: ingest also surveys files, and report has no table of partitions.
STEPS = (*dict.fromkeys(stage.step for stage in STAGES), "report")
STEPS_WITH_PIXELS = {stage.step for stage in STAGES if stage.has_pixels}


def list_step_tables(step: str) -> tuple[str, ...]:
    """The tables that `emqa STEP` makes."""
    return tuple(table for table, stage in TABLES.items() if stage.step == step)


def list_needed_tables(table: str) -> tuple[str, ...]:
    """The tables that `table` is made from: those that its stage needs, and those that its stage makes before."""
    stage = TABLES[table]
    return (*stage.needs, *stage.tables[: stage.tables.index(table)])


def list_run_folders(settings: Settings) -> dict[str, str]:
    """The folder of every table of a run with these settings, in the order of STAGES.

    Its name has a digest of the stage, its version, its settings, its models and the folders of the tables it needs.
    """
    cohorts = [cohort.to_toml_table() for cohort in settings.cohorts]
    detect = _detect_by_content(settings.detect, settings.run.device)
    detections = _digest_stage("detect", detect, settings.run.device, *cohorts)
    evidence = _digest_stage("evidence", settings.featurise.score_floor, detections)
    featurise = settings.featurise
    inputs = (featurise.order, featurise.rings, featurise.cs_mm, *tables.IMAGE_STATISTICS)
    picture_model = models.digest_model_card(models.PICTURE_MODEL)
    features = _digest_stage("featurise", *inputs, picture_model, detections)
    quality_models = [_digest_model(name) for name in settings.predict.models]
    digests = {
        "thumbnails": "",
        "detections": detections,
        "evidence": evidence,
        "features": features,
    }
    digests["tiles"] = _digest_stage("tiles", evidence, features)
    embeddings = ""
    if settings.detect.networks:
        # The card of OBJECT_MODEL has the digest of the network that it builds on.
        content_models = [models.digest_model_card(path) for path in (models.CONTENT_MODEL, models.OBJECT_MODEL)]
        embeddings = _digest_stage("detect", *content_models, detections)
        digests["embeddings"] = embeddings
    digests["predictions"] = _digest_stage("predict", *quality_models, evidence, features, embeddings)
    digests["measurements"] = digests["sizes"] = _digest_stage("measure", settings.measure, evidence)
    if checks := settings.flags.custom:
        digests["custom_checks"] = _digest_stage("check", *(sorted([c.name, c.function, c.source] for c in checks)))
    if settings.classify.model:
        classify = settings.classify
        networks = (_digest_model(classify.model), models.digest_model_card(models.CONTENT_MODEL))
        probabilities = _digest_stage("classify", classify.method, classify.precision, settings.run.device, *networks)
        digests |= {"probabilities": probabilities, "regions": probabilities}
        digests["classifications"] = _digest_stage("uncertainty", probabilities, features)
    return {table: layout.name_table_folder(table, digests[table]) for table in TABLES if table in digests}


def _digest_stage(name: str, *inputs) -> str:
    return digest(name, VERSIONS[name], *inputs)


def _digest_model(name: str) -> str:
    """Digest of a model's content, which does not depend on its folder."""
    return models.digest_model_card(models.locate_model(name))


def _detect_by_content(settings: Detect, device: str) -> Detect:
    """[detect] with the digest of each network instead of its name, and the precision that "auto" is on a CPU."""
    names = [name if name == "log" else _digest_model(name) for name in settings.candidates]
    names += [settings.detectors[0]] if settings.is_automatic else []
    # On a GPU "auto" depends on the cards, whose digests are among the names.
    precision = "float32" if (settings.precision, device) == ("auto", "cpu") else settings.precision
    return dataclasses.replace(settings, detectors=tuple(names), precision=precision)


def list_upstream_tables(final_tables: Iterable[str], run_tables: Iterable[str]) -> tuple[str, ...]:
    """The tables `final_tables` and all tables that they are made from, among `run_tables`, in order."""
    collected: set[str] = set()

    def collect(table: str) -> None:
        collected.add(table)
        for source in list_needed_tables(table):
            collect(source)

    for table in final_tables:
        collect(table)
    return tuple(table for table in run_tables if table in collected)


def list_downstream_tables(table: str, run_tables: Iterable[str]) -> tuple[str, ...]:
    """`table` and all tables that are made from it, among `run_tables`, in order."""
    return tuple(other for other in run_tables if table in list_upstream_tables([other], SCHEMAS))
