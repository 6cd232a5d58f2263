"""Stages on the images of a partition: thumbnails, detections, features, classes; a few images at a time."""

import dataclasses
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd

from emqa_dask import tables
from emqa_dask.detect import log
from emqa_dask.partition import Partition
from emqa_dask.pipeline.tasks.classify import classify_partition
from emqa_dask.pipeline.tasks.custom_checks import run_check
from emqa_dask.pipeline.tasks.image_measurement import (
    add_diameters_nm,
    detect_with_log,
    detect_with_networks,
    find_pixel_side_nm,
    measure_image,
)
from emqa_dask.pipeline.workspace.failures import make_failure_row
from emqa_dask.pipeline.workspace.stages import list_run_folders
from emqa_dask.run.supervise import Call, CallFailed
from emqa_dask.run.task import get_worker_address
from emqa_dask.settings import Detect, Settings
from emqa_dask.settings.custom_checks import CustomCheck
from emqa_dask.store import micrographs, parts, thumbnails
from emqa_dask.store.layout import Workspace


@dataclasses.dataclass
class Chunk:
    """Images of one acquisition group on which no stage has failed."""

    rows: list[dict]  # of the ledger
    images: list[np.ndarray]

    def drop(self, failed_ids: set[str]) -> None:
        """Removes the images on which a stage has failed."""
        positions = [k for k, row in enumerate(self.rows) if row["micrograph_id"] not in failed_ids]
        self.rows = [self.rows[k] for k in positions]
        self.images = [self.images[k] for k in positions]


class ImageStages:
    """Calls the functions of stages on images, and records the seconds and the failed images of each stage."""

    def __init__(self, call: Call):
        self.call = call
        self.seconds: dict[str, float] = {}  # stage -> s
        self.failures: defaultdict[str, list[dict]] = defaultdict(list)  # table -> rows of tables.FAILURES

    @contextmanager
    def time_stage(self, stage: str) -> Iterator[None]:
        """Adds the seconds of the block to those of `stage`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started

    def call_each(self, stage: str, table: str, chunk: Chunk, function: Callable, *columns: Sequence) -> dict[str, Any]:
        """Results of `function` by micrograph_id; its arguments are the items of `columns` of an image.

        An image on which it fails is removed from `chunk` and becomes a failure of `table`.
        """
        results: dict[str, Any] = {}
        failed = set()
        for row, *arguments in zip(chunk.rows, *columns, strict=True):
            try:
                with self.time_stage(stage):
                    value = self.call(function, *arguments, label=row["uri"], megapixels=count_megapixels(row))
                results[row["micrograph_id"]] = value
            except CallFailed as died:
                failed.add(row["micrograph_id"])
                self.failures[table].append(make_micrograph_failure(row, stage, died))
        if failed:
            chunk.drop(failed)
        return results

    def call_batch(
        self, stage: str, table: str, chunk: Chunk, function: Callable, columns: Sequence[list], *options
    ) -> dict[str, Any]:
        """Results by micrograph_id of one call of `function` with the lists `columns` of all images.

        If the batch fails, it is called for each image with lists of one item, as in `call_each`.
        """
        if len(chunk.rows) > 1:
            size = sum(map(count_megapixels, chunk.rows))
            try:
                with self.time_stage(stage):
                    values = self.call(function, *columns, *options, label=chunk.rows[0]["uri"], megapixels=size)
                return {row["micrograph_id"]: value for row, value in zip(chunk.rows, values, strict=True)}
            except CallFailed:
                pass  # each image is tried by itself
        singles = [[[value] for value in column] for column in columns]
        repeated = [[option] * len(chunk.rows) for option in options]
        results = self.call_each(stage, table, chunk, function, *singles, *repeated)
        return {micrograph_id: values[0] for micrograph_id, values in results.items()}


def measure_partition(
    workspace: Workspace,
    partition: Partition,
    rows: pd.DataFrame,
    settings: Settings,
    new_rows: dict[str, list],
    stages: ImageStages,
) -> None:
    """Adds the rows of a partition to those tables of `new_rows` that stages on images make.

    `rows` are the micrographs to measure. A few images are in memory at a time.
    """
    stored_detections = None
    if "detections" not in new_rows and ("evidence" in new_rows or "features" in new_rows):
        stored_detections = _read_detections(workspace, partition, settings)
    images = micrographs.iterate_micrographs(workspace.uri, partition, rows["index"])
    for group_settings, chunk_rows in _make_chunks(
        rows.to_dict("records"), settings, _choose_batch_size(settings, new_rows)
    ):
        with stages.time_stage("read"):
            chunk = Chunk(chunk_rows, list(itertools.islice(images, len(chunk_rows))))
        if "thumbnails" in new_rows:
            new_rows["thumbnails"] += make_thumbnails(chunk, settings, stages)
        detections = stored_detections
        if "detections" in new_rows:
            detections = detect(chunk, group_settings, stages)
            new_rows["detections"] += detections.values()
        if detections is not None:
            for table, table_rows in featurise(chunk, detections, group_settings, new_rows, stages).items():
                new_rows[table] += table_rows
        if "probabilities" in new_rows or "regions" in new_rows:
            for table, table_rows in classify(chunk, settings, new_rows, stages).items():
                new_rows[table] += table_rows
        if "custom_checks" in new_rows:
            new_rows["custom_checks"] += run_custom_checks(chunk, settings.flags.custom, stages)


def make_thumbnails(chunk: Chunk, settings: Settings, stages: ImageStages) -> list[dict]:
    """Rows of tables.THUMBNAILS."""
    sizes = [settings.store.thumbnail_px] * len(chunk.rows)
    jpegs = stages.call_each("thumbnail", "thumbnails", chunk, thumbnails.make_thumbnail, chunk.images, sizes)
    return [{"micrograph_id": micrograph_id, "jpeg": jpeg} for micrograph_id, jpeg in jpegs.items()]


def detect(chunk: Chunk, settings: Settings, stages: ImageStages) -> dict[str, pd.DataFrame]:
    """Detections of every detector on each image, as rows of tables.DETECTIONS, by micrograph_id."""
    by_detector = []
    if "log" in settings.detect.detectors:
        by_detector.append(_detect_blobs(chunk, settings, stages))
    if settings.detect.networks:
        options = (settings.detect, settings.run.device)
        columns = [chunk.images, [find_pixel_side_nm(row) for row in chunk.rows]]
        by_detector.append(stages.call_batch("detect", "detections", chunk, detect_with_networks, columns, *options))
    ids = [row["micrograph_id"] for row in chunk.rows]
    return {
        micrograph_id: pd.concat([of_detector[micrograph_id] for of_detector in by_detector], ignore_index=True).assign(
            micrograph_id=micrograph_id
        )
        for micrograph_id in ids
    }


def _detect_blobs(chunk: Chunk, settings: Settings, stages: ImageStages) -> dict[str, pd.DataFrame]:
    """Blobs of each image: in batches on a GPU, one by one on a CPU."""
    detect_settings = settings.detect
    if settings.run.device == "cuda":
        blobs = stages.call_batch(
            "detect", "detections", chunk, detect_with_log, [chunk.images], detect_settings, settings.run
        )
    else:
        settings_by_image = [detect_settings] * len(chunk.rows)
        blobs = stages.call_each("detect", "detections", chunk, log.detect_image, chunk.images, settings_by_image)
    return {row["micrograph_id"]: add_diameters_nm(blobs[row["micrograph_id"]], row) for row in chunk.rows}


def featurise(
    chunk: Chunk,
    detections: dict[str, pd.DataFrame],
    settings: Settings,
    new_rows: dict[str, list],
    stages: ImageStages,
) -> dict[str, list[dict]]:
    """Rows of tables.EVIDENCE and tables.FEATURES, for those of them in `new_rows`."""
    new_tables = [table for table in ("evidence", "features") if table in new_rows]
    if not new_tables:
        return {}
    no_detections = tables.empty(tables.DETECTIONS)
    own_detections = [detections.get(row["micrograph_id"], no_detections) for row in chunk.rows]
    settings_by_image = [settings] * len(chunk.rows)
    results = stages.call_each(
        "featurise", new_tables[0], chunk, measure_image, chunk.images, chunk.rows, own_detections, settings_by_image
    )
    rows = {
        "evidence": [row for evidence, _ in results.values() for row in evidence],
        "features": [features for _, features in results.values()],
    }
    return {table: rows[table] for table in new_tables}


def classify(
    chunk: Chunk, settings: Settings, new_rows: dict[str, list], stages: ImageStages
) -> dict[str, list[pd.DataFrame | dict]]:
    """Rows of tables.PROBABILITIES (a table per image) and tables.REGIONS, for those of them in `new_rows`."""
    classified = [table for table in ("probabilities", "regions") if table in new_rows]
    columns = [[row["micrograph_id"] for row in chunk.rows], chunk.images]
    results = stages.call_batch("classify", classified[0], chunk, classify_partition, columns, settings)
    rows = {
        "probabilities": [probabilities for probabilities, _ in results.values()],
        "regions": [regions for _, regions in results.values() if regions],
    }
    return {table: rows[table] for table in classified}


def run_custom_checks(chunk: Chunk, checks: Sequence[CustomCheck], stages: ImageStages) -> list[dict]:
    """Rows of tables.CUSTOM_CHECKS. A check that fails on an image is a failure of it, and the other checks go on."""
    rows = []
    failures = stages.failures["custom_checks"]
    for check in checks:
        n_failures = len(failures)
        checked = Chunk(list(chunk.rows), list(chunk.images))
        same_check = [check] * len(chunk.rows)
        results = stages.call_each("check", "custom_checks", checked, run_check, chunk.images, chunk.rows, same_check)
        for row in checked.rows:
            result = results[row["micrograph_id"]]
            if result.error:
                died = CallFailed("error", result.error, result.traceback)
                failures.append(make_micrograph_failure(row, "check", died))
            else:
                rows.append({"micrograph_id": row["micrograph_id"], "name": check.name, "value": result.value})
        for failure in failures[n_failures:]:
            failure["error"] = f"custom check {check.name} ({check.function}): {failure['error']}"
    return rows


def _read_detections(workspace: Workspace, partition: Partition, settings: Settings) -> dict[str, pd.DataFrame]:
    folder = list_run_folders(settings)["detections"]
    return dict(
        list(parts.read_part(workspace.uri, folder, partition.name, tables.DETECTIONS).groupby("micrograph_id"))
    )


def _choose_batch_size(settings: Settings, new_rows: dict[str, list]) -> int:
    """Number of images in memory together: several for a GPU or a network, which are faster on batches, else one."""
    is_classified = "probabilities" in new_rows or "regions" in new_rows
    is_detected_in_batches = settings.run.device == "cuda" or bool(settings.detect.networks)
    is_batched = is_classified or ("detections" in new_rows and is_detected_in_batches)
    return settings.run.batch_size if is_batched else 1


def _make_chunks(rows: list[dict], settings: Settings, n: int) -> Iterator[tuple[Settings, list[dict]]]:
    """Chunks of at most `n` consecutive `rows` of one cohort and pixel size, and the settings for each chunk."""

    def detect_settings(row: dict) -> Detect:
        return settings.resolve_detect_settings(
            row["uri"], row["instrument"], row["magnification"], find_pixel_side_nm(row)
        )

    for of_cohort, similar_rows in itertools.groupby(rows, detect_settings):
        while chunk := list(itertools.islice(similar_rows, n)):
            yield dataclasses.replace(settings, detect=of_cohort), chunk


def make_micrograph_failure(row: dict, stage: str, died: CallFailed) -> dict:
    """The row of tables.FAILURES for the micrograph of the ledger `row`."""
    return make_failure_row(row["uri"], row["micrograph_id"], stage, died, get_worker_address())


def count_megapixels(row: dict) -> float:
    """Size of the micrograph of the ledger `row`."""
    return row["height_px"] * row["width_px"] / 1e6
