"""How well F1 is predicted on cohorts never seen: synthetic and real labelled images, with the bundled detector.

python -m benchmarks.studies.labelled_cohorts --out DIR [--detector cavity-tem] [--images 40] [--cache DIR]

Nested: for every left-out cohort the candidate (model and features) and the interval's widths come from folds of the
other cohorts alone. Writes `rows.csv` (one an image and protocol), `cohorts.csv`, `tried.csv`, `summary.json` and
figures. Real cohorts (../shared/data) are left out, and it says so, where they are not at hand.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1")


import argparse
import json
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import spearmanr

from benchmarks.forest_fit import SCALE_FREE_FEATURES
from benchmarks.studies import cohort_images
from benchmarks.studies.labelled_cohorts_figures import draw_figures
from emqa_dask import domain_distance, models
from emqa_dask.predict import conformal, cross_validation, regressors
from emqa_dask.predict.forest import PAPER_FEATURES, select_feature_values

CIRCULARITY = ("mean_circularity", "std_circularity")
IMAGE = (
    "noise_floor",
    "entropy_bits",
    "autocorrelation_excess",
    "spectrum_slope",
    "local_contrast_spread",
    "gradient_tail",
)
# name: kind of regressor, features. From few features to many; `detector_agreement` is that with LoG.
CANDIDATES = {
    "forest of the published eight": ("forest", PAPER_FEATURES),
    "mixed process of the published eight": ("mixed_gaussian_process", PAPER_FEATURES),
    "extra trees, scale-free": ("extra_trees", (*SCALE_FREE_FEATURES, *CIRCULARITY)),
    "extra trees, scale-free and image": ("extra_trees", (*SCALE_FREE_FEATURES, *CIRCULARITY, *IMAGE)),
    "mixed process of the published eight and agreement": (
        "mixed_gaussian_process",
        (*PAPER_FEATURES, "detector_agreement"),
    ),
    "extra trees, scale-free, image and agreement": (
        "extra_trees",
        (*SCALE_FREE_FEATURES, *CIRCULARITY, *IMAGE, "detector_agreement"),
    ),
}
# As benchmarks/fit_log_forest.py has them: free of gain, offset and magnification.
DOMAIN = (
    "entropy_bits",
    "mode_fraction",
    "skewness",
    "spectrum_slope",
    "block_mean_variance_fraction",
    "local_contrast_spread",
    "axis_alignment",
)
DOMAIN += ("gradient_tail", "line_horizontal", "line_vertical", "inversion_symmetry", "radial_fraction")
DOMAIN += ("centre_excess",)
NOT_TYPICAL = ("nothing", "degraded", "bad")  # in the fit, to know what low F1 looks like, not in the domain
WRITTEN = ("protocol", "cohort", "micrograph_id", "true_f1", "precision", "recall", "n_detections", "n_true")
WRITTEN += ("predicted", "low", "high", "candidate", "distance")
COVERAGE = 0.9
N_INNER = 6
GOOD = 0.5
LOW = 0.3


class Chosen(NamedTuple):
    """A candidate fitted on rows, the quantiles of its residuals, and all candidates' mean error on left-out units."""

    name: str
    columns: tuple[str, ...]
    regressor: regressors.Regressor
    residuals: NDArray
    errors: dict[str, float]


def usable(rows: pd.DataFrame, detector: str) -> pd.DataFrame:
    """Rows of one detector that have detections, a truth and all features that a candidate asks for."""
    rows = rows[(rows["detector"] == detector) & (rows["n_detections"] > 0) & rows["true_f1"].notna()]
    columns = sorted({c for _, names in CANDIDATES.values() for c in names})
    return rows[np.isfinite(select_feature_values(rows, columns)).all(axis=1)].reset_index(drop=True)


def choose(rows: pd.DataFrame, units: NDArray, candidates: dict = CANDIDATES, target: str = "true_f1") -> Chosen:
    """The candidate with the least error on units (n,) held out of `rows`, fitted on all, its interval from the same.

    Every unit counts the same. The candidate and the widths see nothing but `rows`.
    """
    true = rows[target].to_numpy(dtype=np.float64)
    held_out = {}
    errors = {}
    for name, (kind, columns) in candidates.items():
        values = select_feature_values(rows, columns)

        def fit_predict(fit, test, kind=kind, columns=columns, values=values):
            model = regressors.fit_regressor(kind, values[fit], true[fit], columns, groups=units[fit])
            return np.stack(regressors.predict_regressor(model, values[test]), axis=1)

        held_out[name] = cross_validation.predict_out_of_fold(
            cross_validation.make_grouped_folds(units, N_INNER), len(rows), fit_predict
        )
        mean = np.clip(held_out[name][:, 0], 0, 1)
        errors[name] = cross_validation.average_over_groups(np.abs(mean - true), units)
    best = min(errors, key=errors.get)
    kind, columns = candidates[best]
    mean, spread = held_out[best].T
    residuals = conformal.compute_residual_quantiles(np.clip(mean, 0, 1), spread, true, units)
    model = regressors.fit_regressor(kind, select_feature_values(rows, columns), true, columns, groups=units)
    return Chosen(best, columns, model, residuals, errors)


def predict(chosen: Chosen, rows: pd.DataFrame) -> pd.DataFrame:
    """`predicted`, `low`, `high` of every row, and `candidate`."""
    mean, spread = regressors.predict_regressor(chosen.regressor, select_feature_values(rows, chosen.columns))
    mean = np.clip(mean, 0, 1)
    quantiles = conformal.compute_quantiles(mean, spread, chosen.residuals)
    low, high = conformal.select_interval(mean, quantiles, COVERAGE)
    return pd.DataFrame({"predicted": mean, "low": low, "high": high, "candidate": chosen.name}, rows.index)


def held_out(task: tuple[pd.DataFrame, NDArray, NDArray, bool]) -> tuple[pd.DataFrame, dict[str, float]]:
    """Predictions of the rows `test` by what the rows `fit` gave, and how far from their images these are."""
    rows, fit, test, by_cohort = task
    known = rows.iloc[fit]
    new = rows.iloc[test]
    units = known["cohort"].to_numpy() if by_cohort else np.arange(len(known))
    selection = choose(known, units)
    typical = known[~known["cohort"].isin(NOT_TYPICAL)]
    domain = domain_distance.fit_domain(typical, typical["cohort"], columns=DOMAIN)
    return predict(selection, new).assign(
        distance=domain_distance.compute_domain_distances(domain, new)
    ), selection.errors


def study(rows: pd.DataFrame, workers: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every row's prediction under each protocol; every candidate's inner error without each left-out part."""
    cohort = rows["cohort"].to_numpy()
    tests = {
        "random": (cross_validation.make_random_folds(len(rows)), False),
        "leave one cohort out": (cross_validation.make_leave_one_out_folds(cohort), True),
    }
    results = []
    candidates = []
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for protocol, (folds, by_cohort) in tests.items():
            tasks = [(rows, fit, test, by_cohort) for fit, test in folds]
            for k, (table, errors) in enumerate(pool.map(held_out, tasks)):
                results.append(rows.join(table, how="right").assign(protocol=protocol))
                left = ", ".join(sorted(set(results[-1]["cohort"]))) if by_cohort else f"part {k}"
                candidates += [
                    {"protocol": protocol, "left_out": left, "candidate": c, "mae": e} for c, e in errors.items()
                ]
                print(f"{protocol} {k + 1}/{len(tasks)}: {left}, {table['candidate'].iloc[0]}", flush=True)
    return pd.concat(results, ignore_index=True), pd.DataFrame(candidates)


def figures_of(rows: pd.DataFrame) -> dict[str, float]:
    """Errors, interval and classification at GOOD of rows with true_f1, predicted, low and high."""
    true = rows["true_f1"].to_numpy()
    mean = rows["predicted"].to_numpy()
    if len(rows) == 0:
        return {"n": 0}
    good = true >= GOOD
    said = mean >= GOOD
    bad = true < LOW
    sure = rows["low"].to_numpy() >= GOOD
    varied = len(rows) > 2 and np.ptp(true) > 0 and np.ptp(mean) > 0
    results = {
        "n": len(rows),
        "mean_f1": true.mean(),
        **{name: cross_validation.compute_errors(true, mean)[name] for name in ("mae", "rmse", "r2")},
        "spearman": spearmanr(true, mean).statistic if varied else np.nan,
        "bias": (mean - true).mean(),
        "bias_at_low_f1": (mean - true)[bad].mean() if bad.any() else np.nan,
        **{
            name: cross_validation.compute_interval_errors(true, rows["low"], rows["high"])[name]
            for name in ("coverage", "width")
        },
        "accuracy_at_0.5": (good == said).mean(),
        "precision_at_0.5": good[said].mean() if said.any() else np.nan,
        "recall_at_0.5": said[good].mean() if good.any() else np.nan,
        "precision_of_low_end_at_0.5": good[sure].mean() if sure.any() else np.nan,
        "share_with_low_end_at_0.5": sure.mean(),
    }
    return {name: round(float(value), 4) for name, value in results.items() if np.isfinite(value)}


def summary(found: pd.DataFrame) -> dict:
    """Figures by protocol: of all rows, of synthetic and real cohorts, of those that the domain lets through."""
    told = {}
    for protocol, rows in found.groupby("protocol"):
        is_real = rows["cohort"].isin(cohort_images.REAL)
        is_in = rows["distance"] <= 1
        parts = {"all": rows, "synthetic": rows[~is_real], "real": rows[is_real], "in domain": rows[is_in]}
        parts |= {"in domain, real": rows[is_in & is_real]}
        told[protocol] = {name: figures_of(part) for name, part in parts.items()}
        by_cohort = [figures_of(part) for _, part in rows.groupby("cohort")]
        means = {k: round(float(np.mean([f[k] for f in by_cohort])), 4) for k in ("mae", "coverage", "width")}
        told[protocol]["mean of cohorts"] = {"n_cohorts": len(by_cohort), **means}
    return told


def by_cohort(found: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (protocol, cohort), part in found.groupby(["protocol", "cohort"]):
        inside = {"in_domain": round(float((part["distance"] <= 1).mean()), 3)}
        rows.append({"protocol": protocol, "cohort": cohort, **figures_of(part), **inside})
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--detector", default="cavity-tem", help="a model directory or a bundled name")
    parser.add_argument("--images", type=int, default=40, help="of every synthetic cohort")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "emqa-cohorts")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    here = cohort_images.at_hand((*cohort_images.SYNTHETIC, *cohort_images.REAL))
    lacking = sorted(set(cohort_images.REAL) - set(here))
    if lacking:
        print(f"not at hand, left out: {', '.join(lacking)}")
    rows = cohort_images.table(options.detector, options.cache, options.images, here)
    card = models.load_model_card(models.locate_model(options.detector))
    kept = usable(rows, card["name"])
    asked = rows[rows["detector"] == card["name"]]
    print(f"{len(kept)} of {len(asked)} images have detections, a truth and all features")
    results, candidates = study(kept, options.workers)
    cohorts = by_cohort(results)
    told = {
        "detector": card["name"],
        "images": len(kept),
        "without_detections": int((asked["n_detections"] == 0).sum()),
    }
    told |= summary(results)
    results[list(WRITTEN)].to_csv(options.out / "rows.csv", index=False)
    cohorts.to_csv(options.out / "cohorts.csv", index=False)
    candidates.to_csv(options.out / "tried.csv", index=False)
    (options.out / "summary.json").write_text(json.dumps(told, indent=1) + "\n")
    draw_figures(options.out, results)
    print(json.dumps(told, indent=1))
    shown = ["cohort", "n", "mean_f1", "mae", "bias", "coverage", "width", "in_domain"]
    print(cohorts[cohorts["protocol"] == "leave one cohort out"][shown].to_string(index=False))


if __name__ == "__main__":
    main()
