"""Predictions from what was measured: of one partition in its task, or of many partitions at once."""

import time
from collections.abc import Callable, Iterator

import pandas as pd

from emqa_dask import tables
from emqa_dask.pipeline import ingest
from emqa_dask.pipeline.folders import SCHEMAS, folders
from emqa_dask.run.supervise import Call, direct
from emqa_dask.run.task import Task
from emqa_dask.settings import Settings
from emqa_dask.store import parts

TOGETHER = 1024  # micrographs whose predictions are made at once: those of the longest partition, or of many short ones
OF_LEDGER = ("micrograph_id", "voltage_kv", "partition")
OF_FEATURES = [name for name in tables.FEATURES.names if name != "signature"]


def joined(evidence: pd.DataFrame, features: pd.DataFrame) -> pd.DataFrame:
    """A row per micrograph and detector with all that is known of both: what models predict from."""
    return evidence.merge(features, on="micrograph_id", how="inner", validate="many_to_one")


def predict_all(root: str, settings: Settings, names: set[str], execute_here: Callable) -> set[str]:
    """Make the predictions of the partitions `names`, which have what they are made from; those that could be made.

    `execute_here` is run()'s: it runs tasks wherever this run does.
    """
    todo = bundles(root, names, settings) if names else ()
    results = execute_here(predict_together, todo, "predict", ingest.n_micrographs(root, names))
    of = (result.task.args[1]["partition"] for result in results if result.outcome != "failed")
    return {name for partitions in of for name in partitions}


def bundles(root: str, names: set[str], settings: Settings) -> Iterator[Task]:
    """Tasks of predict_together() for the partitions `names`, in the ledger's order."""
    waiting, n = [], 0
    for partition, rows in ingest.partitions(root, OF_LEDGER):
        if partition.name not in names:
            continue
        if waiting and n + len(rows) > TOGETHER:
            yield _task(root, waiting, settings)
            waiting, n = [], 0
        waiting.append(rows)
        n += len(rows)
    if waiting:
        yield _task(root, waiting, settings)


def _task(root: str, waiting: list[pd.DataFrame], settings: Settings) -> Task:
    rows = pd.concat(waiting, ignore_index=True)
    return Task(rows["partition"].iloc[0], (root, rows, settings), len(rows))


def predict_together(root: str, rows: pd.DataFrame, settings: Settings, call: Call = direct) -> dict:
    """Make the predictions of partitions whose evidence and features are there: the parts that tasks.work() makes.

    `rows` are their micrographs, with the columns OF_LEDGER. A partition of 32 images by itself takes four times as
    long as its share of a thousand. Raises ValueError or FileNotFoundError where a part is damaged or gone, and
    whatever models raise: then partitions are dealt with one by one, and it is known whose fault it was. Parts that are
    written stay.
    """
    from emqa_dask.predict.images import predict_images  # where it runs: a driver of many workers does without

    started, where, names = time.perf_counter(), folders(settings), list(dict.fromkeys(rows["partition"]))
    features = parts.read_table(root, where["features"], SCHEMAS["features"], OF_FEATURES, names)
    evidence = parts.read_table(root, where["evidence"], SCHEMAS["evidence"], None, names)
    known = joined(evidence, features.merge(rows, on="micrograph_id", how="left"))
    predicted = predict_images(known, settings.predict.forests)
    parts.write_parts(root, where["predictions"], predicted, known["partition"], names, tables.PREDICTIONS)
    return {"stages": {"predict": time.perf_counter() - started}, "n_images": len(rows)}
