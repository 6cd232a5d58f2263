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
from emqa_dask.archive.scan import unescape_name
from emqa_dask.archive.source import Frame, ReadError
from emqa_dask.archive.survey import fetch_file
from emqa_dask.detect import log
from emqa_dask.partition import Partition
from emqa_dask.pipeline.tasks.classify import classify_micrographs, classify_partition
from emqa_dask.pipeline.tasks.measure import by_log, by_networks, measure, of_log
from emqa_dask.pipeline.tasks.predict import OF_FEATURES, joined, weighed
from emqa_dask.pipeline.workspace.journal import drop_parts, failed_ids
from emqa_dask.pipeline.workspace.stages import SCHEMAS, downstream, failure_row, failures_dir, folders
from emqa_dask.predict.predictions import predict_images
from emqa_dask.run.supervise import Call, Died, direct
from emqa_dask.run.task import where_am_i
from emqa_dask.settings import Detect, Settings
from emqa_dask.store import micrographs, parts, thumbnails

TABLE_OF = {"store": "thumbnails", "thumbnail": "thumbnails", "detect": "detections", "classify": "probabilities"}
TABLE_OF["featurise"] = "evidence"
JUDGED = ("predictions", "classifications")  # made from other tables alone
OF_PIXELS = {"detections", "features", "probabilities", "regions"}


def make_tables(
    root: str,
    partition: Partition,
    rows: pd.DataFrame,
    settings: Settings,
    wanted: tuple[str, ...],
    call: Call = direct,
) -> dict:
    """Make every table of `wanted` that `partition` lacks, upstream first.

    `rows` are the partition's micrographs in the order of its slots, with the columns make_tables.TASK_COLUMNS.
    Every table is a part of its own, written whole. A micrograph on which a stage fails for good (`call` raises Died)
    is in neither that stage's table nor those made from it, but in the part of tables.FAILURES that is written first,
    into the folder "failures-<table's folder>". The record has "n_failed" and under "stages" the seconds of each.
    """
    where = folders(settings)
    stages = {}
    lacking = [t for t in wanted if not parts.has_part(root, where[t], partition.name, SCHEMAS[t])]
    if "thumbnails" not in lacking and OF_PIXELS & set(lacking) and micrographs.damaged_slots(root, partition):
        lacking.insert(0, "thumbnails")  # they are made with the shard
        if len(failed_ids(root, where["thumbnails"], partition.name)):  # what could not be stored may be stored now
            drop_parts(root, where, downstream("thumbnails", where)[1:], partition.name)
            lacking = list(wanted)
    every = rows
    failures = {table: [] for table in SCHEMAS}
    made: dict[str, list] = {table: [] for table in lacking if table not in JUDGED}
    if "thumbnails" in lacking:
        with _timed(stages, "store"):
            failures["thumbnails"] = _store(root, partition, rows, call)
        gone = [failure["micrograph_id"] for failure in failures["thumbnails"]]
    else:
        there = parts.read_part(root, where["thumbnails"], partition.name, tables.THUMBNAILS, ["micrograph_id"])
        gone = rows["micrograph_id"][~rows["micrograph_id"].isin(there["micrograph_id"])]
    made_from = {"evidence", "features"} & set(lacking)
    if made_from and "detections" not in lacking:  # nothing found, and nothing looked for, are both no rows
        gone = [*gone, *failed_ids(root, where["detections"], partition.name)]
    rows = rows[~rows["micrograph_id"].isin(gone)]
    if set(made) == {"evidence"}:  # another score floor: no pixel is needed
        with _timed(stages, "featurise"):
            made["evidence"] = weighed(root, rows, settings, [partition.name])
    elif made:
        _measure(root, partition, rows, settings, made, failures, stages, call)
    for table, made_rows in made.items():
        if failures[table]:
            parts.write_part(root, failures_dir(where[table]), partition.name, failures[table], tables.FAILURES)
        if table in ("detections", "probabilities") and made_rows:
            made_rows = pd.concat(made_rows, ignore_index=True)
        n_failed = len(failures[table])
        parts.write_part(root, where[table], partition.name, made_rows, SCHEMAS[table], n_failed)
    if set(JUDGED) & set(lacking):
        with _timed(stages, "predict"):
            _judge(root, partition, every, settings, where, lacking)
    n_bytes = sum(row.height_px * row.width_px * np.dtype(row.dtype).itemsize for row in rows.itertuples())
    record = {"stages": stages, "n_images": len(every), "bytes": n_bytes, "n_failed": sum(map(len, failures.values()))}
    return record | {"outcome": "done" if lacking else "found"}


def _judge(
    root: str, partition: Partition, rows: pd.DataFrame, settings: Settings, where: dict[str, str], lacking: list[str]
) -> None:
    """The tables of JUDGED, as far as they are `lacking`; `rows` are all of the partition's micrographs."""

    def read(table: str, columns: list[str] | None = None) -> pd.DataFrame:
        return parts.read_part(root, where[table], partition.name, SCHEMAS[table], columns)

    features = read("features", OF_FEATURES)
    features = features.merge(rows[["micrograph_id", "voltage_kv"]], on="micrograph_id", how="left")
    if "predictions" in lacking:
        predicted = predict_images(joined(read("evidence"), features), settings.predict.models)
        parts.write_part(root, where["predictions"], partition.name, predicted, tables.PREDICTIONS)
    if "classifications" in lacking:
        features = features[~features["micrograph_id"].isin(failed_ids(root, where["probabilities"], partition.name))]
        found = classify_micrographs(read("probabilities"), read("regions"), features, settings)
        parts.write_part(root, where["classifications"], partition.name, found, tables.CLASSIFICATIONS)


def failure(row: dict, stage: str, died: Died) -> dict:
    """The row of tables.FAILURES for the micrograph of the ledger `row`."""
    return failure_row(row["uri"], row["micrograph_id"], stage, died, where_am_i())


def _store(root: str, partition: Partition, rows: pd.DataFrame, call: Call) -> list[dict]:
    """Decode the partition's files once more and write its shard; write_partition() compares every checksum.

    Gives the failures: micrographs that cannot be read any more, or are not what was surveyed.
    """
    records = rows.to_dict("records")
    dead = {}
    with ExitStack() as copies:
        here = {"path": None, "copy": None}  # the frames of a file follow one another: it is fetched once

        def windows(slot: int) -> Iterator[np.ndarray]:
            row = records[slot]
            if here["path"] != row["path"]:
                copies.close()
                here.update(path=row["path"], copy=copies.enter_context(fetch_file(unescape_name(row["path"]))))
            try:
                size = {"label": row["uri"], "megapixels": megapixels(row)}
                for y0, y1 in call(frame_windows, here["copy"], row["frame"], **size):
                    yield call(read_window, here["copy"], row["frame"], y0, y1, **size)
            except Died as died:
                dead[slot] = died
                raise

        sums = list(rows["pixel_sha256"])
        names = list(rows["uri"])
        lost = micrographs.write_partition(root, partition, windows, sums, names)["lost"]
    return [failure(records[slot], "store", dead.get(slot) or Died("error", why)) for slot, why in lost.items()]


def frame_windows(path: str, number: int) -> list[tuple[int, int]]:
    """Row windows of frame `number` of the file at `path`, see Frame.windows()."""
    return list(_frame(path, number).row_ranges())


def read_window(path: str, number: int, y0: int, y1: int) -> np.ndarray:
    """Rows y0:y1 of frame `number` of the file at `path`."""
    return _frame(path, number).read(y0, y1)


def _frame(path: str, number: int) -> Frame:
    frames = _opened(path, os.stat(path).st_mtime_ns).frames
    if number >= len(frames):
        raise ReadError(f"changed since it was surveyed: it has no image {number} any more")
    return frames[number]


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
    """Thumbnails, detections, evidence and features, as far as `made` has them; a few images in memory at a time."""
    found = None
    is_new = "detections" in made
    if not is_new and ("evidence" in made or "features" in made):
        found = parts.read_part(root, folders(settings)["detections"], partition.name, tables.DETECTIONS)
        found = dict(list(found.groupby("micrograph_id")))
    images = micrographs.iter_micrographs(root, partition, rows["index"])
    # A GPU pays by batches, and so does a network.
    has_log = "log" in settings.detect.detectors
    has_networks = bool(settings.detect.networks)
    is_classified = "probabilities" in made or "regions" in made
    device = settings.run.device
    is_on_gpu = device == "cuda"
    n = settings.run.batch_size if is_classified or (is_new and (is_on_gpu or has_networks)) else 1
    for of_cohort, chunk in _chunks(rows.to_dict("records"), settings, n):
        how = of_cohort.detect
        sizes = [row["nm_per_pixel"] for row in chunk]
        with _timed(stages, "read"):
            pixels = list(itertools.islice(images, len(chunk)))
        blobs_ahead = objects_ahead = classes_ahead = None
        if is_classified and len(chunk) > 1:
            with _timed(stages, "classify"):
                ids = [row["micrograph_id"] for row in chunk]
                classes_ahead = _together(call, chunk, classify_partition, ids, pixels, settings)
        if is_new and len(chunk) > 1:
            with _timed(stages, "detect"):
                if is_on_gpu and has_log:
                    blobs_ahead = _together(call, chunk, by_log, pixels, how, settings.run)
                if has_networks:
                    objects_ahead = _together(call, chunk, by_networks, pixels, sizes, how, device)
        for k, (row, image) in enumerate(zip(chunk, pixels, strict=True)):
            stage = ""
            micrograph_id = row["micrograph_id"]

            def here(name: str, function: Callable, *args, row: dict = row):
                nonlocal stage
                stage = name
                with _timed(stages, name):
                    return call(function, *args, label=row["uri"], megapixels=megapixels(row))

            try:
                if "thumbnails" in made:
                    jpeg = here("thumbnail", thumbnails.thumbnail, image, settings.store.thumbnail_px)
                    made["thumbnails"].append({"micrograph_id": micrograph_id, "jpeg": jpeg})
                if is_new:
                    here_found = []
                    if has_log:
                        args = (image, how, None, device)
                        blobs = blobs_ahead[k] if blobs_ahead else here("detect", log.detect_image, *args)
                        here_found.append(of_log(blobs, row))
                    if has_networks:
                        objects = objects_ahead or here("detect", by_networks, [image], sizes[k : k + 1], how, device)
                        here_found.append(objects[k if objects_ahead else 0])
                    objects = pd.concat(here_found, ignore_index=True).assign(micrograph_id=micrograph_id)
                    made["detections"].append(objects)
                elif found is not None:
                    objects = found.get(micrograph_id, tables.empty(tables.DETECTIONS))
                if "evidence" in made or "features" in made:
                    evidence, features = here("featurise", measure, image, row, objects, of_cohort)
                    made.get("evidence", []).extend(evidence)
                    made.get("features", []).append(features)
                if is_classified:
                    told = classes_ahead or here("classify", classify_partition, [micrograph_id], [image], settings)
                    probabilities, maps = told[k if classes_ahead else 0]
                    made.get("probabilities", []).append(probabilities)
                    made.get("regions", []).extend([maps] if maps else [])
            except Died as died:
                table = TABLE_OF[stage]
                failures[table if table in made else "features"].append(failure(row, stage, died))


def _chunks(rows: list[dict], settings: Settings, n: int) -> Iterator[tuple[Settings, list[dict]]]:
    """At most `n` of `rows` after the other, all of one cohort, and the settings with what [detect] says of it."""

    def how(row: dict) -> Detect:
        return settings.detect_of(row["uri"], row["instrument"], row["magnification"])

    for detect, same in itertools.groupby(rows, how):
        while chunk := list(itertools.islice(same, n)):
            yield dataclasses.replace(settings, detect=detect), chunk


def megapixels(row: dict) -> float:
    """Size of the micrograph of the ledger `row`."""
    return row["height_px"] * row["width_px"] / 1e6


def _together(call: Call, chunk: list[dict], function: Callable, *args) -> list | None:
    """What `function` says of a batch of images; None where that fails, and each has to be tried by itself."""
    try:
        return call(function, *args, label=chunk[0]["uri"], megapixels=sum(map(megapixels, chunk)))
    except Died:
        return None


@contextmanager
def _timed(stages: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        stages[stage] = stages.get(stage, 0.0) + time.perf_counter() - started
