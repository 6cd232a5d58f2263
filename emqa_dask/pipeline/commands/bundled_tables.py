"""Evidence and predictions of many partitions at once: tasks for bundles of partitions, before those of each."""

from collections.abc import Callable, Iterator

import pandas as pd

from emqa_dask import models
from emqa_dask.pipeline.tasks.predict import predict_together, weigh_together
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.run.executor import Executor
from emqa_dask.run.task import Task
from emqa_dask.settings import Settings

TOGETHER = 1024  # micrographs whose predictions are made at once: those of the longest partition, or of many short ones


WEIGHED = 256  # micrographs whose evidence is: their detections are in memory


OF_LEDGER = ("micrograph_id", "voltage_kv", "height_px", "width_px", "partition")


def tell_unfit(settings: Settings, say: Callable[[str], None]) -> None:
    """Say which models are for another score floor, and so for no detection of this run."""
    floor = settings.featurise.score_floor
    for model in settings.predict.models:
        detector, known = models.read_detector_and_floor(model)
        if known != floor:
            say(
                f"{model} knows {detector} at a score floor of {known:g}, this run has {floor:g}: it predicts nothing "
                "here; `emqa calibrate` fits a model to this floor"
            )


def weigh_all(root: str, settings: Settings, names: set[str], execute_here: Executor) -> set[str]:
    """Make the evidence of the partitions `names`, which have what it is made from; those that could be made.

    `execute_here` is run()'s: it runs tasks wherever this run does.
    """
    return _all(weigh_together, "featurise", WEIGHED, root, settings, names, execute_here)


def predict_all(root: str, settings: Settings, names: set[str], execute_here: Executor) -> set[str]:
    """The same of predictions."""
    return _all(predict_together, "predict", TOGETHER, root, settings, names, execute_here)


def _all(
    function: Callable, stage: str, n: int, root: str, settings: Settings, names: set[str], execute_here: Executor
) -> set[str]:
    todo = bundles(root, names, settings, n) if names else ()
    results = execute_here(function, todo, stage, micrograph_ledger.n_micrographs(root, names))
    of = (result.task.args[1]["partition"] for result in results if result.outcome != "failed")
    return {name for partitions in of for name in partitions}


def bundles(root: str, names: set[str], settings: Settings, most: int) -> Iterator[Task]:
    """Tasks for the partitions `names`, in the ledger's order, of `most` micrographs, or of one partition."""
    waiting = []
    n = 0
    for partition, rows in micrograph_ledger.partitions(root, OF_LEDGER):
        if partition.name not in names:
            continue
        if waiting and n + len(rows) > most:
            yield _task(root, waiting, settings)
            waiting = []
            n = 0
        waiting.append(rows)
        n += len(rows)
    if waiting:
        yield _task(root, waiting, settings)


def _task(root: str, waiting: list[pd.DataFrame], settings: Settings) -> Task:
    rows = pd.concat(waiting, ignore_index=True)
    return Task(rows["partition"].iloc[0], (root, rows, settings), len(rows))
