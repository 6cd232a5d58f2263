"""What a worker does for emqa tune log: detect with each of several settings, and say what the rewards say of it."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from emqa_dask.detect.candidates import Candidates, candidates, chosen_detections
from emqa_dask.run.supervise import Call, direct
from emqa_dask.settings import Detect
from emqa_dask.store import micrographs
from emqa_dask.tune import rewards, tiles
from emqa_dask.tune.lattice import LatticePhysics

SEARCHED_SETTINGS = ("threshold", "overlap", "min_sigma", "max_sigma", "num_sigma", "log_scale")


def evaluate_settings(
    root: str,
    row: dict,
    floor: Detect,
    tried: Sequence[Detect],
    names: Sequence[str],
    physics: LatticePhysics | None,
    call: Call = direct,
) -> dict:
    """What the rewards `names` say of a micrograph's detections with each of the settings `tried`."""
    scene = rewards.Scene(_read_image(root, row["stack"], row["index"]), row["nm_per_pixel"], physics)
    points = (_detect_points(root, row, floor, settings) for settings in tried)
    return {"objectives": [_compute_rewards(of, scene, names) for of in points]}


def evaluate_tiles(
    size_px: int,
    choose: str,
    root: str,
    row: dict,
    floor: Detect,
    tried: Sequence[Detect],
    names: Sequence[str],
    physics: LatticePhysics | None,
    call: Call = direct,
) -> dict:
    """The best of the settings `tried` in every window of a micrograph; windows overlap by half."""
    image = _read_image(root, row["stack"], row["index"])
    points = {settings: _detect_points(root, row, floor, settings) for settings in tried}
    known = [{key: getattr(settings, key) for key in SEARCHED_SETTINGS} for settings in tried]

    def evaluate(window: tiles.Tile, _: list[dict]) -> list[list[float]]:
        scene = rewards.Scene(image[window.y0 : window.y1, window.x0 : window.x1], row["nm_per_pixel"], physics)
        return [_compute_rewards(tiles.select_points(points[settings], window), scene, names) for settings in tried]

    parts = tiles.place_tiles(image.shape, size_px, max(1, size_px // 2))
    return {"table": tiles.tune_tiles(parts, known, evaluate, names, choose)}


def _compute_rewards(points: pd.DataFrame, scene: rewards.Scene, names: Sequence[str]) -> list[float]:
    return [float(rewards.load_reward(name)(points, scene)) for name in names]


def _detect_points(root: str, row: dict, floor: Detect, settings: Detect) -> pd.DataFrame:
    """Detections with `settings`; the scale space is searched once for all that have its scales."""
    scales = {key: getattr(settings, key) for key in ("min_sigma", "max_sigma", "num_sigma", "log_scale")}
    kept = _find_candidates(root, row["stack"], row["index"], dataclasses.replace(floor, **scales))
    return chosen_detections(kept, settings)


@functools.lru_cache(maxsize=8)
def _read_image(root: str, stack: str, index: int) -> np.ndarray:
    return micrographs.read_window(root, stack, index)


@functools.lru_cache(maxsize=64)
def _find_candidates(root: str, stack: str, index: int, floor: Detect) -> Candidates:
    return candidates(_read_image(root, stack, index), floor)
