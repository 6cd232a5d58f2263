"""Task of emqa study robustness: what several detectors find on one image in noise, and how good that is."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from emqa_dask import models
from emqa_dask.backend import use_device
from emqa_dask.detect import log
from emqa_dask.pipeline.tasks.image_measurement import find_pixel_side_nm
from emqa_dask.pipeline.tasks.tune_log import TuningImage, make_scene
from emqa_dask.run.supervise import Call, call_directly
from emqa_dask.settings import Detect, Settings
from emqa_dask.tune import rewards
from emqa_dask.tune.boundaries import compute_radii
from emqa_dask.tune.lattice import LatticePhysics, compute_expected_count


def judge_detectors(
    image: TuningImage,
    log_settings: Mapping[str, Detect],
    networks: Sequence[str],
    settings: Settings,
    physics: LatticePhysics,
    call: Call = call_directly,
) -> dict:
    """Rows of what the LoG finds with each of the settings, by name, and each network: {"rows", "points"}.

    `image.reference` has the known objects, or is None. Points of each detector are arrays (n, 3): y_px, x_px, radius.
    """
    pixels = image.read_pixels()
    tables = {name: log.detect_image(pixels, detect) for name, detect in log_settings.items()}
    for network in networks:
        name, tables[name] = _detect_with_network(pixels, network, image.row, settings)
    rows = [{"detector": name, **_judge_points(points, pixels, image, physics)} for name, points in tables.items()]
    points = {
        name: np.column_stack([table[["y_px", "x_px"]].to_numpy(float), compute_radii(table)]).tolist()
        for name, table in tables.items()
    }
    return {"rows": rows, "points": points}


def _detect_with_network(pixels: np.ndarray, network: str, row: dict, settings: Settings) -> tuple[str, pd.DataFrame]:
    """Name of a network and its detections above the score floor."""
    from emqa_dask.detect.mask_rcnn import load_detector

    device = settings.run.device
    detector = load_detector(models.locate_model(network), device, settings.detect.precision)
    with use_device(device):
        (result,) = detector.examine([pixels], [find_pixel_side_nm(row)])
    detections = result.detections
    return detector.card.name, detections[detections["score"] >= settings.featurise.score_floor]


def _judge_points(points: pd.DataFrame, pixels: np.ndarray, image: TuningImage, physics: LatticePhysics) -> dict:
    """Count, expected count and rewards; with known objects their number, the error of the count, and F1."""
    scene = make_scene(pixels, image, image.reference, physics)
    row = {
        "n_objects": len(points),
        "n_expected": compute_expected_count(physics, pixels.shape, scene.pixel_side_nm),
        "count_error": rewards.signed_count_error(points, scene),
        "crowding": rewards.crowding(points, scene) if physics.spacing_nm > 0 else math.nan,
    }
    if image.reference is None:
        return row
    n_known = rewards.count_tapered(image.reference, scene)
    known_error = rewards.count_tapered(points, scene) / n_known - 1 if n_known > 0 else math.nan
    return row | {
        "n_known": len(image.reference),
        "known_count_error": known_error,
        "f1": 1 - rewards.disagreement(points, scene),
    }


def select_settings(defaults: Detect, row: Mapping[str, float]) -> Detect:
    """`defaults` with the searched settings of `row` of a search."""
    return dataclasses.replace(
        defaults,
        threshold=float(row["threshold"]),
        overlap=float(row["overlap"]),
        min_sigma=float(row["min_sigma"]),
        max_sigma=float(row["max_sigma"]),
        num_sigma=int(row["num_sigma"]),
        log_scale=bool(row["log_scale"]),
    )
