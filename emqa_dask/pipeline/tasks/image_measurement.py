"""Detections of every detector on an image, their summary (tables.EVIDENCE), and the image's features."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask import models
from emqa_dask.backend import use_device
from emqa_dask.detect import log
from emqa_dask.detect.candidates import select_detections
from emqa_dask.detect.log_windows import detect_image_by_windows
from emqa_dask.detect.normalise import normalise
from emqa_dask.featurise.consistency import summarise_consistency
from emqa_dask.featurise.detections import detection_features
from emqa_dask.featurise.detector_agreement import compute_agreement
from emqa_dask.featurise.images import compute_features_of_images, compute_features_of_parts, image_features
from emqa_dask.featurise.rings import LogPower
from emqa_dask.pipeline.tasks.device_step import DeviceParts, DeviceWork, complete_parts, plan_device_work
from emqa_dask.pipeline.tasks.thon_rings import measure_thon_rings
from emqa_dask.pipeline.workspace.detectors import name_detectors
from emqa_dask.pixel_sides import compute_pixel_side_nm
from emqa_dask.settings import Detect, Settings
from emqa_dask.settings.detect_windows import DetectWindows
from emqa_dask.tables import CONTENT, OBJECT_KINDS

if TYPE_CHECKING:  # a run without networks does well without torch
    from emqa_dask.detect.mask_rcnn.image_result import ImageResult


def find_pixel_side_nm(row: dict) -> float:
    """Side of the square with the area of a pixel of the micrograph of the ledger `row`; NaN where it is unknown."""
    return float(compute_pixel_side_nm(row["nm_per_pixel"], row["nm_per_pixel_y"]))


class NetworkResult(NamedTuple):
    """What the networks of a run give for an image."""

    detections: pd.DataFrame  # of all networks, without micrograph_id
    embeddings: dict[str, NDArray[np.float32]]  # name of the network, CONTENT or OBJECT_KINDS: (d,)


def detect_with_networks(
    images: list[np.ndarray], pixel_sides_nm: list[float], settings: Detect, device: str
) -> list[NetworkResult]:
    """Detections and embeddings of all networks on each image, its content and its kind. Networks are loaded once."""
    from emqa_dask.detect.mask_rcnn import load_detector

    by_network = {}
    for name in settings.networks:
        detector = load_detector(models.locate_model(name), device, settings.precision, settings.stability_scale)
        with use_device(device):
            results = detector.examine(images, pixel_sides_nm)
        by_network[detector.card.name] = [_select_classes(result, settings.classes) for result in results]
    return [
        NetworkResult(
            pd.concat([result.detections for result in image_results], ignore_index=True),
            {name: result.embedding for name, result in zip(by_network, image_results, strict=True)}
            | embed_kinds(image, device),
        )
        for image, *image_results in zip(images, *by_network.values(), strict=True)
    ]


def embed_kinds(image: np.ndarray, device: str) -> dict[str, NDArray[np.float32]]:
    """Embeddings of an image by what it shows, whatever the detector: CONTENT and OBJECT_KINDS."""
    from emqa_dask.classify.content import embed_image
    from emqa_dask.classify.object_kinds import estimate_object_kinds

    with use_device(device):
        return {CONTENT: embed_image(image, device), OBJECT_KINDS: estimate_object_kinds(image, device)}


def _select_classes(result: "ImageResult", classes: Sequence[str]) -> "ImageResult":
    """`result` with the detections of `classes` alone; all of them for no classes."""
    if not classes:
        return result
    detections = result.detections
    return result._replace(detections=detections[detections["label"].isin(classes)].reset_index(drop=True))


def detect_objects(image: np.ndarray, row: dict, settings: Settings) -> pd.DataFrame:
    """Detections of every detector on one micrograph, as rows of tables.DETECTIONS."""
    by_detector = []
    pixel_side_nm = find_pixel_side_nm(row)
    detect_settings = settings.detect.with_pixel_size(pixel_side_nm)
    if "log" in detect_settings.candidates:
        by_detector.append(add_diameters_nm(log.detect_image(image, detect_settings, device=settings.run.device), row))
    if detect_settings.networks:
        (result,) = detect_with_networks([image], [pixel_side_nm], detect_settings, settings.run.device)
        by_detector.append(result.detections)
    return pd.concat(by_detector, ignore_index=True).assign(micrograph_id=row["micrograph_id"])


def add_diameters_nm(blobs: pd.DataFrame, row: dict) -> pd.DataFrame:
    """`blobs` with their diameters in nm: of the circle with a blob's area, where pixels are not square."""
    return blobs.assign(diameter_nm=blobs["diameter_px"] * find_pixel_side_nm(row))


def detect_on_device(
    images: list[np.ndarray], device_parts: list[DeviceParts | None], settings: Detect, device: str
) -> list[pd.DataFrame]:
    """Detections by Laplacian of Gaussian on each image, the rows of `log.detect_images` on `device`."""
    parts = complete_parts(images, device_parts, DeviceWork(detect=settings), device)
    return [select_detections(own.candidates, settings) for own in parts]


def detect_by_windows(image: np.ndarray, settings: Settings, windows: DetectWindows) -> pd.DataFrame:
    """Detections by Laplacian of Gaussian with the settings of each of `windows`."""
    device = settings.run.device
    with use_device(device):
        return detect_image_by_windows(image, settings.detect, windows, device)


def summarise_image(row: dict, detections: pd.DataFrame, settings: Settings) -> list[dict]:
    """Rows of tables.EVIDENCE of one micrograph: a summary of the detections of each detector above the score floor."""
    return _summarise(row, _make_detection_columns(detections), settings)


def summarise_images(
    rows: Iterable[dict], detections: pd.DataFrame, find_settings: Callable[[dict], Settings]
) -> Iterator[list[dict]]:
    """Rows of tables.EVIDENCE of each micrograph in `rows`, with the settings that `find_settings(row)` gives.

    `detections` may have rows of other micrographs.

    Columns become arrays once, because selecting a table for each image took ten times as long as the summary.
    """
    columns = _make_detection_columns(detections)
    positions = pd.Series(np.arange(len(detections))).groupby(detections["micrograph_id"].to_numpy(object)).indices
    no_positions = np.zeros(0, np.intp)
    for row in rows:
        image_detections = positions.get(row["micrograph_id"], no_positions)
        image_columns = _Detections(*(column[image_detections] for column in columns))
        yield _summarise(row, image_columns, find_settings(row))


class _Detections(NamedTuple):
    """Columns of n rows of tables.DETECTIONS."""

    detector: NDArray  # (n,) of text
    boxes: NDArray[np.float64]  # (n, 4)
    score: NDArray[np.float64]  # (n,)
    circularity: NDArray[np.float64]  # (n,)
    stability: NDArray[np.float64]  # (n,)
    class_margin: NDArray[np.float64]  # (n,)
    label: NDArray  # (n,) of text


def _make_detection_columns(detections: pd.DataFrame) -> _Detections:
    return _Detections(
        detections["detector"].to_numpy(object),
        np.column_stack([detections[name].to_numpy(float) for name in ("y0", "x0", "y1", "x1")]),
        detections["score"].to_numpy(float),
        detections["circularity"].to_numpy(float),
        detections["stability"].to_numpy(float),
        detections["class_margin"].to_numpy(float),
        detections["label"].to_numpy(object),
    )


def _summarise(row: dict, detections: _Detections, settings: Settings) -> list[dict]:
    """A row of tables.EVIDENCE for every detector of `settings`."""
    floor = settings.featurise.score_floor
    limits = name_detectors(settings.detect)
    masks = {name: (detections.score >= floor) & (detections.detector == name) for name in limits}
    agreements = compute_agreement({name: detections.boxes[mask] for name, mask in masks.items()})
    shape = (row["height_px"], row["width_px"])
    rows = []
    for name, mask in masks.items():
        circularity = None if name == "log" else detections.circularity[mask]
        columns = {
            "micrograph_id": row["micrograph_id"],
            "detector": name,
            "score_floor": floor,
            "is_capped": int((detections.detector == name).sum()) >= limits[name],
            "detector_agreement": agreements[name],
        }
        features = detection_features(detections.boxes[mask], detections.score[mask], shape, circularity=circularity)
        consistency = summarise_consistency(
            detections.stability[mask], detections.class_margin[mask], detections.label[mask]
        )
        rows.append(columns | features | consistency)
    return rows


def featurise_image(image: np.ndarray, row: dict, detections: pd.DataFrame, settings: Settings) -> dict:
    """The row of tables.FEATURES of one image."""
    features = image_features(image, colour_fraction=row["colour_fraction"])
    return _complete_features(features, image, row, detections, settings)


def _complete_features(
    features: dict,
    image: np.ndarray,
    row: dict,
    detections: pd.DataFrame,
    settings: Settings,
    log_power: LogPower | None = None,
) -> dict:
    return {
        "micrograph_id": row["micrograph_id"],
        **features,
        "disordered_fraction": measure_disorder(image, detections, settings),
        **measure_thon_rings(image, row, settings.featurise, log_power),
    }


def measure_image(
    image: np.ndarray, row: dict, detections: pd.DataFrame, settings: Settings
) -> tuple[list[dict], dict]:
    """Rows of tables.EVIDENCE and the row of tables.FEATURES of one image."""
    return measure_images([image], [row], [detections], [None], settings)[0]


def measure_images(
    images: list[np.ndarray],
    rows: list[dict],
    detections: list[pd.DataFrame],
    device_parts: list[DeviceParts | None],
    settings: Settings,
) -> list[tuple[list[dict], dict]]:
    """Rows of tables.EVIDENCE and the row of tables.FEATURES of each image."""
    device = settings.run.device
    colour_fractions = [row["colour_fraction"] for row in rows]
    log_powers: list[LogPower | None] = [None] * len(images)
    if device == "cpu":
        features = compute_features_of_images(images, colour_fractions)
    else:
        parts = complete_parts(images, device_parts, plan_device_work(rows, settings, ["features"]), device)
        log_powers = [own.log_power for own in parts]
        image_parts = [own.image_parts for own in parts]
        short_sides_px = [min(image.shape) for image in images]
        features = compute_features_of_parts(image_parts, short_sides_px, colour_fractions, device)
    results = []
    for k, row in enumerate(rows):
        feature_row = _complete_features(features[k], images[k], row, detections[k], settings, log_powers[k])
        results.append((summarise_image(row, detections[k], settings), feature_row))
    return results


def measure_disorder(image: np.ndarray, detections: pd.DataFrame, settings: Settings) -> float:
    """Share of the area without lattice order around the detections by LoG; NaN where it is not required or unknown."""
    if not settings.featurise.order or "log" not in settings.detect.detectors:
        return float("nan")
    from emqa_dask.tune import order  # most runs do well without scikit-learn's mixtures

    detect = settings.detect
    pixels = normalise(image, detect.low_percentile, detect.high_percentile)
    blobs = detections[detections["detector"] == "log"]
    return order.compute_order_map(pixels, blobs).area_fraction
