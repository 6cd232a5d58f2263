"""The study of Li et al., Digital Discovery 4 (2025) 987, from a table in their format, with honest columns beside.

python -m benchmarks.studies.detection_f1 TABLE.csv --out DIR          some minutes; --repeats 2 --no-sweep is quicker

Writes table2.csv (every split, and all, under each protocol), table3.csv (F1, precision, recall, swelling error),
importance.csv, feature_sweep.csv, classification.csv, predictions.csv, summary.json, and figures 3 to 9 as PNG.

Protocols of table2.csv, each forest refitted for every fold and nothing tuned on what is left out:
- `random`: 5 random folds, repeated; figures of the rows of a split, mean over repeats. What the paper reports.
- `grouped by image`: 5 folds that share no image name (the same image is in several splits).
- `leave one split out`: fitted on the nine others.
- `leave one split out, images removed`: and on none of the left-out split's images. A new detector or instrument.
A model other than the forest stands behind the protocol's name: `grouped by image, gaussian process`.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.studies import detection_f1_figures as draw
from benchmarks.studies import feature_importance
from benchmarks.studies.published_table import is_grouped, list_repeated_rows, read_published
from emqa_dask.predict import conformal, cross_validation, regressors
from emqa_dask.predict.forest import PAPER_FEATURES
from emqa_dask.tables import DETECTION_FEATURES

METRICS = ["rmse", "mae", "r2", "nrmse", "nmae"]
LEFT_OUT = "leave one split out, images removed"
SUMMARIES = {"mean of grouped splits": True, "mean of random splits": False}


class Study:
    """A table, and predictions of one of its columns for rows that the model has not seen."""

    def __init__(self, table: pd.DataFrame, columns: Sequence[str]):
        self.table = table
        self.columns = tuple(columns)
        self.values = table[list(columns)].to_numpy(dtype=np.float64)
        self.splits = table["split"].to_numpy()
        self.images = table["image"].to_numpy()

    def folds(self, protocol: str, seed: int = 0) -> Iterator:
        if protocol == "random":
            return cross_validation.make_random_folds(len(self.table), seed=seed)
        if protocol == "grouped by image":
            return cross_validation.make_grouped_folds(self.images)
        return cross_validation.make_leave_one_out_folds(self.splits, self.images if protocol == LEFT_OUT else None)

    def predict(self, protocol: str, target: str = "true_f1", kind: str = "forest", seed: int = 0) -> NDArray:
        true = self.table[target].to_numpy(dtype=np.float64)

        def fit_predict(fit: NDArray, held_out: NDArray) -> NDArray:
            model = regressors.fit_regressor(kind, self.values[fit], true[fit], self.columns, seed, self.splits[fit])
            return regressors.predict_regressor(model, self.values[held_out])[0]

        return cross_validation.predict_out_of_fold(self.folds(protocol, seed), len(true), fit_predict)

    def rows(self, protocol: str, predictions: Sequence[NDArray], target: str = "true_f1") -> list[dict]:
        """Rows of table 2: all, every split in the paper's order, and the two kinds' means."""
        true = self.table[target].to_numpy(dtype=np.float64)
        splits = sorted(set(self.splits), key=lambda s: (not is_grouped(s), -(self.splits == s).sum(), s))
        results = {}
        for split in ("all", *splits):
            here = np.full(len(true), True) if split == "all" else self.splits == split
            each = pd.DataFrame([cross_validation.compute_errors(true[here], p[here]) for p in predictions]).mean()
            results[split] = {"split": split, "protocol": protocol, "n": float(here.sum()), **each[METRICS]}
        for name, grouped in SUMMARIES.items():
            some = pd.DataFrame([results[split] for split in splits if is_grouped(split) == grouped])
            if len(some):
                results[name] = {"split": name, "protocol": protocol, **some[["n", *METRICS]].mean()}
        return list(results.values())

    def coverage(self, kind: str, nominal: float = 0.9) -> dict[str, float]:
        """Coverage and width of the interval on splits left out, calibrated on the others only.

        One model a pair of splits, fitted without both: it says how far off it is on either when the other is the
        one that is left out, and is not looked at.
        """
        true = self.table["true_f1"].to_numpy()
        names = np.unique(self.splits)
        if len(names) < 3:
            return {}
        results = {}
        for i, a in enumerate(names):
            for b in names[i:]:
                held_out = np.isin(self.splits, [a, b])
                fit = ~np.isin(self.images, self.images[held_out])
                model = regressors.fit_regressor(
                    kind, self.values[fit], true[fit], self.columns, groups=self.splits[fit]
                )
                mean, spread = np.full((2, len(true)), np.nan)
                mean[held_out], spread[held_out] = regressors.predict_regressor(model, self.values[held_out])
                results[a, b] = results[b, a] = (mean, spread)
        low, high = np.empty((2, len(true)))
        for a in names:
            here = self.splits == a
            others = [(self.splits == b, results[a, b]) for b in names if b != a]
            mean, spread, f1, group = (
                np.concatenate(part)
                for part in zip(*[(m[rows], s[rows], true[rows], self.splits[rows]) for rows, (m, s) in others])
            )
            residuals = conformal.compute_residual_quantiles(mean, spread, f1, group)
            own_mean, own_spread = (part[here] for part in results[a, a])
            quantiles = conformal.compute_quantiles(own_mean, own_spread, residuals)
            low[here], high[here] = conformal.select_interval(own_mean, quantiles, nominal)
        inside = (true >= low) & (true <= high)
        each = cross_validation.average_over_groups(inside, self.splits)
        return {
            "nominal": nominal,
            "mean_over_splits": each,
            **cross_validation.compute_interval_errors(true, low, high),
        }


def classify(true: NDArray, predicted: NDArray, thresholds: Sequence[float]) -> pd.DataFrame:
    """Telling images with F1 at or above a threshold: figures, and those of the best constant answer."""
    rows = []
    for threshold in thresholds:
        good = true >= threshold
        said = predicted >= threshold
        hits = (good & said).sum()
        precision = hits / max(said.sum(), 1)
        recall = hits / max(good.sum(), 1)
        share = good.mean()
        rows.append(
            {
                "threshold": threshold,
                "precision": precision,
                "recall": recall,
                "f1": 2 * hits / max(said.sum() + good.sum(), 1),
                "accuracy": np.mean(good == said),
                "baseline_f1": 2 * share / (1 + share),  # "all are good"
                "baseline_accuracy": max(share, 1 - share),
            }
        )
    return pd.DataFrame(rows)


def main(arguments: Sequence[str] | None = None) -> dict:
    """Runs the study, writes its files and gives its summary. Raises SystemExit with what is wrong with the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="CSV in one of the two published layouts")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--repeats", type=int, default=10, help="repeats of the random folds (the paper's 10)")
    parser.add_argument(
        "--model", action="append", choices=regressors.KINDS[1:],
        help="a model beside the forest, repeatable (the two Gaussian processes)",
    )  # fmt: skip
    parser.add_argument("--no-sweep", action="store_true", help="leave the sweep over the number of features out")
    parser.add_argument(
        "--no-coverage", action="store_true", help="leave the intervals' coverage on left-out splits out"
    )
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    kinds = tuple(dict.fromkeys(("forest", *(options.model or ("gaussian_process", "mixed_gaussian_process")))))
    if options.repeats < 1:
        parser.error("--repeats has to be 1 or more")
    try:
        table = read_published(options.table)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        sys.exit(f"detection_f1: {error}")
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    for note in (notes := list_repeated_rows(table)):
        print("note:", note)
    study = Study(table, PAPER_FEATURES)
    several = table["split"].nunique() > 1
    true = table["true_f1"].to_numpy()

    random = [study.predict("random", seed=seed) for seed in range(options.repeats)]
    rows = study.rows("random", random)
    predictions = {"random": random[0]}
    for protocol in ("grouped by image", *(["leave one split out", LEFT_OUT] if several else [])):
        for kind in kinds:
            if kind != "forest" and protocol == "leave one split out":
                continue
            name = protocol if kind == "forest" else f"{protocol}, {kind.replace('_', ' ')}"
            predictions[name] = study.predict(protocol, kind=kind)
            rows += study.rows(name, [predictions[name]])
    table2 = pd.DataFrame(rows)[["split", "protocol", "n", *METRICS]]
    table2.to_csv(out / "table2.csv", index=False)
    print(table2[table2["split"].isin(["all", *SUMMARIES])].round(3).to_string(index=False), flush=True)

    table3 = []
    for target, name in (("precision", "precision"), ("recall", "recall"), ("swelling_error", "swelling error")):
        if target in table and np.isfinite(table[target]).all():
            each = [study.predict("random", target, seed=seed) for seed in range(min(options.repeats, 3))]
            table3.append({"target": name, **{m: study.rows("random", each, target)[0][m] for m in METRICS}})
    table3.append({"target": "F1", **{m: rows[0][m] for m in METRICS}})
    table3 = pd.DataFrame(table3)
    table3.to_csv(out / "table3.csv", index=False)
    print(table3.round(3).to_string(index=False), flush=True)

    candidates = [name for name in DETECTION_FEATURES if name in table]
    ranking = feature_importance.rank_features(table, true, candidates)
    shares = pd.DataFrame({"feature": ranking.columns, "mean_absolute_shap": ranking.importance})
    shares.to_csv(out / "importance.csv", index=False)
    draw.shap_summary(out, ranking, table)
    if not options.no_sweep:
        curve = feature_importance.sweep_feature_counts(table, true, ranking.columns, repeats=min(2, options.repeats))
        curve.to_csv(out / "feature_sweep.csv", index=False)
        draw.feature_sweep(out, curve)
    draw.histograms(out, table)
    draw.parity(out, table, random[0], "figure6_parity", "random folds, as published")
    for name in predictions:
        if name.startswith(LEFT_OUT):
            draw.parity(
                out, table, predictions[name], f"figure6_parity_{name.replace(', ', '_').replace(' ', '_')}", name
            )
    draw.confusion(out, table, random[0])
    draw.precision_recall(out, table, random[0])
    by_threshold = classify(true, random[0], np.arange(1, 10) / 10)
    by_threshold.to_csv(out / "classification.csv", index=False)
    draw.classification(out, by_threshold)
    pd.DataFrame({"image": table["image"], "split": table["split"], "true_f1": true, **predictions}).to_csv(
        out / "predictions.csv", index=False
    )
    coverage = {}
    if several and not options.no_coverage:
        coverage = {kind: study.coverage(kind) for kind in kinds}
    low = true < 0.3
    summary = {
        **summarise(table, table2, table3, by_threshold, coverage, notes),
        "mean_error_where_f1_is_below_0.3": {
            name: round(float((p - true)[low].mean()), 4) for name, p in predictions.items() if low.any()
        },
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(coverage, indent=1))
    print(f"{out}: {time.perf_counter() - start:.0f} s")
    return summary


def summarise(
    table: pd.DataFrame,
    table2: pd.DataFrame,
    table3: pd.DataFrame,
    by_threshold: pd.DataFrame,
    coverage: dict,
    notes: list[str],
) -> dict:
    """The study's main figures; NaN is null."""

    def one(split: str) -> dict:
        picked = table2[table2["split"] == split].set_index("protocol")[METRICS].round(4)
        return {name: {k: None if np.isnan(v) else v for k, v in row.items()} for name, row in picked.iterrows()}

    at_half = by_threshold[np.isclose(by_threshold["threshold"], 0.5)].iloc[0]
    return {
        "rows": len(table),
        "images": int(table["image"].nunique()),
        "splits": table["split"].value_counts().to_dict(),
        "all": one("all"),
        **{name.replace(" ", "_"): one(name) for name in SUMMARIES},
        "targets": {
            r["target"]: {m: round(r[m], 4) for m in METRICS if np.isfinite(r[m])} for _, r in table3.iterrows()
        },
        "f1_at_least_0.5": {name: round(float(at_half[name]), 4) for name in by_threshold.columns[1:]},
        "interval_on_left_out_splits": {
            kind: {name: round(value, 4) for name, value in results.items()} for kind, results in coverage.items()
        },
        "notes": notes,
    }


if __name__ == "__main__":
    main()
