"""What a worker does: make every table that a partition lacks, reading its pixels once."""

import dataclasses
import functools
import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import pandas as pd

from emqa_dask import tables
from emqa_dask.archive import readers
from emqa_dask.archive.scan import unescape
from emqa_dask.archive.survey import local_file
from emqa_dask.detect import log
from emqa_dask.detect.normalise import normalise
from emqa_dask.featurise.detections import detection_features
from emqa_dask.featurise.images import image_features
from emqa_dask.partition import Partition
from emqa_dask.pipeline.folders import SCHEMAS, failure_row, failures_dir, folders
from emqa_dask.predict.images import predict_images
from emqa_dask.run.supervise import Call, Died, direct
from emqa_dask.run.task import where_am_i
from emqa_dask.settings import Detect, Settings
from emqa_dask.store import layout, micrographs, parts, thumbnails
from emqa_dask.tune import order

TABLE_OF = {"store": "thumbnails", "thumbnail": "thumbnails", "detect": "detections", "featurise": "features"}


def work(
    root: str,
    partition: Partition,
    rows: pd.DataFrame,
    settings: Settings,
    wanted: tuple[str, ...],
    call: Call = direct,
) -> dict:
    """Make every table of `wanted` that `partition` lacks, upstream first.

    `rows` are the partition's micrographs in the order of its slots, with the columns run.OF_TASK. Every table is a
    part of its own, written whole. A micrograph on which a stage fails for good (`call` raises Died) is in neither that
    stage's table nor those made from it, but in the part of tables.FAILURES that is written first, into the folder
    "failures-<table's folder>". The record says the seconds of each stage under "stages", and "n_failed".
    """
    where, stages = folders(settings), {}
    lacking = [t for t in wanted if not parts.has_part(root, where[t], partition.name, SCHEMAS[t])]
    n_images, failures = len(rows), {table: [] for table in SCHEMAS}
    made: dict[str, list] = {table: [] for table in lacking if table != "predictions"}
    if "thumbnails" in lacking:
        with _timed(stages, "store"):
            failures["thumbnails"] = _store(root, partition, rows, call)
        gone = [failure["micrograph_id"] for failure in failures["thumbnails"]]
    else:
        there = parts.read_part(root, where["thumbnails"], partition.name, tables.THUMBNAILS, ["micrograph_id"])
        gone = rows["micrograph_id"][~rows["micrograph_id"].isin(there["micrograph_id"])]
    if "features" in lacking and "detections" not in lacking:  # nothing found, and nothing looked for, are both no rows
        gone = [*gone, *failed_ids(root, where["detections"], partition.name)]
    rows = rows[~rows["micrograph_id"].isin(gone)]
    if made:
        _measure(root, partition, rows, settings, made, failures, stages, call)
    for table, made_rows in made.items():
        if failures[table]:
            parts.write_part(root, failures_dir(where[table]), partition.name, failures[table], tables.FAILURES)
        if table == "detections" and made_rows:
            made_rows = pd.concat(made_rows, ignore_index=True)
        parts.write_part(root, where[table], partition.name, made_rows, SCHEMAS[table])
    if "predictions" in lacking:
        with _timed(stages, "predict"):
            features = parts.read_part(root, where["features"], partition.name, tables.FEATURES)
            predicted = predict_images(features, settings.predict.forest)
            parts.write_part(root, where["predictions"], partition.name, predicted, tables.PREDICTIONS)
    n_bytes = sum(row.height_px * row.width_px * np.dtype(row.dtype).itemsize for row in rows.itertuples())
    record = {"stages": stages, "n_images": n_images, "bytes": n_bytes, "n_failed": sum(map(len, failures.values()))}
    return record | {"outcome": "done" if lacking else "found"}


def failed_ids(root: str, folder: str, name: str) -> pd.Series:
    """micrograph_ids that failed when the part `name` of `folder` was made."""
    uri = layout.part(root, failures_dir(folder), name)
    return parts.load_table(uri, tables.FAILURES, ["micrograph_id"])["micrograph_id"]


def failure(row: dict, stage: str, died: Died) -> dict:
    """The row of tables.FAILURES for the micrograph of the ledger `row`."""
    return failure_row(row["uri"], row["micrograph_id"], stage, died, where_am_i())


def _store(root: str, partition: Partition, rows: pd.DataFrame, call: Call) -> list[dict]:
    """Decode the partition's files once more and write its shard; write_partition() compares every checksum.

    Gives the failures: micrographs that cannot be read any more, or are not what was surveyed.
    """
    records, dead = rows.to_dict("records"), {}
    with ExitStack() as copies:
        here = {"path": None, "copy": None}  # the frames of a file follow one another: it is fetched once

        def windows(slot: int) -> Iterator[np.ndarray]:
            row = records[slot]
            if here["path"] != row["path"]:
                copies.close()
                here.update(path=row["path"], copy=copies.enter_context(local_file(unescape(row["path"]))))
            try:
                for y0, y1 in call(frame_windows, here["copy"], row["frame"], label=row["uri"]):
                    yield call(read_window, here["copy"], row["frame"], y0, y1, label=row["uri"])
            except Died as died:
                dead[slot] = died
                raise

        sums, names = list(rows["pixel_sha256"]), list(rows["uri"])
        lost = micrographs.write_partition(root, partition, windows, sums, names)["lost"]
    return [failure(records[slot], "store", dead.get(slot) or Died("error", why)) for slot, why in lost.items()]


def frame_windows(path: str, number: int) -> list[tuple[int, int]]:
    """Row windows of frame `number` of the file at `path`, see Frame.windows()."""
    return list(_opened(path, os.stat(path).st_mtime_ns).frames[number].windows())


def read_window(path: str, number: int, y0: int, y1: int) -> np.ndarray:
    """Rows y0:y1 of frame `number` of the file at `path`."""
    return _opened(path, os.stat(path).st_mtime_ns).frames[number].read(y0, y1)


@functools.lru_cache(maxsize=1)
def _opened(path: str, modified_ns: int) -> readers.Source:
    return readers.open_source(path)


def _measure(
    root: str,
    partition: Partition,
    rows: pd.DataFrame,
    settings: Settings,
    made: dict[str, list],
    failures: dict[str, list],
    stages: dict[str, float],
    call: Call,
) -> None:
    """Thumbnails, detections and features, as far as `made` has them; one image in memory at a time."""
    found = None
    if "features" in made and "detections" not in made:
        found = parts.read_part(root, folders(settings)["detections"], partition.name, tables.DETECTIONS)
        found = dict(list(found.groupby("micrograph_id")))
    images = micrographs.iter_micrographs(root, partition, rows["index"])
    is_batched = settings.detect.device == "cuda" and "detections" in made  # a GPU pays by batches
    for of_cohort, chunk in _chunks(rows.to_dict("records"), settings, settings.run.batch_size if is_batched else 1):
        with _timed(stages, "read"):
            pixels = list(itertools.islice(images, len(chunk)))
        ahead = None
        if is_batched:
            with _timed(stages, "detect"):
                ahead = _detect_together(pixels, of_cohort, call)
        for k, (row, image) in enumerate(zip(chunk, pixels, strict=True)):
            stage, micrograph_id = "", row["micrograph_id"]

            def here(name: str, function: Callable, *args, uri: str = row["uri"]):
                nonlocal stage
                stage = name
                with _timed(stages, name):
                    return call(function, *args, label=uri)

            try:
                if "thumbnails" in made:
                    jpeg = here("thumbnail", thumbnails.thumbnail, image, settings.store.thumbnail_px)
                    made["thumbnails"].append({"micrograph_id": micrograph_id, "jpeg": jpeg})
                if "detections" in made:
                    blobs = ahead[k] if ahead else here("detect", log.detect_image, image, of_cohort.detect)
                    made["detections"].append(blobs.assign(micrograph_id=micrograph_id))
                elif found is not None:
                    blobs = found.get(micrograph_id, tables.empty(tables.DETECTIONS))
                if "features" in made:
                    made["features"].append(here("featurise", features_of, image, row, blobs, of_cohort))
            except Died as died:
                failures[TABLE_OF[stage]].append(failure(row, stage, died))


def _chunks(rows: list[dict], settings: Settings, n: int) -> Iterator[tuple[Settings, list[dict]]]:
    """At most `n` of `rows` after the other, all of one cohort, and the settings with what [detect] says of it."""

    def how(row: dict) -> Detect:
        return settings.detect_of(row["uri"], row["instrument"], row["magnification"])

    for detect, same in itertools.groupby(rows, how):
        while chunk := list(itertools.islice(same, n)):
            yield dataclasses.replace(settings, detect=detect), chunk


def _detect_together(images: list[np.ndarray], settings: Settings, call: Call) -> list[pd.DataFrame] | None:
    """Detections of `images` as one batch; None where that fails, and each has to be tried by itself."""
    try:
        return call(detect_batch, images, settings.detect, settings.run.batch_size)
    except Died:
        return None


def detect_batch(images: list[np.ndarray], settings: Detect, batch_size: int) -> list[pd.DataFrame]:
    """log.detect_images() as a list."""
    return list(log.detect_images(images, settings, batch_size))


def features_of(image: np.ndarray, row: dict, blobs: pd.DataFrame, settings: Settings) -> dict:
    """The row of tables.FEATURES of one image: its detections at or above the score floor, and its pixels."""
    floor = settings.featurise.score_floor
    kept = blobs[blobs["score"] >= floor]
    boxes = kept[["y0", "x0", "y1", "x1"]].to_numpy(float)
    return {
        "micrograph_id": row["micrograph_id"],
        "score_floor": floor,
        "is_capped": len(blobs) >= settings.detect.max_detections,
        **detection_features(boxes, kept["score"].to_numpy(float), image.shape),
        **image_features(image, colour_fraction=row["colour_fraction"]),
        "disordered_fraction": disordered_fraction(image, blobs, settings),
    }


def disordered_fraction(image: np.ndarray, blobs: pd.DataFrame, settings: Settings) -> float:
    """Share of the area without lattice order around the detections; NaN where it is not asked for, or unknown."""
    if not settings.featurise.order:
        return float("nan")
    how = settings.detect
    return order.order_map(normalise(image, how.low_percentile, how.high_percentile), blobs).area_fraction


@contextmanager
def _timed(stages: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        stages[stage] = stages.get(stage, 0.0) + time.perf_counter() - started
