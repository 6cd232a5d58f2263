"""Calls of a stage's function on the images of a chunk, with the seconds and the failed images of each stage."""

import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from emqa_dask.backend import measure_device_wait_s
from emqa_dask.pipeline.tasks.device_step import DeviceParts
from emqa_dask.pipeline.workspace.failures import make_failure_row
from emqa_dask.run.supervise import Call, CallFailed
from emqa_dask.run.task import get_worker_address
from emqa_dask.settings.detect_windows import DetectWindows

DEVICE = "device"  # name of the time that a task computes on the GPU what several stages need
DEVICE_WAIT = "wait"  # name of the time that a task waits for the GPU of its worker, beside the stages


@dataclasses.dataclass
class Chunk:
    """Images of one acquisition group on which no stage has failed."""

    rows: list[dict]  # of the ledger
    images: list[np.ndarray]
    device_parts: list[DeviceParts | None] = dataclasses.field(default_factory=list)  # None: the GPU has not done it
    windows: DetectWindows = ()  # with LoG settings of their own

    def __post_init__(self) -> None:
        self.device_parts = self.device_parts or [None] * len(self.rows)

    def drop(self, failed_ids: set[str]) -> None:
        """Removes the images on which a stage has failed."""
        positions = [k for k, row in enumerate(self.rows) if row["micrograph_id"] not in failed_ids]
        self.rows = [self.rows[k] for k in positions]
        self.images = [self.images[k] for k in positions]
        self.device_parts = [self.device_parts[k] for k in positions]


class ImageStages:
    """Calls the functions of stages on images, and records the seconds and the failed images of each stage."""

    def __init__(self, call: Call):
        self.call = call
        self.seconds: dict[str, float] = {}  # stage -> s
        self.failures: defaultdict[str, list[dict]] = defaultdict(list)  # table -> rows of tables.FAILURES

    @contextmanager
    def time_stage(self, stage: str) -> Iterator[None]:
        """Adds the seconds of the block to those of `stage`, and those it waited for the GPU to DEVICE_WAIT."""
        started = time.perf_counter()
        former_wait_s = measure_device_wait_s()
        try:
            yield
        finally:
            wait_s = measure_device_wait_s() - former_wait_s
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started - wait_s
            if wait_s > 0:
                self.seconds[DEVICE_WAIT] = self.seconds.get(DEVICE_WAIT, 0.0) + wait_s

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

    def call_together(self, stage: str, chunk: Chunk, function: Callable, *arguments) -> list:
        """The result of one call of `function`, which works on all images of `chunk`; CallFailed where it fails."""
        size = sum(map(count_megapixels, chunk.rows))
        with self.time_stage(stage):
            return self.call(function, *arguments, label=chunk.rows[0]["uri"], megapixels=size)

    def call_batch(
        self, stage: str, table: str, chunk: Chunk, function: Callable, columns: Sequence[list], *options
    ) -> dict[str, Any]:
        """Results by micrograph_id of one call of `function` with the lists `columns` of all images.

        If the batch fails, it is called for each image with lists of one item, as in `call_each`.
        """
        if len(chunk.rows) > 1:
            try:
                values = self.call_together(stage, chunk, function, *columns, *options)
                return {row["micrograph_id"]: value for row, value in zip(chunk.rows, values, strict=True)}
            except CallFailed:
                pass  # each image is tried by itself
        singles = [[[value] for value in column] for column in columns]
        repeated = [[option] * len(chunk.rows) for option in options]
        results = self.call_each(stage, table, chunk, function, *singles, *repeated)
        return {micrograph_id: values[0] for micrograph_id, values in results.items()}


def make_micrograph_failure(row: dict, stage: str, died: CallFailed) -> dict:
    """The row of tables.FAILURES for the micrograph of the ledger `row`."""
    return make_failure_row(row["uri"], row["micrograph_id"], stage, died, get_worker_address())


def count_megapixels(row: dict) -> float:
    """Size of the micrograph of the ledger `row`."""
    return row["height_px"] * row["width_px"] / 1e6
