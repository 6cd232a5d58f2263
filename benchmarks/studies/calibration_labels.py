"""Precision and recall of trust after calibration with 10 to 50 labels of the same archive, on its other images.

python -m benchmarks.studies.calibration_labels --out DIR [--sets emps ...] [--detectors cavity-tem ...] [--cache DIR]

For each set of real images and each number of labels, `--repeats` random selections choose detector, score floor,
quality model and limit as emqa calibrate does; the other images of the set judge. An image is good from a true F1 of
0.5 on (greedy, IoU 0.1). Writes draws.csv (a row per selection), labels.csv (pooled per set and number of labels) and a
figure per set. `--detectors` are bundled models, model directories or log:TEMPLATE, see real_detections; of a set that
a detector has seen in its training, the figures are too good: give --sets or --fold.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.studies.real_detections import StudyDetector, read_detections
from benchmarks.studies.real_sets import RealImage, read_labelled_sets
from emqa_dask import models
from emqa_dask.featurise.detections import detection_features
from emqa_dask.predict.calibration import calibrate_quality_model
from emqa_dask.predict.detection_choice import choose_detection
from emqa_dask.predict.figures import plot_label_curve
from emqa_dask.predict.forest import select_feature_values
from emqa_dask.predict.predictions import load_quality_model
from emqa_dask.predict.quality_model import QualityModel, predict_distribution
from emqa_dask.predict.true_quality import compute_f1_above, compute_true_quality
from emqa_dask.predict.trust_limit import PRECISION, choose_trust_limit
from emqa_dask.settings import Predict
from emqa_dask.tables import F1_QUANTILES
from emqa_dask.triage.f1_probability import compute_f1_probability

SIZES = (10, 20, 30, 50)  # labels
FLOORS = (0.1, 0.3, 0.5, 0.7, 0.9)
DEFAULT_FLOOR = 0.1
MATCHING = {"rule": "greedy", "iou_threshold": 0.1}
GOOD_F1 = 0.5
MIN_TEST_IMAGES = 10
COUNTS = ["n_test", "n_good", "n_trusted", "n_right"]


class LabelledSet:
    """Images of one set with the detections of every detector, and the tables of each detector and score floor."""

    def __init__(self, images: Sequence[RealImage], detectors: Sequence[str], cache: Path):
        self.truth = {image.name: image.boxes for image in images}
        self.shapes = {image.name: image.shape for image in images}
        self.detections = {}
        for detector in detectors:
            tables = read_detections(StudyDetector(detector), [image.path for image in images], cache)
            parts = [tables[image.path].assign(micrograph_id=image.name) for image in images]
            self.detections[detector] = pd.concat(parts, ignore_index=True)
        self.f1 = {}
        for detector, rows in self.detections.items():
            for floor, values in zip(FLOORS, compute_f1_above(rows, self.truth, FLOORS, **MATCHING)):
                self.f1[detector, floor] = values
        self.tables: dict[tuple[str, float], tuple[pd.DataFrame, pd.DataFrame]] = {}

    def make_tables(self, detector: str, floor: float) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Features and true quality of every image, made once."""
        if (detector, floor) not in self.tables:
            rows = self.detections[detector]
            counted = dict(list(rows[rows["score"] >= floor].groupby("micrograph_id")))
            features = []
            for name, shape in self.shapes.items():
                boxes = counted.get(name, rows[:0])
                corners = boxes[["y0", "x0", "y1", "x1"]].to_numpy(float)
                described = detection_features(corners, boxes["score"].to_numpy(float), shape)
                features.append({"micrograph_id": name, "detector": detector, "score_floor": floor, **described})
            truth = compute_true_quality(rows.drop(columns="detector", errors="ignore"), self.truth, score_floor=floor)
            self.tables[detector, floor] = (pd.DataFrame(features), truth)
        return self.tables[detector, floor]


def find_bases(detectors: Sequence[str]) -> dict[str, QualityModel]:
    """The bundled quality models of the detectors that the default settings name."""
    bases = {}
    for name in Predict().models:
        detector = models.read_detector_and_floor(name)[0]
        for study_name in detectors:
            is_log = detector == "log" and StudyDetector(study_name).is_log
            if is_log or study_name == detector:
                bases[study_name] = load_quality_model(name)
    return bases


def compute_probability(quantiles: NDArray) -> NDArray:
    """P(F1 >= GOOD_F1) of rows of quantiles (n, k)."""
    return compute_f1_probability(pd.DataFrame(quantiles, columns=list(F1_QUANTILES)), GOOD_F1)


def judge_selection(archive: LabelledSet, bases: Mapping[str, QualityModel], labelled: NDArray) -> dict[str, object]:
    """What the labelled images (positions) choose, and the counts of trusted and right images among the others."""
    names = np.array(list(archive.truth))
    choice = choose_detection({key: values[labelled] for key, values in archive.f1.items()}, DEFAULT_FLOOR)
    features, truth = archive.make_tables(choice.detector, choice.score_floor)
    base = bases.get(choice.detector)
    conditions = {"detector": choice.detector, "score_floor": choice.score_floor}
    if base is not None:
        base = QualityModel(**{**vars(base), **conditions})
    result = calibrate_quality_model(
        features, truth[truth["micrograph_id"].isin(names[labelled])], base=base, iou_threshold=0.1
    )
    is_test = ~np.isin(names, names[labelled])
    true_f1 = archive.f1[choice.detector, choice.score_floor]
    values = select_feature_values(features, result.model.columns)
    is_rated = is_test & (features["n_detections"] > 0).to_numpy() & np.isfinite(values).all(axis=1)
    quantiles = predict_distribution(result.model.targets["f1"], result.model.columns, values[is_rated])[1]
    probability = compute_probability(quantiles)
    held_out = compute_f1_probability(result.held_out, GOOD_F1)
    limit = choose_trust_limit(held_out, (result.held_out["true_f1"] >= GOOD_F1).to_numpy(), probability)
    is_good = true_f1 >= GOOD_F1
    is_trusted = probability >= limit
    n_right = int((is_trusted & is_good[is_rated]).sum())
    counts = (int(is_test.sum()), int(is_good[is_test].sum()), int(is_trusted.sum()), n_right)
    return {**conditions, "limit": limit, "kind": result.model.kind, **dict(zip(COUNTS, counts))}


def summarise_draws(draws: pd.DataFrame) -> pd.DataFrame:
    """Pooled precision and recall per set and number of labels, with the 10th and 90th percentile of the selections."""
    rows = []
    for (name, size), group in draws.groupby(["set", "n_labels"], sort=False):
        row = {"set": name, "n_labels": size, "n_draws": len(group)} | group[COUNTS].mean().round(1).to_dict()
        for measure, total in (("precision", "n_trusted"), ("recall", "n_good")):
            shares = (group["n_right"] / group[total])[group[total] > 0]
            row[measure] = group["n_right"].sum() / group[total].sum() if group[total].sum() else np.nan
            row[f"{measure}_low"] = shares.quantile(0.1)
            row[f"{measure}_high"] = shares.quantile(0.9)
        rows.append(row)
    return pd.DataFrame(rows)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="folder of detections; default: OUT/detections")
    parser.add_argument("--detectors", nargs="+", default=["log:nanoparticle-tem", "cavity-tem"])
    parser.add_argument("--sets", nargs="+")
    parser.add_argument("--fold", type=int, help="only images of sources that this fold holds out, see real_sets")
    parser.add_argument("--repeats", type=int, default=20)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    images = [image for image in read_labelled_sets() if args.fold in (None, image.fold)]
    draws = []
    bases = find_bases(args.detectors)
    for name in args.sets or sorted({image.dataset for image in images}):
        selected = [image for image in images if image.dataset == name]
        archive = LabelledSet(selected, args.detectors, args.cache or args.out / "detections")
        for size in SIZES:
            if size + MIN_TEST_IMAGES > len(selected):
                continue
            for repeat in range(args.repeats):
                labelled = np.sort(np.random.default_rng([repeat, size]).permutation(len(selected))[:size])
                try:
                    result = judge_selection(archive, bases, labelled)
                except ValueError as error:  # less than 8 labelled images with detections
                    print(f"{name}, {size} labels, selection {repeat}: {error}")
                    continue
                draws.append({"set": name, "n_labels": size, "repeat": repeat, **result})
        pd.DataFrame(draws).to_csv(args.out / "draws.csv", index=False)
    summary = summarise_draws(pd.DataFrame(draws))
    summary.to_csv(args.out / "labels.csv", index=False)
    print(summary.round(3).to_string(index=False))
    for name, curve in summary.groupby("set"):
        plot_label_curve(curve, PRECISION, name).savefig(args.out / f"{name}.png", dpi=120)


if __name__ == "__main__":
    main()
