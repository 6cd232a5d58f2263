"""Labelled real micrographs of ../shared/data, and the split by source for leave-one-source-out evaluation.

A source is a paper, a series of exposures or an experiment: images of one source are never on both sides of a split.
The folders of one laboratory that share series (uw_loops, uw_loops_more, uw_loops_more_b) are one set.
"""

import csv
import json
import re
import zlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from emqa_dask.coco.masks import Mask
from emqa_dask.train.coco import read_coco_sets

DATA = Path(__file__).parents[3] / "shared" / "data"
# Licences of the sets that models may be trained on. No image of them is part of a model, and cards state these lines.
NOTICES = {
    "emps": "EMPS: by256/emps, Yildirim and Cole, JCIM 2021, doi:10.1021/acs.jcim.0c01455, MIT",
    "loops": "loops: uw-cmg/Multitype-Defect-Detection, (c) 2018 UW-Madison Computational Materials Group, MIT",
    "creme_loops": "loops: ai-atoms/creme, (c) 2025 ai-atoms, MIT",
    "msa_sintering": "nanoparticles: msa-em/microscopy-seg-track, Duan et al., Elem. Microsc. 2024, "
    "doi:10.69761/HDTA8338, CC BY 4.0",
    "arda_stem_np": "nanoparticles: ArdaGen/STEM-Automated-Nanoparticle-Analysis-YOLOv8-SAM, (c) 2023 ArdaGen, "
    "Genc et al., Ultramicroscopy 271 (2025) 114116, MIT",
    "ampis_powder": "powder: rccohn/AMPIS, (c) 2020 Ryan Cohn, Cohn et al., JOM 73 (2021), "
    "doi:10.1007/s11837-021-04713-y, MIT",
    "deepsem_nanowires": "nanowires: Martin09/DeepSEM, (c) 2020 Martin Friedl, MIT",
}
CLASSES = ("cavity", "particle", "loop")  # of the bundled detector, numbered from 1
N_FOLDS = 3
# Sets whose images are one source each, or few, with the fold that they are held out in.
_FOLD_OF_SET = {
    "msa_sintering": 0,
    "arda_stem_np": 1,
    "ampis_powder": 1,
    "creme_loops": 2,
    "deepsem_nanowires": 2,
}
_FOLD_OF_SERIES = {
    "200kV_500kx": 0,
    "dislocationmapsurvey": 0,
    "0501_300kx": 1,
    "ROI": 1,
    "g1_backonzone": 1,
    "K713_300kx": 2,
    "grid1_roi1": 2,
    "map": 2,
}
_LOOP_FOLDERS = ("uw_loops", "uw_loops_more", "uw_loops_more_b")
_EMPS_FOLDERS = ("emps", "emps_more")


class RealImage(NamedTuple):
    """A labelled micrograph."""

    dataset: str  # "emps", "loops" or the name of the folder
    source: str
    fold: int  # in which its source is held out
    path: Path
    shape: tuple[int, int]  # px
    kind: str  # of its objects, one of CLASSES
    masks: list[Mask]  # the inscribed ellipses of boxes where has_masks is False
    boxes: np.ndarray  # (n, 4) float64: y0, x0, y1, x1, half-open, px, as labelled
    has_masks: bool

    @property
    def name(self) -> str:
        """The set and the file name: an identity among all sets."""
        return f"{self.dataset}/{self.path.name}"


class CavityImage(NamedTuple):
    """A micrograph of cavities with the counts and the F1 that a published detector had on it; for judging only."""

    name: str
    path: Path
    family: str  # images of one experiment
    n_cavities: float  # true count, from the published precision, recall and number of detections
    published_f1: float
    nm_per_pixel: float


def read_labelled_sets(data: Path = DATA) -> list[RealImage]:
    """All images with labelled objects, in the order of their names; FileNotFoundError where `data` is absent."""
    if not data.is_dir():
        raise FileNotFoundError(f"{data}: the real micrographs are not here; this study needs them")
    images = []
    for folder in (*_EMPS_FOLDERS, *_LOOP_FOLDERS, *_FOLD_OF_SET):
        images += _read_folder(data / folder)
    return sorted(images, key=lambda image: image.name)


def read_cavity_counts(data: Path = DATA) -> list[CavityImage]:
    """The images of cavities whose counts are known, one row per image."""
    images = []
    for folder, column in (("uw_cavity", "names"), ("uw_cavity_more", "original")):
        for row in _read_csv(data / folder / "images_f1.csv"):
            path = data / folder / row.get("file", f"images/{row[column]}")
            if not path.is_file() or row["recall"] in ("", "0.0") or not float(row["recall"]) > 0:
                continue
            n_matched = float(row["precision"]) * float(row["counts"])
            family = row.get("family") or re.match(r"[A-Za-z]*\d*", row[column])[0]
            size = float(row["nm_per_pixel"] or "nan")
            count = n_matched / float(row["recall"])
            images.append(CavityImage(f"{folder}/{path.name}", path, family, count, float(row["f1"]), size))
    return images


def _read_folder(folder: Path) -> list[RealImage]:
    coco_file = folder / "annotations_coco.json"
    document = json.loads(coco_file.read_text(encoding="utf-8"))
    entries = {folder / entry["file_name"]: entry for entry in document["images"]}
    boxes = {entry["id"]: [] for entry in document["images"]}
    for annotation in document["annotations"]:
        x, y, width, height = annotation["bbox"]
        boxes[annotation["image_id"]].append((y, x, y + height, x + width))
    sources = _read_sources(folder)
    dataset = "emps" if folder.name in _EMPS_FOLDERS else "loops" if folder.name in _LOOP_FOLDERS else folder.name
    images = []
    for row in read_coco_sets([(coco_file, folder)])[0]:
        entry = entries[row.path]
        if not _is_complete(entry):
            continue
        source = sources.get(row.path.name) or _name_source(dataset, entry, row.path)
        masks = row.masks
        if folder.name == "emps":
            masks = _read_instances(folder / "segmaps" / row.path.with_suffix(".png").name)
        array = np.array(boxes[entry["id"]], np.float64).reshape(-1, 4)
        has_masks = folder.name == "emps" or (bool(masks) and row.n_ellipses == 0)
        kind = "loop" if dataset in ("loops", "creme_loops") else "particle"
        fold = _find_fold(dataset, source)
        images.append(RealImage(dataset, source, fold, row.path, row.shape, kind, masks, array, has_masks))
    return images


def _is_complete(entry: dict) -> bool:
    """Whether all particles of an image were labelled: ampis_powder has images with one class alone."""
    classes = entry.get("labelled")
    return not isinstance(classes, list) or "powder particle" in classes


def _read_sources(folder: Path) -> dict[str, str]:
    path = folder / "source_dois.csv"
    return {row["filename"]: row["doi"] for row in _read_csv(path)} if path.is_file() else {}


def _name_source(dataset: str, entry: dict, path: Path) -> str:
    if dataset == "loops":
        return next(series for series in _FOLD_OF_SERIES if path.name.startswith(series))
    return entry.get("parent") or dataset


def _find_fold(dataset: str, source: str) -> int:
    if dataset == "emps":
        return zlib.crc32(source.encode()) % N_FOLDS
    return _FOLD_OF_SERIES[source] if dataset == "loops" else _FOLD_OF_SET[dataset]


def _read_instances(path: Path) -> list[Mask]:
    """The masks of a 16-bit map of instance numbers, 0 for background."""
    numbers = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    masks = []
    for number in np.unique(numbers[numbers > 0]):
        y, x = np.nonzero(numbers == number)
        y0, x0 = int(y.min()), int(x.min())
        masks.append((y0, x0, (numbers[y0 : y.max() + 1, x0 : x.max() + 1] == number)))
    return masks


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))
