"""Tasks of emqa tune log: detect with several settings and compute the rewards of the detections."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from emqa_dask.detect.candidates import Candidates, find_candidates, select_detections
from emqa_dask.run.supervise import Call, call_directly
from emqa_dask.settings import Detect
from emqa_dask.store import micrographs
from emqa_dask.store.layout import Workspace
from emqa_dask.tune import rewards
from emqa_dask.tune.lattice import LatticePhysics
from emqa_dask.tune.noise import NO_NOISE, GaussianNoise, add_gaussian_noise

SEARCHED_SETTINGS = ("threshold", "overlap", "min_sigma", "max_sigma", "num_sigma", "log_scale")
SCALE_SETTINGS = ("min_sigma", "max_sigma", "num_sigma", "log_scale")


class TuningImage(NamedTuple):
    """A micrograph on which settings are evaluated."""

    root: str  # workspace
    row: dict[str, Any]  # micrograph_id, stack, index, nm_per_pixel and nm_per_pixel_y
    floor: Detect  # settings of the lowest threshold; candidates of this threshold are kept in memory
    reference: pd.DataFrame | None = None  # reference objects, see tune.rewards.Scene
    noise: GaussianNoise = NO_NOISE

    @property
    def source(self) -> "ImageSource":
        """Where its pixels are."""
        row = self.row
        return ImageSource(Workspace(self.root), row["stack"], row["index"], row["micrograph_id"], self.noise)

    def read_pixels(self) -> np.ndarray:
        """The image, as stored, with the noise."""
        return read_image(self.source)

    def detect_points(self, settings: Detect) -> pd.DataFrame:
        """Detections with `settings`; the scale space is searched once for all settings with the same scales."""
        scales = {key: getattr(settings, key) for key in SCALE_SETTINGS}
        floor = dataclasses.replace(self.floor, **scales)
        return select_detections(_find_candidates(self.source, floor), settings)


class ImageSource(NamedTuple):
    """A micrograph of a workspace, and the noise that is added to it."""

    workspace: Workspace
    stack: str
    index: int
    micrograph_id: str
    noise: GaussianNoise


def evaluate_settings(
    image: TuningImage,
    settings: Sequence[Detect],
    names: Sequence[str],
    physics: LatticePhysics | None,
    call: Call = call_directly,
) -> dict:
    """The rewards `names` of the detections with each of the settings: {"objectives": (settings, rewards)}."""
    scene = make_scene(image.read_pixels(), image, image.reference, physics)
    return {"objectives": [compute_rewards(image.detect_points(candidate), scene, names) for candidate in settings]}


def average_objectives(values: Sequence[Sequence[Sequence[float]]]) -> np.ndarray:
    """Means (settings, rewards) over images of `values` (images, settings, rewards); infinite where none is finite."""
    objectives = np.array(values)
    has_value = np.isfinite(objectives).any(axis=0)
    mean = np.nanmean(np.where(has_value, objectives, 0.0), axis=0)
    return np.where(has_value, mean, np.inf)


def make_scene(
    pixels: np.ndarray, image: TuningImage, reference: pd.DataFrame | None, physics: LatticePhysics | None
) -> rewards.Scene:
    return rewards.Scene(pixels, image.row["nm_per_pixel"], physics, reference, image.row["nm_per_pixel_y"])


def compute_rewards(points: pd.DataFrame, scene: rewards.Scene, names: Sequence[str]) -> list[float]:
    """The rewards `names` of the detections `points`."""
    return [float(rewards.load_reward(name)(points, scene)) for name in names]


@functools.lru_cache(maxsize=8)
def read_image(source: ImageSource) -> np.ndarray:
    """The pixels of a micrograph, as stored, with the noise."""
    pixels = micrographs.read_window(source.workspace.uri, source.stack, source.index)
    return add_gaussian_noise(pixels, source.noise, source.micrograph_id)


@functools.lru_cache(maxsize=64)
def _find_candidates(source: ImageSource, floor: Detect) -> Candidates:
    return find_candidates(read_image(source), floor)
