"""What a worker does: make every table that a partition lacks, reading its pixels once."""

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd

from emqa_dask import tables
from emqa_dask.archive import readers
from emqa_dask.archive.scan import unescape
from emqa_dask.archive.survey import local_file
from emqa_dask.detect import log
from emqa_dask.featurise.detections import detection_features
from emqa_dask.featurise.images import image_features
from emqa_dask.partition import Partition
from emqa_dask.pipeline.folders import SCHEMAS, folders
from emqa_dask.predict.images import predict_images
from emqa_dask.settings import Settings
from emqa_dask.store import micrographs, parts, thumbnails


def work(root: str, partition: Partition, rows: pd.DataFrame, settings: Settings, wanted: tuple[str, ...]) -> dict:
    """Make every table of `wanted` that `partition` lacks, upstream first.

    `rows` are the partition's micrographs in the order of its slots, with the `path` of their file. Every table is a
    part of its own, written whole; a micrograph that could not be stored is in none of them. The record says the
    seconds of each stage under "stages", and {URI: why} of what could not be stored under "lost".
    """
    where, stages = folders(settings), {}
    lacking = [t for t in wanted if not parts.has_part(root, where[t], partition.name, SCHEMAS[t])]
    lost_uris: dict[str, str] = {}
    if "thumbnails" in lacking:
        with _timed(stages, "store"):
            lost = _store(root, partition, rows)
        lost_uris = {rows["uri"].iloc[slot]: why for slot, why in lost.items()}
        rows = rows.drop(index=rows.index[list(lost)])
    else:
        there = parts.read_part(root, where["thumbnails"], partition.name, tables.THUMBNAILS, ["micrograph_id"])
        rows = rows[rows["micrograph_id"].isin(there["micrograph_id"])]
    measured = [t for t in lacking if t != "predictions"]
    if measured:
        _measure(root, partition, rows, settings, measured, stages)
    if "predictions" in lacking:
        with _timed(stages, "predict"):
            features = parts.read_part(root, where["features"], partition.name, tables.FEATURES)
            predicted = predict_images(features, settings.predict.forest)
            parts.write_part(root, where["predictions"], partition.name, predicted, tables.PREDICTIONS)
    n_bytes = sum(row.height_px * row.width_px * np.dtype(row.dtype).itemsize for row in rows.itertuples())
    record = {"stages": stages, "n_images": len(rows), "bytes": n_bytes, "lost": lost_uris}
    return record | {"outcome": "done" if lacking else "found"}


def _store(root: str, partition: Partition, rows: pd.DataFrame) -> dict[int, str]:
    """Decode the partition's files once more and write its shard; write_partition() compares every checksum.

    Gives {slot: why} of micrographs that cannot be read any more, or are not what was surveyed.
    """
    opened = functools.lru_cache(maxsize=1)(readers.open_source)  # the frames of a stack follow one another

    def windows(slot: int) -> Iterator[np.ndarray]:
        row = rows.iloc[slot]
        with local_file(unescape(row["path"])) as path:
            frame = opened(path).frames[row["frame"]]
            yield from (frame.read(y0, y1) for y0, y1 in frame.windows())

    sums, names = list(rows["pixel_sha256"]), list(rows["uri"])
    return micrographs.write_partition(root, partition, windows, sums, names)["lost"]


def _measure(
    root: str, partition: Partition, rows: pd.DataFrame, settings: Settings, wanted: list[str], stages: dict
) -> None:
    """Thumbnails, detections and features, as far as `wanted`; one image in memory at a time."""
    where = folders(settings)
    made: dict[str, list] = {table: [] for table in wanted}
    found = None
    if "features" in made and "detections" not in made:
        found = parts.read_part(root, where["detections"], partition.name, tables.DETECTIONS)
        found = dict(list(found.groupby("micrograph_id")))
    images = micrographs.iter_micrographs(root, partition, rows["index"])
    for row in rows.to_dict("records"):
        with _timed(stages, "read"):
            image = next(images)
        if "thumbnails" in made:
            with _timed(stages, "thumbnail"):
                jpeg = thumbnails.thumbnail(image, settings.store.thumbnail_px)
                made["thumbnails"].append({"micrograph_id": row["micrograph_id"], "jpeg": jpeg})
        if "detections" in made:
            with _timed(stages, "detect"):
                blobs = log.detect_image(image, settings.detect)
                made["detections"].append(blobs.assign(micrograph_id=row["micrograph_id"]))
        elif found is not None:
            blobs = found.get(row["micrograph_id"], tables.empty(tables.DETECTIONS))
        if "features" in made:
            with _timed(stages, "featurise"):
                made["features"].append(features_of(image, row, blobs, settings))
    if made.get("detections"):
        made["detections"] = pd.concat(made["detections"], ignore_index=True)
    for table, made_rows in made.items():
        parts.write_part(root, where[table], partition.name, made_rows, SCHEMAS[table])


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
    }


@contextmanager
def _timed(stages: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        stages[stage] = stages.get(stage, 0.0) + time.perf_counter() - started
