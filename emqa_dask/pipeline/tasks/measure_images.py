"""Stages on the images of a partition: thumbnails, detections, features, classes; a few images at a time."""

import contextlib
import dataclasses
import itertools
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import pandas as pd

from emqa_dask import tables
from emqa_dask.detect import log
from emqa_dask.partition import Partition
from emqa_dask.pipeline.tasks.classify import classify_partition
from emqa_dask.pipeline.tasks.custom_checks import run_check
from emqa_dask.pipeline.tasks.device_step import (
    DeviceParts,
    DeviceWork,
    complete_parts,
    compute_on_device,
    plan_device_work,
)
from emqa_dask.pipeline.tasks.image_measurement import (
    NetworkResult,
    add_diameters_nm,
    detect_by_windows,
    detect_on_device,
    detect_with_networks,
    find_pixel_side_nm,
    measure_images,
)
from emqa_dask.pipeline.tasks.image_stages import DEVICE, Chunk, ImageStages, make_micrograph_failure
from emqa_dask.pipeline.workspace.detector_choices import DetectorChoices, read_choices
from emqa_dask.pipeline.workspace.stages import list_run_folders
from emqa_dask.run.supervise import CallFailed
from emqa_dask.settings import Detect, Settings
from emqa_dask.settings.custom_checks import CustomCheck
from emqa_dask.settings.detect_windows import DetectWindows
from emqa_dask.store import micrographs, parts, thumbnails
from emqa_dask.store.layout import Workspace


def measure_partition(
    workspace: Workspace,
    partition: Partition,
    rows: pd.DataFrame,
    settings: Settings,
    new_rows: dict[str, list],
    stages: ImageStages,
) -> None:
    """Adds the rows of a partition to those tables of `new_rows` that stages on images make.

    `rows` are the micrographs to measure. A few images are in memory at a time. They are not read ahead by another
    thread: reading takes 1 to 3 % of a task (measured), and other tasks of the worker go on meanwhile.
    """
    stored_detections = None
    detected_tables = [table for table in ("detections", "embeddings") if table in new_rows]
    if "detections" not in new_rows and ("evidence" in new_rows or "features" in new_rows):
        stored_detections = _read_detections(workspace, partition, settings)
    images = micrographs.iterate_micrographs(workspace.uri, partition, rows["index"])
    choices = read_choices(workspace, settings)
    for group_settings, windows, chunk_rows in _make_chunks(
        rows.to_dict("records"), settings, choices, _choose_batch_size(settings, new_rows)
    ):
        with stages.time_stage("read"):
            chunk = Chunk(chunk_rows, list(itertools.islice(images, len(chunk_rows))), windows=windows)
        if settings.run.device == "cuda":
            compute_device_parts(chunk, group_settings, new_rows, stages)
        if "thumbnails" in new_rows:
            new_rows["thumbnails"] += make_thumbnails(chunk, settings, stages)
        detections = stored_detections
        if detected_tables:
            new_detections, embeddings = detect(chunk, group_settings, stages, detected_tables[0])
            if "detections" in new_rows:
                detections = new_detections
                new_rows["detections"] += detections.values()
            if "embeddings" in new_rows:
                new_rows["embeddings"] += embeddings
        if detections is not None:
            for table, table_rows in featurise(chunk, detections, group_settings, new_rows, stages).items():
                new_rows[table] += table_rows
        if "probabilities" in new_rows or "regions" in new_rows:
            for table, table_rows in classify(chunk, settings, new_rows, stages).items():
                new_rows[table] += table_rows
        if "custom_checks" in new_rows:
            new_rows["custom_checks"] += run_custom_checks(chunk, settings.flags.custom, stages)


def compute_device_parts(chunk: Chunk, settings: Settings, new_tables: Collection[str], stages: ImageStages) -> None:
    """Adds to `chunk` what the stages that make `new_tables` need of the GPU, from one upload.

    Where that fails nothing is added, and each stage uploads the images again: it knows which one is to blame.
    """
    work = plan_device_work(chunk.rows, settings, new_tables)
    if chunk.windows:  # are searched one by one
        work = work._replace(detect=None)
    arguments = (chunk.images, work, settings.run.device)
    if any(work):
        with contextlib.suppress(CallFailed):
            chunk.device_parts = stages.call_together(DEVICE, chunk, compute_on_device, *arguments)


def make_thumbnails(chunk: Chunk, settings: Settings, stages: ImageStages) -> list[dict]:
    """Rows of tables.THUMBNAILS."""
    columns = [chunk.images, chunk.device_parts]
    options = (settings.store.thumbnail_px, settings.run.device)
    jpegs = stages.call_batch("thumbnail", "thumbnails", chunk, make_image_thumbnails, columns, *options)
    return [{"micrograph_id": micrograph_id, "jpeg": jpeg} for micrograph_id, jpeg in jpegs.items()]


def make_image_thumbnails(
    images: list[np.ndarray], device_parts: list[DeviceParts | None], longest_px: int, device: str
) -> list[bytes]:
    """JPEG of each image; its pixels are averaged on `device`."""
    if device == "cpu":
        return [thumbnails.make_thumbnail(image, longest_px) for image in images]
    parts = complete_parts(images, device_parts, DeviceWork(thumbnail_px=longest_px), device)
    return [thumbnails.encode_thumbnail(own.grey.astype(np.float64)) for own in parts]


def detect(
    chunk: Chunk, settings: Settings, stages: ImageStages, table: str
) -> tuple[dict[str, pd.DataFrame], list[dict]]:
    """Rows of tables.DETECTIONS of every detector by micrograph_id, and rows of tables.EMBEDDINGS.

    An image on which a detector fails becomes a failure of `table`.
    """
    by_detector = []
    embeddings: list[dict] = []
    if "log" in settings.detect.detectors and table == "detections":
        by_detector.append(_detect_blobs(chunk, settings, stages))
    if settings.detect.networks:
        options = (settings.detect, settings.run.device)
        columns = [chunk.images, [find_pixel_side_nm(row) for row in chunk.rows]]
        results = stages.call_batch("detect", table, chunk, detect_with_networks, columns, *options)
        by_detector.append({micrograph_id: result.detections for micrograph_id, result in results.items()})
        embeddings = _list_embeddings(results)
    ids = [row["micrograph_id"] for row in chunk.rows]
    detections = {
        micrograph_id: pd.concat([of_detector[micrograph_id] for of_detector in by_detector], ignore_index=True).assign(
            micrograph_id=micrograph_id
        )
        for micrograph_id in ids
    }
    return detections, embeddings


def _list_embeddings(results: dict[str, NetworkResult]) -> list[dict]:
    """Rows of tables.EMBEDDINGS of the images whose results are given by their micrograph_id."""
    return [
        {"micrograph_id": micrograph_id, "detector": name, "embedding": embedding}
        for micrograph_id, result in results.items()
        for name, embedding in result.embeddings.items()
    ]


def _detect_blobs(chunk: Chunk, settings: Settings, stages: ImageStages) -> dict[str, pd.DataFrame]:
    """Blobs of each image: in batches on a GPU, one by one on a CPU and where settings differ by window."""
    if chunk.windows:
        columns = [chunk.images, *([value] * len(chunk.rows) for value in (settings, chunk.windows))]
        blobs = stages.call_each("detect", "detections", chunk, detect_by_windows, *columns)
    elif settings.run.device == "cuda":
        columns = [chunk.images, chunk.device_parts]
        options = (settings.detect, settings.run.device)
        blobs = stages.call_batch("detect", "detections", chunk, detect_on_device, columns, *options)
    else:
        settings_by_image = [settings.detect] * len(chunk.rows)
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
    ids = [row["micrograph_id"] for row in chunk.rows]
    own_detections = [detections[k] if k in detections else tables.empty(tables.DETECTIONS) for k in ids]
    columns = [chunk.images, chunk.rows, own_detections, chunk.device_parts]
    results = stages.call_batch("featurise", new_tables[0], chunk, measure_images, columns, settings)
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
    is_detected = "detections" in new_rows or "embeddings" in new_rows
    has_network = is_classified or (is_detected and bool(settings.detect.networks))
    return settings.run.batch_size if has_network or settings.run.device == "cuda" else 1


def _make_chunks(
    rows: list[dict], settings: Settings, choices: DetectorChoices, n: int
) -> Iterator[tuple[Settings, DetectWindows, list[dict]]]:
    """Chunks of at most `n` consecutive `rows` of one cohort, session and pixel size, with settings and windows."""

    def resolve(row: dict) -> tuple[Detect, DetectWindows]:
        place = row["uri"], row["instrument"], row["magnification"]
        detect = settings.resolve_detect_settings(*place, find_pixel_side_nm(row))
        return choices.resolve(detect, row["uri"], row["instrument"]), settings.resolve_detect_windows(*place)

    for (detect, windows), similar_rows in itertools.groupby(rows, resolve):
        while chunk := list(itertools.islice(similar_rows, n)):
            yield dataclasses.replace(settings, detect=detect), windows, chunk
