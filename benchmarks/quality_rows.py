"""Rows that quality models are fitted to: evidence, image statistics and true F1 of real and drawn images.

A real image is judged by the detector that was trained without its source. Drawn images are new ones: no detector was
trained on them. Detections and statistics are stored and computed once.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.fit_object_detector import draw_sample
from benchmarks.studies.real_detections import CORNERS, StudyDetector, read_detections
from benchmarks.studies.real_metrics import PAPER_IOU
from benchmarks.studies.real_sets import RealImage
from emqa_dask import boxes, models
from emqa_dask.archive.readers import read_micrograph
from emqa_dask.featurise.images import image_statistics
from emqa_dask.pipeline.commands.choose_detectors import count_looks
from emqa_dask.pipeline.tasks.first_look import sum_scores
from emqa_dask.pipeline.tasks.image_measurement import summarise_image
from emqa_dask.settings import Settings, replace
from emqa_dask.synthetic import profiles
from emqa_dask.tables import IMAGE_STATISTICS
from emqa_dask.triage.session_choice import Look, choose_session_detector

SEED = 660_000_000  # no training, no test and no demo draws from here
RULE = "greedy"  # the published study's; its IoU is PAPER_IOU
# Kinds of drawn images as groups: a kind is left out as a whole, like the source of real images.
# Atom columns are objects for the LoG alone: what a network finds on them is wrong.
LATTICE = "columns"
DRAWN_KINDS = ("cavity", "cavity_wide", "background", "particle", "opaque", "loop", "nothing", LATTICE)
DRAWN_SET = "drawn"


class Measured(NamedTuple):
    """An image with its detections."""

    name: str
    dataset: str
    source: str
    fold: int  # -1 of drawn images
    shape: tuple[int, int]
    boxes: NDArray  # (n, 4) true ones: y0, x0, y1, x1, half-open, px
    detections: pd.DataFrame  # tables.DETECTIONS without micrograph_id
    statistics: dict[str, float]


def make_settings(detector: StudyDetector, score_floor: float) -> Settings:
    """Settings of a run with this detector alone."""
    if detector.is_log:
        detect = {"detectors": ["log"]}
    else:
        detect = {"detectors": [str(models.locate_model(detector.name))]}
    return replace(Settings(), {"detect": detect, "featurise": {"score_floor": score_floor}})


def make_row(image: Measured, settings: Settings) -> dict:
    """The row of an image: tables.EVIDENCE, IMAGE_STATISTICS, true_f1, precision, recall, set, source and fold."""
    record = {"micrograph_id": image.name, "height_px": image.shape[0], "width_px": image.shape[1]}
    (evidence,) = summarise_image(record, image.detections, settings)
    is_counted = (image.detections["score"] >= settings.featurise.score_floor).to_numpy()
    corners = image.detections.loc[is_counted, CORNERS].to_numpy(float)
    match = boxes.match_boxes(corners, image.boxes, PAPER_IOU, RULE)
    truth = {"true_f1": match.f1, "precision": match.precision, "recall": match.recall, "n_true": len(image.boxes)}
    groups = {"set": image.dataset, "source": image.source, "fold": image.fold}
    return record | evidence | image.statistics | truth | groups


def measure_real_images(
    images: Sequence[RealImage],
    detectors: Mapping[int, StudyDetector],
    score_floor: float,
    cache: Path,
    say: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Rows of the images whose fold has a detector (make_row())."""
    images = [image for image in images if image.fold in detectors]
    statistics = _read_statistics([image.path for image in images], cache, say)
    rows = []
    for fold, detector in sorted(detectors.items()):
        settings = make_settings(detector, score_floor)
        own_images = [image for image in images if image.fold == fold]
        tables = read_detections(detector, [image.path for image in own_images], cache, say)
        tables = _select_session_classes(own_images, tables, detector.list_classes())
        for image in own_images:
            groups = (image.name, image.dataset, f"{image.dataset}/{image.source}", fold)
            measured = Measured(*groups, image.shape, image.boxes, tables[image.path], statistics[image.path])
            rows.append(make_row(measured, settings))
    return pd.DataFrame(rows)


def _select_session_classes(
    images: Sequence[RealImage], tables: Mapping[Path, pd.DataFrame], classes: Sequence[str]
) -> dict[Path, pd.DataFrame]:
    """Detections of the classes that a first look at each source selects, as a run with `--detector auto` does."""
    if not classes:
        return dict(tables)
    sessions: dict[tuple[str, str], list[RealImage]] = {}
    for image in images:
        sessions.setdefault((image.dataset, image.source), []).append(image)
    selected = {}
    for session in sessions.values():
        looked_at = session[: count_looks(len(session))]
        looks = [Look(sum_scores(tables[image.path], classes), 0.0, 0) for image in looked_at]
        names = choose_session_detector(looks, "network", {}).classes or classes
        for image in session:
            rows = tables[image.path]
            selected[image.path] = rows[rows["label"].isin(names)].reset_index(drop=True)
    return selected


def _read_statistics(paths: Sequence[Path], cache: Path, say: Callable[[str], None]) -> dict[Path, dict[str, float]]:
    """IMAGE_STATISTICS of files, stored in `cache`."""
    file = cache / "statistics.parquet"
    table = pd.read_parquet(file) if file.exists() else pd.DataFrame(columns=["path", *IMAGE_STATISTICS])
    rows = {row.pop("path"): row for row in table[["path", *IMAGE_STATISTICS]].to_dict("records")}
    missing = [path for path in paths if str(path) not in rows]
    for k, path in enumerate(missing):
        rows[str(path)] = image_statistics(read_micrograph(path)[0])
        if (k + 1) % 100 == 0:
            say(f"statistics: {k + 1} of {len(missing)} images")
    if missing:
        file.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame([{"path": path} | row for path, row in rows.items()]).to_parquet(file)
    return {path: rows[str(path)] for path in paths}


def measure_drawn_images(
    n_images: int,
    detector: StudyDetector,
    score_floor: float,
    cache: Path,
    say: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Rows of `n_images` drawn images of every kind of DRAWN_KINDS (make_row()); a kind is a source."""
    settings = make_settings(detector, score_floor)
    rows = []
    for number, kind in enumerate(DRAWN_KINDS):
        file = cache / f"drawn-{detector.key}" / f"{kind}-{n_images}-{score_floor:g}.parquet"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            measured = [_measure_drawn_image(kind, number, k, detector) for k in range(n_images)]
            pd.DataFrame([make_row(image, settings) for image in measured]).to_parquet(file)
            say(f"drawn images: {kind}")
        rows.append(pd.read_parquet(file))
    return pd.concat(rows, ignore_index=True)


def _measure_drawn_image(kind: str, number: int, k: int, detector: StudyDetector) -> Measured:
    rng = np.random.default_rng([SEED, number, k])
    sample = profiles.make_sample("atomic-stem", rng, (512, 512)) if kind == LATTICE else draw_sample(kind, rng)
    name = f"{DRAWN_SET}/{kind}-{k}"
    true_boxes = np.asarray(sample.boxes, float).reshape(-1, 4)
    statistics = image_statistics(sample.image)
    groups = (name, DRAWN_SET, f"{DRAWN_SET}/{kind}", -1)
    return Measured(*groups, sample.image.shape, true_boxes, detector.detect(sample.image), statistics)
