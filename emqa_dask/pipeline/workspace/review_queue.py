"""The images that are reviewed, in their order, with what a reviewer sees of each: pixels and objects."""

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask import tables
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pipeline.workspace.stages import list_run_folders
from emqa_dask.review.gain import expect_f1
from emqa_dask.settings import Settings
from emqa_dask.store import files, micrographs, parts
from emqa_dask.store.layout import Workspace

MAX_QUEUE = 1000  # images without a plan; after these, a plan or a new start shows the next
LEDGER_COLUMNS = ["micrograph_id", "uri", "frame", "pixel_sha256", "height_px", "width_px", "stack", "index"]
LEDGER_COLUMNS += ["partition", "nm_per_pixel"]
PLAN_COLUMNS = ["micrograph_id", "position", "plan_id", "review_probability", "why"]
TRIAGE_COLUMNS = ["micrograph_id", "verdict", "explanation", "detector"]
F1_COLUMNS = ["predicted_f1", "predicted_f1_low", "predicted_f1_high"]
OBJECT_COLUMNS = ["micrograph_id", "detector", "score", "y0", "x0", "y1", "x1", "diameter_px", "area_px"]
CACHED_PARTITIONS = 4  # whose objects are kept: two reviewers, each with the next image
MAX_CODE = 65535  # of a pixel on its way to the page: uint16
WINDOW_PX = 2**24  # read at a time of a large image


class Pixels(NamedTuple):
    """A window of an image as codes (y, x) uint16; value = low + code (high - low) / MAX_CODE."""

    codes: NDArray[np.uint16]
    low: float
    high: float


def read_queue(workspace: Workspace, settings: Settings) -> pd.DataFrame:
    """A row per image to review: LEDGER_COLUMNS, plan_id, review_probability, why, verdict, explanation, detector.

    The drawn images of the plan in their order, if there is a plan; otherwise the images with the verdict review, those
    with the most uncertain predicted F1 first. Images that the archive does not contain any longer are left out.
    """
    triage = parts.load_table(workspace.triage, tables.TRIAGE, [*TRIAGE_COLUMNS, *F1_COLUMNS])
    if triage.empty:
        root = files.redact(workspace.uri)
        raise ValueError(f"{root} has no verdicts: run `emqa triage` on it first")
    triage = triage.dropna(subset="micrograph_id")
    if files.exists(workspace.review_plan):
        plan = parts.load_table(workspace.review_plan, tables.REVIEW_PLAN, PLAN_COLUMNS).dropna(subset="position")
        rows = plan.merge(triage, on="micrograph_id", how="left").sort_values("position")
    else:
        rows = triage[triage["verdict"] == "review"]
        order = np.argsort(-expect_f1(rows).deviations, kind="stable")[:MAX_QUEUE]
        rows = rows.iloc[order].assign(plan_id=None, review_probability=np.nan, why=None)
    rows = rows.drop(columns=[*F1_COLUMNS, "position"], errors="ignore")
    places = pd.concat([tables.empty(tables.MICROGRAPHS)[LEDGER_COLUMNS], *_find_places(workspace, rows)])
    return rows.merge(places, on="micrograph_id").reset_index(drop=True)


def _find_places(workspace: Workspace, rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    for ledger in micrograph_ledger.iter_current(workspace, LEDGER_COLUMNS):
        yield ledger[ledger["micrograph_id"].isin(rows["micrograph_id"])]


class ReviewImages:
    """Pixels and objects of the images of a queue."""

    def __init__(self, workspace: Workspace, settings: Settings):
        self._workspace = workspace
        self._folder = list_run_folders(settings)["detections"]
        self._score_floor = settings.featurise.score_floor
        self._ranges: dict[tuple[str, int], tuple[float, float]] = {}
        self._read_partition = lru_cache(CACHED_PARTITIONS)(self._load_partition)

    def _load_partition(self, name: str) -> pd.DataFrame:
        rows = parts.read_part(self._workspace.uri, self._folder, name, tables.DETECTIONS)
        return rows.loc[~(rows["score"] < self._score_floor), OBJECT_COLUMNS]

    def read_objects(self, image: dict) -> list[dict[str, float]]:
        """Detections of the image's detector from the score floor on, as objects of tables.DECISIONS."""
        if pd.isna(image["detector"]):
            return []
        try:
            rows = self._read_partition(image["partition"])
        except FileNotFoundError:
            return []
        rows = rows[(rows["micrograph_id"] == image["micrograph_id"]) & (rows["detector"] == image["detector"])]
        return json.loads(rows[OBJECT_COLUMNS[3:]].to_json(orient="records", double_precision=15))

    def read_pixels(self, image: dict, window: tuple[int, int, int, int], step: int) -> Pixels:
        """The window y0, x0, y1, x1 of an image, every `step`-th row and column of it."""
        y0, x0 = window[:2]
        y1, x1 = window[2:]
        rows_at_once = max(WINDOW_PX // image["width_px"] // step, 1) * step
        strips = [
            micrographs.read_window(
                self._workspace.uri, image["stack"], image["index"], slice(y, min(y + rows_at_once, y1)), slice(x0, x1)
            )[::step, ::step]
            for y in range(y0, y1, rows_at_once)
        ]
        pixels = np.concatenate(strips)
        if pixels.dtype in (np.uint8, np.uint16):
            return Pixels(pixels.astype("<u2"), 0.0, float(MAX_CODE))
        return encode_pixels(pixels, *self._find_range(image["stack"], image["index"], pixels))

    def _find_range(self, stack: str, index: int, pixels: NDArray) -> tuple[float, float]:
        """The least and greatest finite value of an image, from the first window of it that was shown: its overview."""
        key = (stack, index)
        if key not in self._ranges:
            finite = pixels[np.isfinite(pixels)]
            self._ranges[key] = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        return self._ranges[key]


def encode_pixels(pixels: NDArray, low: float, high: float) -> Pixels:
    """Pixels (y, x) of any kind as codes from `low` to `high`; what is not finite has code 0."""
    span = high - low or 1.0
    scaled = (pixels.astype(np.float64) - low) * (MAX_CODE / span)
    codes = np.nan_to_num(scaled, nan=0.0, posinf=MAX_CODE, neginf=0.0)
    return Pixels(np.clip(np.rint(codes), 0, MAX_CODE).astype("<u2"), low, high)
