"""What is measured of an image: detections of every detector, the evidence that they are, the image's features."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask import models
from emqa_dask.detect import log
from emqa_dask.detect.normalise import normalise
from emqa_dask.featurise import rings
from emqa_dask.featurise.agreement import agreement
from emqa_dask.featurise.detections import detection_features
from emqa_dask.featurise.images import image_features
from emqa_dask.pipeline.workspace.detectors import names_of
from emqa_dask.settings import Detect, Featurise, Run, Settings
from emqa_dask.tables import THON_RINGS

RINGS_NM = 0.3  # pixels above which no image holds the three rings that an estimate needs


def by_networks(
    images: list[np.ndarray], nm_per_pixel: list[float], settings: Detect, device: str
) -> list[pd.DataFrame]:
    """Detections of all networks on each image, one table an image; the networks are loaded once a process."""
    from emqa_dask.detect.mask_rcnn import load_detector

    found = []
    for name in settings.networks:
        detector = load_detector(models.locate_model(name), device, settings.precision)
        found.append(detector.detect(images, nm_per_pixel))
    return [pd.concat(of_image, ignore_index=True) for of_image in zip(*found, strict=True)]


def detect(image: np.ndarray, row: dict, settings: Settings) -> pd.DataFrame:
    """Detections of every detector on one micrograph, as rows of tables.DETECTIONS."""
    found = []
    how = settings.detect.with_pixel_size(row["nm_per_pixel"])
    if "log" in how.detectors:
        found.append(of_log(log.detect_image(image, how, device=settings.run.device), row))
    if how.networks:
        found += by_networks([image], [row["nm_per_pixel"]], how, settings.run.device)
    return pd.concat(found, ignore_index=True).assign(micrograph_id=row["micrograph_id"])


def of_log(blobs: pd.DataFrame, row: dict) -> pd.DataFrame:
    """`blobs` with their diameters in nm, by the micrograph's pixel size."""
    return blobs.assign(diameter_nm=blobs["diameter_px"] * row["nm_per_pixel"])


def by_log(images: list[np.ndarray], settings: Detect, run: Run) -> list[pd.DataFrame]:
    """log.detect_images() as a list."""
    return list(log.detect_images(images, settings, run.batch_size, run.device))


def evidence_of(row: dict, found: pd.DataFrame, settings: Settings) -> list[dict]:
    """The rows of tables.EVIDENCE of one micrograph: for every detector what it found at or above the score floor."""
    return _evidence(row, _columns(found), settings)


def evidence_of_all(rows: Iterable[dict], found: pd.DataFrame, settings: Settings) -> Iterator[list[dict]]:
    """evidence_of() each of the micrographs `rows`, of whose detections, and others, `found` is the table.

    As arrays from the start: to cut a table for each image took ten times as long as its evidence.
    """
    detections = _columns(found)
    of = pd.Series(np.arange(len(found))).groupby(found["micrograph_id"].to_numpy(object)).indices
    nothing = np.zeros(0, np.intp)
    for row in rows:
        yield _evidence(
            row, _Detections(*(part[of.get(row["micrograph_id"], nothing)] for part in detections)), settings
        )


class _Detections(NamedTuple):
    """Columns of n rows of tables.DETECTIONS."""

    detector: NDArray  # (n,) of text
    boxes: NDArray[np.float64]  # (n, 4)
    score: NDArray[np.float64]  # (n,)
    circularity: NDArray[np.float64]  # (n,)


def _columns(found: pd.DataFrame) -> _Detections:
    return _Detections(
        found["detector"].to_numpy(object),
        found[["y0", "x0", "y1", "x1"]].to_numpy(float),
        found["score"].to_numpy(float),
        found["circularity"].to_numpy(float),
    )


def _evidence(row: dict, found: _Detections, settings: Settings) -> list[dict]:
    floor = settings.featurise.score_floor
    names = names_of(settings.detect)
    is_kept = found.score >= floor
    kept = {name: is_kept & (found.detector == name) for name in names}
    agreed = agreement({name: found.boxes[of] for name, of in kept.items()})
    rows = []
    for name, of in kept.items():
        circularity = None if name == "log" else found.circularity[of]
        shape = (row["height_px"], row["width_px"])
        features = detection_features(found.boxes[of], found.score[of], shape, circularity=circularity)
        said = {"micrograph_id": row["micrograph_id"], "detector": name, "score_floor": floor}
        said |= {"is_capped": int((found.detector == name).sum()) >= names[name], "detector_agreement": agreed[name]}
        rows.append(said | features)
    return rows


def features_of(image: np.ndarray, row: dict, found: pd.DataFrame, settings: Settings) -> dict:
    """The row of tables.FEATURES of one image."""
    return {
        "micrograph_id": row["micrograph_id"],
        **image_features(image, colour_fraction=row["colour_fraction"]),
        "disordered_fraction": disordered_fraction(image, found[found["detector"] == "log"], settings),
        **rings_of(image, row, settings.featurise),
    }


def rings_of(image: np.ndarray, row: dict, how: Featurise) -> dict[str, float]:
    """The columns tables.THON_RINGS of one micrograph; NaN where rings are not looked for or could not be told."""
    nm = row["nm_per_pixel"]
    voltage = row["voltage_kv"]
    if how.rings == "off" or (how.rings == "auto" and not nm <= RINGS_NM) or not (nm > 0 and voltage > 0):
        return dict.fromkeys(THON_RINGS, float("nan"))
    found = rings.thon_rings(image, nm, voltage, cs_mm=how.cs_mm)
    return dict(zip(THON_RINGS, found, strict=True))


def measure(image: np.ndarray, row: dict, found: pd.DataFrame, settings: Settings) -> tuple[list[dict], dict]:
    """evidence_of() and features_of() of one image."""
    return evidence_of(row, found, settings), features_of(image, row, found, settings)


def disordered_fraction(image: np.ndarray, blobs: pd.DataFrame, settings: Settings) -> float:
    """Share of the area without lattice order around the detections; NaN where it is not asked for, or unknown."""
    if not settings.featurise.order or "log" not in settings.detect.detectors:
        return float("nan")
    from emqa_dask.tune import order  # most runs do well without scikit-learn's mixtures

    how = settings.detect
    return order.compute_order_map(normalise(image, how.low_percentile, how.high_percentile), blobs).area_fraction
