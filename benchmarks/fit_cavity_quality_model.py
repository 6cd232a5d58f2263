"""Fits the bundled quality model `cavity-tem-f1`: F1, precision and recall of the network, on synthetic cohorts.

python -m benchmarks.fit_cavity_quality_model [--detector cavity-tem] [--images 40] [--cache DIR] [--study DIR]

The truth is exact, because the images are drawn. With --study, the folder that studies/labelled_cohorts.py wrote, its
figures go on the card. Ends with the verdicts on photographs, plots, diffraction patterns, blanks and noise: exit 1
where one is trusted.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1")


import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

import emqa_dask
from benchmarks.studies import cohort_images, labelled_cohorts
from benchmarks.studies.cohort_images import IOU, RULE
from emqa_dask import domain_distance, models, tables
from emqa_dask.detect.log import detect_image
from emqa_dask.pipeline.tasks import image_measurement, predict
from emqa_dask.pipeline.workspace import detectors
from emqa_dask.predict import quality_files, quality_fit, quality_model
from emqa_dask.predict.forest import select_feature_values
from emqa_dask.predict.predictions import predict_images
from emqa_dask.settings import Settings
from emqa_dask.triage import decide
from emqa_dask.triage.detector_choice import select_detector
from emqa_dask.triage.flags import flag_images
from emqa_dask.triage.rows import join_tables, list_files

FOREIGN = ("photograph", "plot", "diffraction", "eds_map", "blank", "noise")
# Features of the network alone: a model that needs the agreement with LoG predicts nothing where LoG did not run. And
# small models: for three targets a process of 600 rows takes 9 MB and a forest of 100 trees to the last row 5.
ALONE = {
    name: of
    for name, of in labelled_cohorts.CANDIDATES.items()
    if "detector_agreement" not in of[1] and of[0] == "extra_trees"
}


def fit(
    rows: pd.DataFrame, detector: str, score_floor: float
) -> tuple[quality_model.QualityModel, str, dict[str, float]]:
    """A quality model of cohort_images.table(), its candidate, and the candidates' errors on left-out cohorts."""
    cohorts = rows["cohort"].to_numpy()
    results = labelled_cohorts.choose(rows, cohorts, ALONE)
    kind, columns = ALONE[results.name]
    targets = {}
    for name, column in quality_model.TARGETS.items():
        known = rows[rows[column].notna()]  # no recall where there was nothing to be found
        values = select_feature_values(known, columns)
        true = quality_fit.check_truth(known[column])
        groups = known["cohort"].to_numpy()
        targets[name] = quality_fit.fit_target(kind, columns, values, true, groups, None)
    conditions = {"detector": detector, "score_floor": score_floor, "iou_threshold": IOU, "rule": RULE}
    values = select_feature_values(rows, columns)
    made = quality_fit.build_quality_model(
        targets, tuple(columns), values, rows["true_f1"], kind, labelled_cohorts.COVERAGE, conditions
    )
    return made, results.name, results.errors


def verdicts(detector: str, forests: tuple[str, ...], n: int, settings: Settings | None = None) -> pd.DataFrame:
    """Verdict counts (rows: kind of picture) of `n` pictures of every kind of FOREIGN on unseen seeds, as the pipeline
    judges them with LoG and the network side by side."""
    settings = settings or cohort_images.settings_of(detector)
    evidence = []
    rows = []
    kinds = []
    for kind in FOREIGN:
        for k in range(n):
            rng = np.random.default_rng([cohort_images.SEED + 1, FOREIGN.index(kind), k])
            name = f"{kind}-{k}"
            _, image, _, colour = cohort_images.draw_nothing(kind, rng, cohort_images.SHAPES[k % 4], name)
            row = {"micrograph_id": name, "colour_fraction": colour, "nm_per_pixel": np.nan, "voltage_kv": np.nan}
            row |= {"nm_per_pixel_y": np.nan, "height_px": image.shape[0], "width_px": image.shape[1]}
            (network_result,) = image_measurement.detect_with_networks(
                [image], [np.nan], settings.detect, settings.run.device
            )
            results = pd.concat([detect_image(image, settings.detect), network_result.detections])
            evidence += image_measurement.summarise_image(row, results, settings)
            rows.append(image_measurement.featurise_image(image, row, results, settings))
            kinds.append(kind)
    features = tables.conform(rows, tables.FEATURES).to_pandas()
    evidence = predict.join_evidence(tables.conform(evidence, tables.EVIDENCE).to_pandas(), features)
    known = {"micrograph_id": features["micrograph_id"], "uri": features["micrograph_id"] + ".tif", "frame": 0}
    known = tables.empty(tables.MICROGRAPHS).merge(pd.DataFrame(known), how="right")
    catalog = tables.empty(tables.CATALOG).merge(known[["uri"]], how="right").assign(status="ok")
    predicted = predict_images(evidence, forests)
    order = list(detectors.name_detectors(settings.detect))
    selected = select_detector(evidence, predicted, order, settings.triage.max_ood_distance)
    decision_rows = pd.concat([list_files(catalog), join_tables(known, features, selected)], ignore_index=True)
    judged = decide(decision_rows, flag_images(features), settings.triage)
    kind_of = dict(zip(features["micrograph_id"], kinds, strict=True))
    return pd.crosstab(judged["micrograph_id"].map(kind_of).rename("picture"), judged["verdict"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", default="cavity-tem", help="a model directory or a bundled name")
    parser.add_argument("--images", type=int, default=40, help="of every synthetic cohort")
    parser.add_argument("--foreign", type=int, default=12, help="pictures of every kind that never may be trusted")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "emqa-cohorts")
    parser.add_argument("--study", type=Path, help="folder of studies/labelled_cohorts.py")
    parser.add_argument("--out", type=Path, default=models.BUNDLED / "cavity-tem-f1")
    options = parser.parse_args()
    settings = cohort_images.settings_of(options.detector)
    network = models.load_model_card(models.locate_model(options.detector))["name"]
    every = cohort_images.table(options.detector, options.cache, options.images, cohort_images.SYNTHETIC)
    rows = labelled_cohorts.usable(every, network)
    made, name, errors = fit(rows, network, settings.featurise.score_floor)
    typical = rows[~rows["cohort"].isin(labelled_cohorts.NOT_TYPICAL)]
    domain = domain_distance.fit_domain(typical, typical["cohort"], columns=labelled_cohorts.DOMAIN)
    measurements = {"left_out_cohorts_mae": {key.replace(",", ""): round(value, 4) for key, value in errors.items()}}
    if options.study:
        told = json.loads((options.study / "summary.json").read_text())
        measurements |= {key.replace(" ", "_"): value for key, value in told.items() if isinstance(value, dict)}
    card = {
        "name": options.out.name,
        "task": f"predict F1, precision and recall of {network} on an image from its detections",
        "trained_on": f"synthetic cohorts: {', '.join(cohort_images.SYNTHETIC)}; {options.images} images each",
        "not_for": "other detectors, score floors or IoU thresholds; real micrographs were not in the fit",
        "made_by": "benchmarks/fit_cavity_quality_model.py",
        "network": cohort_images.key(options.detector),
        "candidate": name,
        "seed": cohort_images.SEED,
        "n_rows": len(rows),
        "versions": {"emqa_dask": emqa_dask.__version__},
        **quality_files.write_quality_model(made, options.out),
        **domain_distance.write_domain(domain, options.out),
        "measured": measurements,
    }
    models.write_model_card(options.out, card)
    size = sum(p.stat().st_size for p in options.out.iterdir())
    print(f"{options.out}: {name}, {len(rows)} rows, {size / 2**20:.2f} MiB")
    judged = verdicts(options.detector, (str(options.out), "log-synthetic"), options.foreign)
    trusted = int(judged["trust"].sum()) if "trust" in judged else 0
    print(judged.to_string())
    print(f"trusted pictures that are no micrographs: {trusted} of {judged.to_numpy().sum()} (at most 0)")
    counts = {str(kind): {str(k): int(v) for k, v in row.items()} for kind, row in judged.iterrows()}
    models.write_model_card(options.out, {**card, "measured": measurements | {"verdicts_on_foreign_pictures": counts}})
    return int(trusted > 0)


if __name__ == "__main__":
    sys.exit(main())
