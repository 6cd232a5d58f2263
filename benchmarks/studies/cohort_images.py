"""Labelled cohorts, synthetic and real, measured as the pipeline measures micrographs; kept, so that it is done once.

What depends on no network (pixels, truth, LoG, the image's statistics) is kept apart from a network's detections, whose
folder bears the digest of its model: with another network only that runs again.
"""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from emqa_dask import models, tables
from emqa_dask.detect.log import detect_image
from emqa_dask.pipeline.tasks import image_measurement, predict
from emqa_dask.predict.true_quality import compute_true_quality
from emqa_dask.settings import Settings, replace
from emqa_dask.synthetic import camera, cavities, faults, profiles
from emqa_dask.synthetic.sample import draw_log_uniform

SEED = 990_000_000  # no test, no demo and no other fit draws from here
SHAPES = ((384, 384), (512, 512), (448, 448), (400, 560))
CORNERS = ["y0", "x0", "y1", "x1"]
OF_DETECTIONS = ["detector", *CORNERS, "score", "circularity", "stability", "class_margin", "label"]
REAL_SIDE = 640  # real images are halved until no side is longer
# the published study's
IOU = 0.1
RULE = "greedy"
_CLEAN = {"dose_e_per_px": 1500.0, "mtf_sigma_px": 0.6}
# A cohort is what one microscope gave in one session: conditions are fixed, the specimen varies.
CAVITIES = {
    "overfocus": {"defocus": "over"},
    "underfocus": {"defocus": "under"},
    "dose low": {"exposure": _CLEAN | {"dose_e_per_px": 40.0}},
    "dose high": {"exposure": _CLEAN},
    "small": {"median_radius_px": 5.0, "fringe_px": 3.0},
    "large": {"median_radius_px": 45.0},
    "background weak": {"background": 0.15},
    "background strong": {"background": 1.8},
    "faceted": {"facet": True},
    "round": {"facet": False, "sigma_log": 0.15},
    "bad": {},  # contrast and dose down to hopeless
}
DEGRADATIONS = ("blur", "drift", "astigmatism", "under_exposure", "saturation", "charging", "x_rays")
NOTHING = ("foil", "support", "photograph", "plot", "diffraction", "eds_map", "blank", "noise")
SYNTHETIC = (*CAVITIES, "degraded", "nanoparticle-tem", "atomic-stem", "sem-texture", "nothing")
REAL = ("emps", "arda_stem_np", "uw_loops")


class Picture(NamedTuple):
    name: str
    image: np.ndarray  # (h, w)
    boxes: np.ndarray  # (n, 4) y0, x0, y1, x1, half-open, px
    colour: float = 0.0  # share of coloured pixels


def draw(cohort: str, i: int) -> Picture:
    """Image `i` of a synthetic cohort, always the same."""
    rng = np.random.default_rng([SEED, SYNTHETIC.index(cohort), i])
    shape = SHAPES[i % len(SHAPES)]
    name = f"{cohort}-{i}"
    if cohort == "nothing":
        return draw_nothing(NOTHING[i % len(NOTHING)], rng, shape, name)
    if cohort in profiles.FAMILIES:
        sample = profiles.make_sample(cohort, rng, shape, clear=i % 2 == 0)
    elif cohort == "bad":
        sample = cavities.draw_cavities(rng, shape)
    else:
        clear = {"contrast": draw_log_uniform(rng, 0.3, 1.2), "exposure": camera.draw_settings(rng, low_dose=60)}
        sample = cavities.draw_cavities(rng, shape, **clear | CAVITIES.get(cohort, {}))
    image = sample.image
    if cohort == "degraded":
        fault = DEGRADATIONS[i % len(DEGRADATIONS)]
        image = faults.apply_fault(fault, image, rng, severity=rng.uniform(0.05, 0.6))
    return Picture(name, image, sample.boxes)


def draw_nothing(kind: str, rng: np.random.Generator, shape: tuple[int, int], name: str) -> Picture:
    """A picture without an object: an empty foil or support, or no micrograph at all."""
    if kind in ("foil", "support"):
        family = "cavity-tem" if kind == "foil" else "nanoparticle-tem"
        image = profiles.make_sample(family, rng, shape, clear=True, n=0).image
    elif kind == "noise":
        grain = rng.normal(0, 1, shape) if rng.random() < 0.5 else rng.poisson(draw_log_uniform(rng, 1, 100), shape)
        image = grain.astype(np.float32)
    else:
        image = faults.apply_fault(kind, np.zeros(shape, np.uint8), rng)
    image, colour = grey(image)
    return Picture(name, image, np.zeros((0, 4)), colour)


def grey(image: np.ndarray) -> tuple[np.ndarray, float]:
    """A picture as ingestion makes it grey, and the share of its coloured pixels."""
    if image.ndim == 2:
        return image, 0.0
    coloured = np.ptp(image.astype(int), axis=2) > 0.08 * np.iinfo(image.dtype).max
    luma = image @ np.array([0.299, 0.587, 0.114])
    return np.rint(luma).astype(image.dtype), float(coloured.mean())


def real(cohort: str) -> list[Picture]:
    """Images of a labelled set, halved until no side exceeds REAL_SIDE; none where the set is not at hand."""
    from benchmarks.studies.particles import cohorts

    results = []
    for labelled in sorted((one for many in cohorts(cohort).values() for one in many), key=lambda one: one.name):
        image = labelled.image
        boxes = labelled.boxes
        while max(image.shape) > REAL_SIDE:
            half = (max(1, image.shape[1] // 2), max(1, image.shape[0] // 2))
            scale = np.tile(np.array(half[::-1]) / image.shape, 2)
            image = cv2.resize(image, half, interpolation=cv2.INTER_AREA)
            boxes = boxes * scale
        results.append(Picture(f"{cohort}-{labelled.name}", image, boxes))
    return results


def pictures(cohort: str, n: int) -> list[Picture]:
    """The cohort's images: `n` of a synthetic one, all of a real one."""
    return real(cohort) if cohort in REAL else [draw(cohort, i) for i in range(n)]


def settings_of(detector: str) -> Settings:
    """Defaults, with LoG and the network `detector` (a directory or a bundled name) side by side."""
    return replace(Settings(), {"detect": {"detectors": ["log", detector]}})


def measured(cohort: str, n: int, detector: str, cache: Path) -> pd.DataFrame:
    """Rows of evidence and features of both detectors on every image of a cohort, with the truth; see table()."""
    settings = settings_of(detector)
    common = cache / f"common-{n}" / cohort
    of_network = cache / f"{key(detector)}-{n}" / f"{cohort}.parquet"
    if not (common / "done").exists():
        _measure_common(pictures(cohort, n), common, settings)
    with np.load(common / "images.npz") as images:
        pixels = [images[key] for key in images.files]
    known = pd.read_parquet(common / "features.parquet")
    truth = pd.read_parquet(common / "truth.parquet")
    if not of_network.exists():
        results = []
        for first in range(0, len(pixels), 8):  # so that progress is seen
            part = pixels[first : first + 8]
            network_results = image_measurement.detect_with_networks(
                part, [np.nan] * len(part), settings.detect, settings.run.device
            )
            for name, result in zip(known["micrograph_id"][first : first + 8], network_results, strict=True):
                results.append(result.detections[OF_DETECTIONS].assign(micrograph_id=name))
        of_network.parent.mkdir(parents=True, exist_ok=True)
        pd.concat(results, ignore_index=True).to_parquet(of_network)
    detections = pd.concat([pd.read_parquet(common / "log.parquet"), pd.read_parquet(of_network)], ignore_index=True)
    return rows_of(cohort, known, detections, truth, settings)


def key(detector: str) -> str:
    """What a network's detections depend on: its weights, build and input, not what its card says was measured."""
    card = models.load_model_card(models.locate_model(detector))
    told = {name: card.get(name) for name in ("name", "family", "classes", "architecture", "input")}
    told["files"] = {name: of for name, of in card["files"].items() if name.startswith("weights")}
    return "network-" + hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def _measure_common(images: list[Picture], folder: Path, settings: Settings) -> None:
    features = []
    blobs = []
    truth = []
    for name, image, boxes, colour in images:
        row = {"micrograph_id": name, "colour_fraction": colour, "height_px": image.shape[0]}
        row |= {"width_px": image.shape[1], "nm_per_pixel": np.nan, "nm_per_pixel_y": np.nan, "voltage_kv": np.nan}
        results = detect_image(image, settings.detect)
        blobs.append(results[OF_DETECTIONS].assign(micrograph_id=name))
        said = {key: row[key] for key in ("height_px", "width_px")}
        features.append(image_measurement.featurise_image(image, row, results, settings) | said)
        truth.append(pd.DataFrame(boxes, columns=CORNERS).assign(micrograph_id=name))
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "images.npz", **{f"{k:04d}": picture.image for k, picture in enumerate(images)})
    pd.DataFrame(features).to_parquet(folder / "features.parquet")
    pd.concat(blobs, ignore_index=True).to_parquet(folder / "log.parquet")
    pd.concat(truth, ignore_index=True).to_parquet(folder / "truth.parquet")
    (folder / "done").touch()


def rows_of(
    cohort: str, known: pd.DataFrame, detections: pd.DataFrame, truth: pd.DataFrame, settings: Settings
) -> pd.DataFrame:
    """Evidence (tables.EVIDENCE) and features (tables.FEATURES) of both detectors, joined as the pipeline does, with
    `cohort`, `height_px`, `width_px`, and true_f1, precision, recall and n_true at the score floor (f1_of())."""
    by_image = dict(list(detections.groupby("micrograph_id")))
    nothing = detections.iloc[:0]
    evidence = []
    for row in known[["micrograph_id", "height_px", "width_px"]].to_dict("records"):
        evidence += image_measurement.summarise_image(row, by_image.get(row["micrograph_id"], nothing), settings)
    evidence = tables.conform(evidence, tables.EVIDENCE).to_pandas()
    boxes = {name: np.zeros((0, 4)) for name in known["micrograph_id"]}
    boxes |= {name: of[CORNERS].to_numpy(float) for name, of in truth.groupby("micrograph_id")}
    floor = settings.featurise.score_floor
    right = [
        compute_true_quality(detections[detections["detector"] == name], boxes, RULE, IOU, floor).assign(detector=name)
        for name in evidence["detector"].unique()
    ]
    rows = predict.join_evidence(evidence, known).merge(
        pd.concat(right).drop(columns="n_detections"), on=["micrograph_id", "detector"], validate="one_to_one"
    )
    return rows.assign(cohort=cohort)


def table(
    detector: str, cache: Path, n: int, cohorts: tuple[str, ...] = (*SYNTHETIC, *REAL), say: Callable = print
) -> pd.DataFrame:
    """measured() of every cohort that is at hand, in one table; says how far it is."""
    results = []
    started = time.perf_counter()
    for k, cohort in enumerate(at_hand(cohorts)):
        results.append(measured(cohort, n, detector, cache))
        past = time.perf_counter() - started
        left = past / (k + 1) * (len(at_hand(cohorts)) - k - 1)
        say(f"{cohort}: {len(results[-1]) // 2} images; {past:.0f} s, about {left:.0f} s left")
    return pd.concat(results, ignore_index=True)


def at_hand(cohorts: tuple[str, ...]) -> tuple[str, ...]:
    """Without the real sets that are not there."""
    from benchmarks.studies.particles import SHARED

    return tuple(cohort for cohort in cohorts if cohort not in REAL or (SHARED / cohort).exists())
