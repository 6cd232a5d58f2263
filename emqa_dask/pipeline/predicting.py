"""Evidence and predictions from what was detected: of one partition in its task, or of many partitions at once."""

import itertools
import time
from collections.abc import Callable, Iterator

import pandas as pd

from emqa_dask import models, tables
from emqa_dask.pipeline import ingest
from emqa_dask.pipeline.folders import SCHEMAS, folders
from emqa_dask.pipeline.journal import failed_ids
from emqa_dask.run.supervise import Call, direct
from emqa_dask.run.task import Task
from emqa_dask.settings import Settings
from emqa_dask.store import parts

TOGETHER = 1024  # micrographs whose predictions are made at once: those of the longest partition, or of many short ones
WEIGHED = 256  # micrographs whose evidence is: their detections are in memory
OF_LEDGER = ("micrograph_id", "voltage_kv", "height_px", "width_px", "partition")
OF_DETECTIONS = ["micrograph_id", "detector", "y0", "x0", "y1", "x1", "score", "circularity"]
OF_FEATURES = [name for name in tables.FEATURES.names if name != "signature"]


def joined(evidence: pd.DataFrame, features: pd.DataFrame) -> pd.DataFrame:
    """A row per micrograph and detector with all that is known of both: what models predict from."""
    return evidence.merge(features, on="micrograph_id", how="inner", validate="many_to_one")


def tell_unfit(settings: Settings, say: Callable[[str], None]) -> None:
    """Say which models are for another score floor, and so for no detection of this run."""
    floor = settings.featurise.score_floor
    for model in settings.predict.forests:
        detector, known = models.what_for(model)
        if known != floor:
            say(
                f"{model} knows {detector} at a score floor of {known:g}, this run has {floor:g}: it predicts nothing "
                "here; `emqa calibrate` fits a model to this floor"
            )


def weigh_all(root: str, settings: Settings, names: set[str], execute_here: Callable) -> set[str]:
    """Make the evidence of the partitions `names`, which have what it is made from; those that could be made.

    `execute_here` is run()'s: it runs tasks wherever this run does.
    """
    return _all(weigh_together, "featurise", WEIGHED, root, settings, names, execute_here)


def predict_all(root: str, settings: Settings, names: set[str], execute_here: Callable) -> set[str]:
    """The same of predictions."""
    return _all(predict_together, "predict", TOGETHER, root, settings, names, execute_here)


def _all(
    function: Callable, stage: str, n: int, root: str, settings: Settings, names: set[str], execute_here: Callable
) -> set[str]:
    todo = bundles(root, names, settings, n) if names else ()
    results = execute_here(function, todo, stage, ingest.n_micrographs(root, names))
    of = (result.task.args[1]["partition"] for result in results if result.outcome != "failed")
    return {name for partitions in of for name in partitions}


def bundles(root: str, names: set[str], settings: Settings, most: int) -> Iterator[Task]:
    """Tasks for the partitions `names`, in the ledger's order, of `most` micrographs, or of one partition."""
    waiting = []
    n = 0
    for partition, rows in ingest.partitions(root, OF_LEDGER):
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


def weighed(root: str, rows: pd.DataFrame, settings: Settings, names: list[str]) -> list[dict]:
    """The rows of tables.EVIDENCE of the micrographs `rows` of partitions `names`, as far as their features are there.

    From the detections that are there: no pixel is needed.
    """
    from emqa_dask.pipeline.measuring import evidence_of_all

    where = folders(settings)
    found = parts.read_table(root, where["detections"], SCHEMAS["detections"], OF_DETECTIONS, names)
    failed = {one for name in names for one in failed_ids(root, where["features"], name)}
    kept = rows[~rows["micrograph_id"].isin(failed)].to_dict("records")
    return list(itertools.chain.from_iterable(evidence_of_all(kept, found, settings)))


def weigh_together(root: str, rows: pd.DataFrame, settings: Settings, call: Call = direct) -> dict:
    """Make the evidence of partitions whose thumbnails, detections and features are there: the parts of tasks.work().

    `rows`, errors: see predict_together().
    """
    started = time.perf_counter()
    where = folders(settings)
    names = list(dict.fromkeys(rows["partition"]))
    there = parts.read_table(root, where["thumbnails"], SCHEMAS["thumbnails"], ["micrograph_id"], names)
    failed = {one for name in names for one in failed_ids(root, where["detections"], name)}
    kept = rows[rows["micrograph_id"].isin(there["micrograph_id"]) & ~rows["micrograph_id"].isin(failed)]
    evidence = pd.DataFrame(weighed(root, kept, settings, names), columns=tables.EVIDENCE.names)
    of = evidence["micrograph_id"].map(dict(zip(rows["micrograph_id"], rows["partition"])))
    parts.write_parts(root, where["evidence"], evidence, of, names, tables.EVIDENCE)
    return {"stages": {"featurise": time.perf_counter() - started}, "n_images": len(rows)}


def predict_together(root: str, rows: pd.DataFrame, settings: Settings, call: Call = direct) -> dict:
    """Make the predictions of partitions whose evidence and features are there: the parts that tasks.work() makes.

    `rows` are their micrographs, with the columns OF_LEDGER. A partition of 32 images by itself takes four times as
    long as its share of a thousand. Raises ValueError or FileNotFoundError where a part is damaged or gone, and
    whatever models raise: then partitions are dealt with one by one, and it is known whose fault it was. Parts that are
    written stay.
    """
    from emqa_dask.predict.images import predict_images  # where it runs: a driver of many workers does without

    started = time.perf_counter()
    where = folders(settings)
    names = list(dict.fromkeys(rows["partition"]))
    features = parts.read_table(root, where["features"], SCHEMAS["features"], OF_FEATURES, names)
    evidence = parts.read_table(root, where["evidence"], SCHEMAS["evidence"], None, names)
    known = joined(evidence, features.merge(rows, on="micrograph_id", how="left"))
    predicted = predict_images(known, settings.predict.forests)
    parts.write_parts(root, where["predictions"], predicted, known["partition"], names, tables.PREDICTIONS)
    return {"stages": {"predict": time.perf_counter() - started}, "n_images": len(rows)}
