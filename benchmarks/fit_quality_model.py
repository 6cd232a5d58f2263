"""Fits the quality model of a detector on real and drawn images, and evaluates it on sources that it never used.

python -m benchmarks.fit_quality_model --name em-objects --fold 0=DIR --fold 1=DIR --fold 2=DIR --cache DIR --out DIR
python -m benchmarks.fit_quality_model --name log --log generic --log nanoparticle-tem --log atomic-stem --cache DIR
    --out DIR

`--fold K=DIR` is the detector that was trained without the sources of fold K of studies/real_sets.py: its detections
stand for those of the detector NAME on new sources. `--log TEMPLATE` rates the LoG with the settings of templates; it
saw no image. `--cache` may be the folder that studies/real.py wrote: detections are shared. Writes the model to
DIR, and evaluation.csv (a row per image and protocol) and summary.csv (a row per set and protocol) to the cache.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1")


import argparse
from pathlib import Path

import pandas as pd

import emqa_dask
from benchmarks.quality_rows import DRAWN_KINDS, DRAWN_SET, RULE, SEED, measure_drawn_images, measure_real_images
from benchmarks.quality_selection import (
    COVERAGE,
    evaluate_left_out,
    fit_row_domain,
    list_candidates,
    select_candidate,
    select_usable_rows,
)
from benchmarks.studies.real_detections import LOG_PREFIX, StudyDetector
from benchmarks.studies.real_metrics import PAPER_IOU, evaluate_prediction, evaluate_trust, summarise_by
from benchmarks.studies.real_sets import DATA, N_FOLDS, NOTICES, read_labelled_sets
from emqa_dask import domain_distance, models
from emqa_dask.predict import quality_files, quality_fit
from emqa_dask.predict.forest import select_feature_values
from emqa_dask.predict.quality_model import TARGETS, QualityModel
from emqa_dask.settings import Settings

PROTOCOLS = {"source": "sources left out", "set": "a whole set left out"}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="of the detector, as its card has it, or log")
    parser.add_argument("--fold", action="append", default=[], metavar="K=DIR")
    parser.add_argument("--log", action="append", default=[], metavar="TEMPLATE")
    parser.add_argument("--drawn", type=int, default=40, help="images of every drawn kind")
    parser.add_argument("--stability-scale", type=float, default=Settings().detect.stability_scale)
    parser.add_argument("--score-floor", type=float, default=Settings().featurise.score_floor)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if bool(options.fold) == bool(options.log):
        parser.error("give --fold for a network, or --log for the LoG")
    return options


def list_detectors(options: argparse.Namespace) -> list[dict[int, StudyDetector]]:
    """The detector of each fold: once for a network, once for each template of the LoG."""
    if options.log:
        return [dict.fromkeys(range(N_FOLDS), StudyDetector(LOG_PREFIX + template)) for template in options.log]
    pairs = [text.partition("=") for text in options.fold]
    return [{int(fold): StudyDetector(directory, options.stability_scale) for fold, _, directory in pairs}]


def fit_model(rows: pd.DataFrame, name: str, score_floor: float) -> tuple[QualityModel, dict[str, float], str]:
    """The quality model of usable rows, the losses of all candidates, and the selected one."""
    selection = select_candidate(rows, list_candidates(rows))
    kind, columns = list_candidates(rows)[selection.name]
    targets = {"f1": selection.target}
    for target, column in TARGETS.items():
        if target in targets:
            continue
        known = rows[rows[column].notna()]  # no recall where there was nothing to find
        values = select_feature_values(known, columns)
        true = quality_fit.check_truth(known[column])
        targets[target] = quality_fit.fit_target(kind, columns, values, true, known["source"], None)
    conditions = {"detector": name, "score_floor": score_floor, "iou_threshold": PAPER_IOU, "rule": RULE}
    values = select_feature_values(rows, columns)
    model = quality_fit.build_quality_model(targets, columns, values, rows["true_f1"], kind, COVERAGE, conditions)
    return model, selection.losses, selection.name


def evaluate_rows(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row per image and protocol, and a row per set and protocol ("all real" is every real image)."""
    tables = [evaluate_left_out(rows, by).assign(protocol=text) for by, text in PROTOCOLS.items()]
    table = pd.concat(tables, ignore_index=True)
    real_rows = table[table["set"] != DRAWN_SET]
    parts = pd.concat([table, real_rows.assign(set="all real")])
    summary = summarise_by(parts, ["protocol", "set"], lambda part: evaluate_trust(part) | evaluate_prediction(part))
    return table, summary


def make_measurements(summary: pd.DataFrame) -> dict[str, dict[str, float]]:
    """The card's table `measured`: the figures of every protocol and set."""
    columns = [
        "n_images",
        "n_possible",
        "n_trusted",
        "n_trusted_correctly",
        "mae",
        "coverage",
        "median_width",
        "spearman",
    ]
    return {
        f"{row['protocol']}, {row['set']}".replace(", ", "_").replace(" ", "_"): {
            name: round(float(row[name]), 4) for name in columns if pd.notna(row[name])
        }
        for row in summary.to_dict("records")
    }


def main() -> None:
    options = parse_arguments()
    images = read_labelled_sets(options.data)
    cache = options.cache / "detections"
    parts = []
    for detectors in list_detectors(options):
        parts.append(measure_real_images(images, detectors, options.score_floor, cache))
        parts.append(measure_drawn_images(options.drawn, detectors[min(detectors)], options.score_floor, cache))
    rows = select_usable_rows(pd.concat(parts, ignore_index=True))
    print(f"{len(rows)} images with detections, of {rows['source'].nunique()} sources", flush=True)
    model, losses, name = fit_model(rows, options.name, options.score_floor)
    print(pd.Series(losses).round(4).to_string(), f"\nselected: {name}", flush=True)
    table, summary = evaluate_rows(rows)
    folder = options.cache / f"quality-{options.name}"
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "evaluation.csv", index=False)
    summary.to_csv(folder / "summary.csv", index=False)
    print(summary.round(3).to_string(index=False))
    sets = sorted(set(rows["set"]) - {DRAWN_SET})
    card = {
        "name": options.out.name,
        "task": f"predict F1, precision and recall of {options.name} on an image from its detections",
        "trained_on": f"real images: {', '.join(sets)}; {options.drawn} drawn images each: {', '.join(DRAWN_KINDS)}",
        "notices": [NOTICES[name] for name in sets],
        "not_for": "other detectors, score floors or IoU thresholds",
        "made_by": "benchmarks/fit_quality_model.py",
        "candidate": name,
        "seed": SEED,
        "n_rows": len(rows),
        "versions": {"emqa_dask": emqa_dask.__version__},
        "losses": {key.replace(",", "").replace(" ", "_"): round(value, 5) for key, value in losses.items()},
        **quality_files.write_quality_model(model, options.out),
        **domain_distance.write_domain(fit_row_domain(rows), options.out),
        "measured": make_measurements(summary),
    }
    models.write_model_card(options.out, card)


if __name__ == "__main__":
    main()
