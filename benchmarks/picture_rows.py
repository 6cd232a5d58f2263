"""Thumbnails of real and drawn micrographs, photographs and drawings, to fit and judge `picture-kinds`."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from benchmarks.studies.real_flags import list_micrographs, list_pictures
from benchmarks.studies.real_sets import DATA
from emqa_dask.featurise import overlays, picture_kinds
from emqa_dask.synthetic import contents, foreign, profiles

SEED = 5
N_DRAWN = {"micrograph": 160, "content": 120, "foreign": 240}
N_VIEWS = {"photograph": 12, "plot": 1, "micrograph": 1}  # crops of each picture that is trained on, beside the whole
JUDGED_ONLY = ("uw_cavity", "uw_cavity_more")  # no licence
KIND_OF_FOLDER = {"photograph": "photograph", "plot": "drawing", "micrograph": "micrograph"}


class Row(NamedTuple):
    """A thumbnail to learn from or to judge."""

    role: str  # "train" or "judge"
    kind: str  # one of picture_kinds.KINDS
    dataset: str
    source: str
    is_whole: bool  # not a crop
    thumbnail: np.ndarray  # (128, 128) float32


def draw_view(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A crop of a grey image with another gamma, sometimes blurred or noisy."""
    sides = [min(side, max(64, int(side * rng.uniform(0.4, 1)))) for side in image.shape]
    y, x = (int(rng.integers(0, whole - side + 1)) for whole, side in zip(image.shape, sides, strict=True))
    crop = image[y : y + sides[0], x : x + sides[1]].astype(np.float32)
    crop = crop[:, ::-1] if rng.random() < 0.5 else crop
    crop = ((crop - crop.min()) / max(float(np.ptp(crop)), 1e-6)) ** np.float32(rng.uniform(0.6, 1.6))
    if rng.random() < 0.2:
        crop = cv2.GaussianBlur(crop, (0, 0), min(sides) / 400 * rng.uniform(0.5, 3))
    if rng.random() < 0.25:
        crop = crop + np.float32(rng.uniform(0.01, 0.06)) * rng.standard_normal(crop.shape, dtype=np.float32)
    return crop


def make_row(image: np.ndarray, role: str, kind: str, dataset: str, source: str, is_whole: bool = True) -> Row:
    """The row of a grey image, whose thumbnail is made as the pipeline makes it."""
    low, high = np.percentile(image[::2, ::2], [0.5, 99.5])
    view = overlays.make_view(image.astype(np.float32), float(low), float(high))[0]
    view = view[: len(view) - overlays.measure_banner_rows(view)]
    return Row(role, kind, dataset, source, is_whole, picture_kinds.make_thumbnail(view))


def collect_micrographs() -> Iterator[Row]:
    """Real micrographs; those that may not be trained on are judged."""
    rng = np.random.default_rng([SEED, 0])
    papers = {}
    for folder in ("emps", "emps_more"):
        with (DATA / folder / "source_dois.csv").open(encoding="utf-8", newline="") as stream:
            papers |= {row["filename"]: row["doi"] for row in csv.DictReader(stream)}
    for file in list_micrographs():
        image = cv2.imread(str(file.path), cv2.IMREAD_GRAYSCALE)
        if image is None or file.dataset.startswith("formats"):
            continue
        role = "judge" if file.dataset in JUDGED_ONLY else "train"
        source = f"{file.dataset.split('_more')[0]}:{papers.get(file.path.name, file.path.name[:6])}"
        yield make_row(image, role, "micrograph", file.dataset, source)
        for _ in range(N_VIEWS["micrograph"] if role == "train" else 0):
            yield make_row(draw_view(image, rng), role, "micrograph", file.dataset, source, is_whole=False)


def collect_pictures(directory: Path, role: str) -> Iterator[Row]:
    """Photographs and drawings of DIR/KIND/SOURCE/..., with crops of those that are trained on."""
    rng = np.random.default_rng([SEED, 1])
    for file in list_pictures(directory):
        image = cv2.imread(str(file.path), cv2.IMREAD_GRAYSCALE)
        if image is None:
            continue
        kind = KIND_OF_FOLDER[file.kind]
        yield make_row(image, role, kind, file.dataset, f"{file.dataset}:{file.path.name}")
        for _ in range(N_VIEWS[file.kind] if role == "train" else 0):
            view = draw_view(image, rng)
            yield make_row(view, role, kind, file.dataset, f"{file.dataset}:{file.path.name}", is_whole=False)


def draw_pictures() -> Iterator[Row]:
    """Drawn micrographs, diffraction patterns, element maps and plots."""
    families = list(profiles.FAMILIES)
    for k in range(N_DRAWN["micrograph"]):
        name = families[k % len(families)]
        image = profiles.make_sample(name, np.random.default_rng([SEED, 2, k])).image
        yield make_row(image, "train", "micrograph", name, name)
    for k in range(N_DRAWN["content"]):
        name = list(contents.CONTENTS)[k % len(contents.CONTENTS)]
        image = contents.CONTENTS[name](np.random.default_rng([SEED, 3, k]), (384, 384))
        yield make_row(image, "train", "micrograph", name, name)
    for k in range(N_DRAWN["foreign"]):
        name = ("plot", "diffraction", "eds_map")[k % 3]
        image = foreign.make_foreign_image(name, np.random.default_rng([SEED, 4, k]), (400, 512))
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
        yield make_row(image, "train", "drawing" if name == "plot" else "micrograph", f"drawn {name}", f"drawn {name}")
