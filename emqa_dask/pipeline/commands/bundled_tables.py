"""Tasks that make evidence, predictions, region maps and measurements of several partitions at once."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pandas as pd

from emqa_dask import models
from emqa_dask.pipeline.tasks.map_tiles import make_tiles_together
from emqa_dask.pipeline.tasks.measure_objects import MEASUREMENT_TABLES, make_measurements_together
from emqa_dask.pipeline.tasks.predict import make_evidence_together, make_predictions_together
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pipeline.workspace.quality_models import fits_detectors
from emqa_dask.run.executor import Executor
from emqa_dask.run.task import Task
from emqa_dask.settings import Settings
from emqa_dask.store.layout import Workspace

PREDICTED_TOGETHER = (
    1024  # micrographs whose predictions are made at once: those of the longest partition, or of many short ones
)
SUMMARISED_TOGETHER = 256  # micrographs whose other tables are made at once: their detections are in memory
LEDGER_COLUMNS = ("micrograph_id", "uri", "instrument", "voltage_kv", "height_px", "width_px", "nm_per_pixel")
LEDGER_COLUMNS += ("nm_per_pixel_y", "partition")


class Bundle(NamedTuple):
    """A stage that can make its tables for several partitions in one task, from tables that exist."""

    stage: str
    tables: tuple[str, ...]
    function: Callable
    max_micrographs: int  # of a task


BUNDLES = (
    Bundle("featurise", ("evidence",), make_evidence_together, SUMMARISED_TOGETHER),
    Bundle("predict", ("predictions",), make_predictions_together, PREDICTED_TOGETHER),
    Bundle("featurise", ("tiles",), make_tiles_together, SUMMARISED_TOGETHER),
    Bundle("measure", MEASUREMENT_TABLES, make_measurements_together, SUMMARISED_TOGETHER),
)


def say_unfit_models(settings: Settings, say: Callable[[str], None]) -> None:
    """Reports the models for another score floor or beside other detectors: they predict no detection of this run."""
    floor = settings.featurise.score_floor
    for model in settings.predict.models:
        detector, model_floor = models.read_detector_and_floor(model)
        if model_floor != floor:
            say(
                f"{model} knows {detector} at a score floor of {model_floor:g}, this run has {floor:g}: it predicts "
                "nothing here; `emqa calibrate` fits a model to this floor"
            )
        if not fits_detectors(model, settings.detect):
            others = models.read_agreement_detectors(model)
            options = " ".join(f"--detector {name}" for name in (detector, *others))
            say(
                f"{model} looks at the agreement of {detector} with {', '.join(others)}, and this run has other "
                f"detectors: it predicts nothing here; name exactly these: {options}"
            )


def make_bundled(
    bundle: Bundle, workspace: Workspace, settings: Settings, names: set[str], execute: Executor
) -> set[str]:
    """Those of the partitions `names` whose tables of `bundle` were made. The tables that these need exist for all."""
    tasks = iter_bundles(workspace, names, settings, bundle.max_micrographs) if names else ()
    results = execute(bundle.function, tasks, bundle.stage, micrograph_ledger.count_micrographs(workspace, names))
    bundles_done = (result.task.args[1]["partition"] for result in results if result.outcome != "failed")
    return {name for partitions in bundles_done for name in partitions}


def iter_bundles(workspace: Workspace, names: set[str], settings: Settings, max_micrographs: int) -> Iterator[Task]:
    """Tasks for the partitions `names` in the ledger's order, each of at most `max_micrographs` or one partition."""
    bundle = []
    n = 0
    for partition, rows in micrograph_ledger.iter_partitions(workspace, LEDGER_COLUMNS):
        if partition.name not in names:
            continue
        if bundle and n + len(rows) > max_micrographs:
            yield _make_task(workspace, bundle, settings)
            bundle = []
            n = 0
        bundle.append(rows)
        n += len(rows)
    if bundle:
        yield _make_task(workspace, bundle, settings)


def _make_task(workspace: Workspace, bundle: list[pd.DataFrame], settings: Settings) -> Task:
    rows = pd.concat(bundle, ignore_index=True)
    return Task(rows["partition"].iloc[0], (workspace, rows, settings), len(rows))
