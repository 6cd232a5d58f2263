"""What the agreement of detectors says about F1 on real images: as a feature of quality models, and as a limit.

python -m benchmarks.studies.detector_agreement --out DIR [--cache DIR] [--detectors log cavity-tem]

The detectors search all labelled images of real_sets, the LoG with the template for the objects of the set. For each
detector, F1 (greedy, IoU 0.1) is predicted by models fitted without the source, or without the whole set, of an image:
from the published eight features, and from these and the agreement. An image is trusted where F1 reaches 0.5 with a
probability of 0.9. The figures of a network on images that it was trained on are too good: cavity-tem and the LoG saw
none, em-objects all. The count of cavities is compared with published counts, 2 min(n, m) / (n + m).

Writes rows.csv (an image and detector), models.csv (a protocol, set, detector and features), limits.csv
(a detector and limit of agreement) and counts.csv (cavities).
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1")


import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.studies.real_detections import CORNERS, LOG_PREFIX, StudyDetector, read_detections
from benchmarks.studies.real_metrics import (
    GOOD_F1,
    PAPER_IOU,
    compute_rank_correlation,
    evaluate_prediction,
    evaluate_trust,
    summarise_by,
)
from benchmarks.studies.real_sets import read_cavity_counts, read_labelled_sets
from emqa_dask import boxes, models
from emqa_dask.pipeline.tasks.image_measurement import summarise_image
from emqa_dask.predict import conformal, cross_validation, quality_fit
from emqa_dask.predict.forest import PAPER_FEATURES, select_feature_values
from emqa_dask.predict.quality_model import AGREEMENT, predict_distribution
from emqa_dask.settings import Settings, Triage, replace
from emqa_dask.tables import F1_QUANTILES
from emqa_dask.triage.f1_probability import compute_f1_probability

TEMPLATES = {"particle": "nanoparticle-tem", "loop": "generic", "cavity": "cavity-tem"}  # of the LoG by objects
FoldList = list[tuple[NDArray, NDArray]]  # rows to fit, rows left out
KIND = "forest"  # of the bundled models that were fitted to real images
FEATURES = {"the published eight": PAPER_FEATURES, "with agreement": (*PAPER_FEATURES, AGREEMENT)}
LIMITS = (0.0, 0.05, 0.1, 0.2, 0.3)
N_FOLDS = 8  # of sources
COVERAGE = 0.9


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="folder of detections; default: OUT/detections")
    parser.add_argument("--detectors", nargs="+", default=["log", "cavity-tem"])
    return parser.parse_args()


def read_evidence(detectors: Sequence[str], kind: str, paths: dict[Path, tuple[int, int]], cache: Path) -> pd.DataFrame:
    """Rows of tables.EVIDENCE with `path` and `boxes` (n, 4) of the counted detections, for files of one kind."""
    detected = []
    for name in detectors:
        study_detector = StudyDetector(LOG_PREFIX + TEMPLATES[kind] if name == "log" else name)
        detected.append(read_detections(study_detector, paths, cache))
    names = [name if name == "log" else str(models.locate_model(name)) for name in detectors]
    settings = replace(Settings(), {"detect": {"detectors": names}})
    rows = []
    for path, (height, width) in paths.items():
        table = pd.concat([tables[path] for tables in detected], ignore_index=True)
        record = {"micrograph_id": path.name, "height_px": height, "width_px": width}
        for row in summarise_image(record, table, settings):
            is_counted = table["detector"].eq(row["detector"]) & table["score"].ge(settings.featurise.score_floor)
            rows.append(row | {"path": path, "boxes": table.loc[is_counted, CORNERS].to_numpy(float)})
    return pd.DataFrame(rows)


def make_rows(detectors: Sequence[str], cache: Path) -> pd.DataFrame:
    """A row per labelled image and detector: evidence, true_f1, set and source."""
    images = read_labelled_sets()
    by_path = {image.path: image for image in images}
    parts = [
        read_evidence(detectors, kind, {i.path: i.shape for i in images if i.kind == kind}, cache)
        for kind in sorted({image.kind for image in images})
    ]
    rows = pd.concat(parts, ignore_index=True)
    truth = [
        boxes.match_boxes(b, by_path[p].boxes, PAPER_IOU, "greedy").f1 for p, b in zip(rows["path"], rows["boxes"])
    ]
    sets = [by_path[path].dataset for path in rows["path"]]
    sources = [f"{by_path[path].dataset}/{by_path[path].source}" for path in rows["path"]]
    return rows.assign(true_f1=truth, set=sets, source=sources).drop(columns="boxes")


def predict_left_out(rows: pd.DataFrame, columns: Sequence[str], folds: FoldList) -> pd.DataFrame:
    """`rows` with predicted F1, its interval and the verdict, by models that had nothing of the fold of a row."""
    values = select_feature_values(rows, columns)
    true = rows["true_f1"].to_numpy(float)
    sources = rows["source"].to_numpy(str)
    mean = np.full(len(rows), np.nan)
    quantiles = np.full((len(rows), len(F1_QUANTILES)), np.nan)
    for fit, left_out in folds:
        target = quality_fit.fit_target(KIND, columns, values[fit], true[fit], sources[fit], None)
        mean[left_out], quantiles[left_out] = predict_distribution(target, tuple(columns), values[left_out])
    low, high = conformal.select_interval(mean, quantiles, COVERAGE)
    table = rows.assign(predicted_f1=mean, predicted_f1_low=low, predicted_f1_high=high, best_f1=true)
    table = table.assign(**dict(zip(F1_QUANTILES, quantiles.T)))
    is_sure = compute_f1_probability(table, GOOD_F1) >= Triage().trust_probability
    return table.assign(verdict=np.where(is_sure, "trust", "review"))


def make_folds(rows: pd.DataFrame) -> dict[str, FoldList]:
    """The rows to fit and the rows left out of each protocol."""
    by_set = [(np.flatnonzero(rows["set"] != name), np.flatnonzero(rows["set"] == name)) for name in set(rows["set"])]
    return {
        "sources left out": list(cross_validation.make_grouped_folds(rows["source"].to_numpy(str), N_FOLDS)),
        "a whole set left out": by_set,
    }


def evaluate_models(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """models.csv and, of models without the agreement and sources left out, limits.csv for rows of one detector."""
    tables = []
    for protocol, folds in make_folds(rows).items():
        for name, columns in FEATURES.items():
            predicted = predict_left_out(rows, columns, folds)
            tables.append(predicted.assign(protocol=protocol, features=name))
    table = pd.concat(tables, ignore_index=True)
    table = pd.concat([table.assign(set="all"), table], ignore_index=True)
    keys = ["protocol", "set", "features"]
    summary = summarise_by(table, keys, lambda part: evaluate_prediction(part) | evaluate_trust(part))
    return summary.merge(_compare_errors(table), on=keys[:2]), evaluate_limits(tables[0])


def _compare_errors(table: pd.DataFrame) -> pd.DataFrame:
    """Mean change of the error by the agreement, each source with the same weight, and its standard error."""

    def compare(part: pd.DataFrame) -> dict[str, float]:
        error = (part["predicted_f1"] - part["true_f1"]).abs()
        by_source = error.groupby([part["source"], part["features"]]).mean().unstack()
        change = by_source["with agreement"] - by_source["the published eight"]
        return {"mae_change": change.mean(), "change_error": change.std(ddof=1) / np.sqrt(len(change))}

    return summarise_by(table, ["protocol", "set"], compare)


def evaluate_limits(rows: pd.DataFrame) -> pd.DataFrame:
    """What each limit of the agreement catches among all images and among those that a model without it trusts."""
    is_good = rows["true_f1"] >= GOOD_F1
    is_trusted = rows["verdict"].eq("trust")
    results = []
    for limit in LIMITS:
        is_below = rows[AGREEMENT] < limit
        counts = {
            "n_bad": (~is_good).sum(),
            "n_bad_below": (is_below & ~is_good).sum(),
            "n_good": is_good.sum(),
            "n_good_below": (is_below & is_good).sum(),
            "n_trusted_wrongly": (is_trusted & ~is_good).sum(),
            "n_trusted_wrongly_below": (is_trusted & ~is_good & is_below).sum(),
            "n_trusted_rightly": (is_trusted & is_good).sum(),
            "n_trusted_rightly_below": (is_trusted & is_good & is_below).sum(),
        }
        correlation = compute_rank_correlation(rows[AGREEMENT], rows["true_f1"])
        results.append({"limit": limit, "n": len(rows), "spearman": correlation, **counts})
    return pd.DataFrame(results)


def evaluate_counts(detectors: Sequence[str], cache: Path) -> pd.DataFrame:
    """Rank correlation of the agreement with the agreement of counts, of cavities that no detector was trained on."""
    cavities = {image.path: image for image in read_cavity_counts()}
    side = (1024, 1024)  # px; the sizes of images enter no column that is used here
    rows = read_evidence(detectors, "cavity", dict.fromkeys(cavities, side), cache)
    true = np.array([cavities[path].n_cavities for path in rows["path"]])
    n = rows["n_detections"].to_numpy(float)
    rows["count_f1"] = 2 * np.minimum(n, true) / (n + true)
    correlate = {
        name: {"n": len(part), "spearman": compute_rank_correlation(part[AGREEMENT], part["count_f1"])}
        for name, part in rows.groupby("detector")
    }
    return pd.DataFrame.from_dict(correlate, orient="index").rename_axis("detector").reset_index()


def main() -> None:
    options = parse_arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    cache = options.cache or options.out / "detections"
    rows = make_rows(options.detectors, cache)
    rows.to_csv(options.out / "rows.csv", index=False)
    results = {"models": [], "limits": []}
    for detector, own_rows in rows.groupby("detector"):
        usable = own_rows[(own_rows["n_detections"] > 0) & own_rows["true_f1"].notna()].reset_index(drop=True)
        for name, table in zip(results, evaluate_models(usable)):
            results[name].append(table.assign(detector=detector))
        correlations = usable.groupby("set")[[AGREEMENT, "true_f1"]].apply(
            lambda part: compute_rank_correlation(part[AGREEMENT], part["true_f1"])
        )
        print(f"{detector}: rank correlation by set\n{correlations.round(2).to_string()}", flush=True)
    for name, tables in results.items():
        table = pd.concat(tables, ignore_index=True)
        table.to_csv(options.out / f"{name}.csv", index=False)
        print(table.round(3).to_string(index=False), flush=True)
    counts = evaluate_counts(options.detectors, cache)
    counts.to_csv(options.out / "counts.csv", index=False)
    print(counts.round(2).to_string(index=False))


if __name__ == "__main__":
    main()
