"""Tasks of emqa tune log --windows: the search for the settings of one window on the images of a group."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from emqa_dask.detect.candidates import Candidates, find_candidates_in_rectangle, select_detections
from emqa_dask.detect.normalise import IntensityLimits
from emqa_dask.detect.tiles import sample_intensity_limits
from emqa_dask.pipeline.tasks.tune_log import (
    SCALE_SETTINGS,
    SEARCHED_SETTINGS,
    ImageSource,
    TuningImage,
    average_objectives,
    compute_rewards,
    make_scene,
    read_image,
)
from emqa_dask.run.supervise import Call, call_directly
from emqa_dask.settings import Detect
from emqa_dask.tune import rewards, search, tiles
from emqa_dask.tune.lattice import LatticePhysics, compute_expected_count
from emqa_dask.tune.space import SearchSpace

MIN_OBJECTIVE_RANGE = 0.1  # of an objective: with a narrower one 0.1 % would count as much as 10 %
MIN_WINDOW_OBJECTS = 20  # with fewer one object more or less is 5 % of a reward
COUNT_COLUMN = "n_objects"  # mean over the images
FALLBACK_COLUMN = "is_fallback"
WHOLE_IMAGE_SUFFIX = "_whole_image"  # of the rewards of the settings of the whole image in a window


class WindowPlan(NamedTuple):
    """How each window is searched."""

    space: SearchSpace
    names: tuple[str, ...]  # of the rewards
    physics: LatticePhysics | None
    settings: dict[str, Any]  # of the whole images; they are tried first
    evaluations: int
    seed: int
    method: str
    batch: int
    distance: str  # to the ideal point


class WindowImage(NamedTuple):
    """A window of an image, on which its settings are judged."""

    image: TuningImage
    defaults: Detect  # with the polarity of the whole image
    window: tiles.Tile
    scene: rewards.Scene

    @classmethod
    def prepare(cls, image: TuningImage, polarity: str, window: tiles.Tile, plan: WindowPlan) -> "WindowImage":
        """The pixels of `image` in `window`, and the reference objects there."""
        pixels = image.read_pixels()[window.y0 : window.y1, window.x0 : window.x1]
        reference = None if image.reference is None else tiles.select_points(image.reference, window)
        scene = make_scene(pixels, image, reference, plan.physics)
        return cls(image, dataclasses.replace(image.floor, polarity=polarity), window, scene)

    def detect_points(self, settings: dict[str, Any]) -> pd.DataFrame:
        """Detections whose centre lies in the window, in its coordinates; pixels around it count in their search."""
        floor = dataclasses.replace(self.defaults, **{key: settings[key] for key in SCALE_SETTINGS})
        candidates = _find_candidates(self.image.source, floor, self.window)
        points = select_detections(candidates, dataclasses.replace(self.defaults, **settings))
        return tiles.select_points(points, self.window)

    def compute_rewards(self, settings: dict[str, Any], names: Sequence[str]) -> list[float]:
        """The rewards of the detections with `settings`."""
        return compute_rewards(self.detect_points(settings), self.scene, names)

    def count_objects(self, settings: dict[str, Any]) -> float:
        """How many objects the rewards rest on: the reference's, the expected ones, or else those that are detected."""
        if self.scene.reference is not None:
            return len(self.scene.reference)
        if self.scene.physics is not None:
            return compute_expected_count(self.scene.physics, self.scene.image.shape, self.scene.pixel_side_nm)
        return len(self.detect_points(settings))


def find_polarity(image: TuningImage, settings: dict[str, Any], call: Call = call_directly) -> dict:
    """{"polarity": the one of the detections with `settings` in the whole image; "auto" where there are none}."""
    points = image.detect_points(dataclasses.replace(image.floor, **settings))
    signs = points["polarity"].unique()
    return {"polarity": "auto" if len(signs) == 0 else "bright" if signs[0] > 0 else "dark"}


def search_window(
    images: Sequence[TuningImage],
    polarities: Sequence[str],
    window: tiles.Tile,
    plan: WindowPlan,
    call: Call = call_directly,
) -> dict:
    """{"row": the row of windows.csv}: a search as that of whole images, on the pixels of the window."""
    parts = [WindowImage.prepare(*image, window, plan) for image in zip(images, polarities, strict=True)]

    def evaluate(candidates: list[dict]) -> np.ndarray:
        return average_objectives([[part.compute_rewards(one, plan.names) for one in candidates] for part in parts])

    history = search.run_search(
        evaluate,
        plan.space,
        plan.names,
        evaluations=plan.evaluations,
        seed=plan.seed,
        method=plan.method,
        batch=plan.batch,
        initial=[plan.settings],
    )
    whole_image_rewards = history.table[list(plan.names)].iloc[0]
    settings, values = plan.settings, whole_image_rewards
    is_finite = np.isfinite(history.table[list(plan.names)]).all(axis=1).any()
    if is_finite:
        settings = history.select_settings(plan.distance, MIN_OBJECTIVE_RANGE)
        values = history.select_row(plan.distance, MIN_OBJECTIVE_RANGE)[list(plan.names)]
    n_objects = float(np.mean([part.count_objects(settings) for part in parts]))
    is_fallback = not (is_finite and n_objects >= MIN_WINDOW_OBJECTS)
    if is_fallback:
        settings, values = plan.settings, whole_image_rewards
    row = window._asdict() | {name: settings[name] for name in SEARCHED_SETTINGS}
    row |= {name: float(values[name]) for name in plan.names}
    row |= {f"{name}{WHOLE_IMAGE_SUFFIX}": float(whole_image_rewards[name]) for name in plan.names}
    return {"row": row | {COUNT_COLUMN: n_objects, FALLBACK_COLUMN: is_fallback}}


@functools.lru_cache(maxsize=64)
def _find_candidates(source: ImageSource, floor: Detect, window: tiles.Tile) -> Candidates:
    limits = _find_limits(source, floor.low_percentile, floor.high_percentile)
    return find_candidates_in_rectangle(read_image(source), floor, window, limits)


@functools.lru_cache(maxsize=64)
def _find_limits(source: ImageSource, low_percentile: float, high_percentile: float) -> IntensityLimits:
    image = read_image(source)
    return sample_intensity_limits(lambda y0, y1: image[y0:y1], image.shape, (low_percentile, high_percentile))
