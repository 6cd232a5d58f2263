"""Computations of the study of predicted F1: errors by protocol, importance of features, coverage of intervals."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask.number_ranges import check_integer
from emqa_dask.pipeline.studies import output
from emqa_dask.predict import feature_ranking, protocols, regressors
from emqa_dask.predict.forest import PAPER_FEATURES
from emqa_dask.predict.published_table import MIN_ROWS, list_repeated_rows, name_single_class
from emqa_dask.tables import DETECTION_FEATURES

Say = Callable[[str], None]
OTHER_MODELS = ("gaussian_process", "mixed_gaussian_process")  # beside the forest
TARGETS = {"precision": "precision", "recall": "recall", "swelling error": "swelling_error"}  # of table 3: column
TARGET_REPEATS = 3  # of random folds for table 3, at most
SWEEP_REPEATS = 2  # of random folds for figure 4, at most
COVERAGE_FIGURES = ("nominal", "mean_over_splits", "coverage", "below", "above", "width")  # of measure_coverage()
THRESHOLDS = np.arange(1, 10) / 10  # of F1, in figure 9


@dataclass(frozen=True)
class F1Options:
    """Options of emqa study f1, by their names on the command line."""

    repeats: int = 10
    models: tuple[str, ...] = OTHER_MODELS
    seed: int = 0
    short: bool = False

    def check(self) -> None:
        """Raises ValueError for a number out of its range and an unknown model."""
        check_integer("--repeats", self.repeats, 1)
        check_integer("--seed", self.seed, 0)
        for name in self.models:
            if name not in regressors.KINDS:
                raise ValueError(f"--model {name}: it is one of {', '.join(regressors.KINDS)}")

    def list_kinds(self) -> tuple[str, ...]:
        """The forest, and the models beside it."""
        return ("forest",) if self.short else tuple(dict.fromkeys(("forest", *self.models)))


class F1Results(NamedTuple):
    """Everything that the study computes."""

    rows: protocols.LabelledSplits
    errors: pd.DataFrame  # Table 2
    target_errors: pd.DataFrame  # Table 3
    predictions: dict[str, NDArray]  # protocol, and model where it is not the forest -> held-out F1 (n,)
    ranking: feature_ranking.Ranking
    sweep: pd.DataFrame | None  # None: left out
    by_threshold: pd.DataFrame
    coverage: dict[str, dict[str, float]]  # model -> see protocols.measure_coverage; {} for few splits
    notes: list[str]


def compute_results(table: pd.DataFrame, options: F1Options, store: output.ResultStore, say: Say) -> F1Results:
    """Everything that the study computes from a table of published_table.read_published()."""
    rows = protocols.arrange_splits(table, PAPER_FEATURES)
    notes = [*list_repeated_rows(table), *name_single_class(rows.true)]
    names = protocols.list_splits(rows.splits)
    say(f"{len(rows.true)} rows, {len(np.unique(rows.images))} images, {len(names)} splits")
    if len(names) == 1:
        notes.append(f"one split only ({names[0]}): no protocol leaves a split out")
    random = _predict_repeats(rows, options, options.repeats, "true_f1", store)
    error_rows = protocols.measure_splits(rows, protocols.RANDOM, random)
    predictions = {protocols.RANDOM: random[0]}
    for protocol, kind in _list_protocols(rows, options):
        name = protocol if kind == "forest" else f"{protocol}, {kind.replace('_', ' ')}"
        say(f"{name} ...")
        predictions[name] = store.load_or_compute(
            name, lambda p=protocol, k=kind: protocols.predict_by_protocol(rows, p, k, options.seed)
        )
        error_rows += protocols.measure_splits(rows, name, [predictions[name]])
    ranking, sweep = _rank_features(table, options, store, say)
    return F1Results(
        rows,
        errors=pd.DataFrame(error_rows)[["split", "protocol", "n", *protocols.METRICS]],
        target_errors=_measure_targets(table, options, store, error_rows[0]),
        predictions=predictions,
        ranking=ranking,
        sweep=sweep,
        by_threshold=protocols.classify_good_images(rows.true, random[0], THRESHOLDS),
        coverage=_measure_coverage(rows, options, store, say),
        notes=notes,
    )


def _list_protocols(rows: protocols.LabelledSplits, options: F1Options) -> list[tuple[str, str]]:
    """The group-wise protocols that the table allows, each with its models."""
    n_images, n_splits = len(np.unique(rows.images)), len(np.unique(rows.splits))
    names = [protocols.GROUPED] if n_images > 1 else []
    names += [protocols.LEFT_OUT, protocols.LEFT_OUT_IMAGES] if n_splits > 1 else []
    names = [name for name in names if name != protocols.LEFT_OUT_IMAGES or _has_images_to_fit(rows)]
    return [
        (name, kind)
        for name in names
        for kind in options.list_kinds()
        if kind == "forest" or name != protocols.LEFT_OUT
    ]


def _has_images_to_fit(rows: protocols.LabelledSplits) -> bool:
    """Whether every split leaves images of others: it does not where all splits have the same images."""
    return all((~np.isin(rows.images, rows.images[rows.splits == name])).any() for name in np.unique(rows.splits))


def _predict_repeats(
    rows: protocols.LabelledSplits, options: F1Options, repeats: int, target: str, store: output.ResultStore
) -> list[NDArray]:
    """Held-out predictions of the forest on random folds, of each repeat."""
    return [
        store.load_or_compute(
            f"{target} {seed}",
            lambda s=seed: protocols.predict_by_protocol(rows, protocols.RANDOM, "forest", s),
        )
        for seed in range(options.seed, options.seed + repeats)
    ]


def _measure_targets(
    table: pd.DataFrame, options: F1Options, store: output.ResultStore, f1_errors: Mapping[str, Any]
) -> pd.DataFrame:
    """Table 3: errors of the forest on random folds for precision, recall, swelling error and F1."""
    results = []
    for name, column in TARGETS.items():
        known_rows = table[np.isfinite(table[column])] if column in table else table[:0]
        if len(known_rows) < MIN_ROWS or known_rows[column].nunique() < 2:
            continue
        rows = protocols.arrange_splits(known_rows, PAPER_FEATURES, column)
        predictions = _predict_repeats(rows, options, min(options.repeats, TARGET_REPEATS), column, store)
        errors = protocols.measure_splits(rows, protocols.RANDOM, predictions)[0]
        results.append(
            {"target": name, "n": len(rows.true), **{metric: errors[metric] for metric in protocols.METRICS}}
        )
    results.append({"target": "F1", "n": len(table), **{metric: f1_errors[metric] for metric in protocols.METRICS}})
    return pd.DataFrame(results)


def _rank_features(
    table: pd.DataFrame, options: F1Options, store: output.ResultStore, say: Say
) -> tuple[feature_ranking.Ranking, pd.DataFrame | None]:
    """Features by their SHAP values, and the error against their number."""
    candidates = [name for name in DETECTION_FEATURES if name in table and np.isfinite(table[name]).all()]
    say(f"SHAP values of {len(candidates)} features ...")
    true = table["true_f1"].to_numpy(dtype=np.float64)
    ranking = feature_ranking.rank_features(table, true, candidates)
    if options.short:
        return ranking, None
    say("errors against the number of features ...")
    columns = ["n_features", "rmse", "mae", "r2"]
    repeats = min(SWEEP_REPEATS, options.repeats)
    values = store.load_or_compute(
        f"sweep {repeats}",
        lambda: feature_ranking.sweep_feature_counts(table, true, ranking.columns, repeats=repeats)[columns],
    )
    return ranking, pd.DataFrame(values, columns=columns).astype({"n_features": int})


def _measure_coverage(
    rows: protocols.LabelledSplits, options: F1Options, store: output.ResultStore, say: Say
) -> dict[str, dict[str, float]]:
    """Model -> coverage of its interval on splits left out."""
    is_possible = len(np.unique(rows.splits)) >= protocols.MIN_SPLITS and protocols.has_pairs_to_fit(rows)
    if options.short or not is_possible:
        return {}
    results = {}
    for kind in options.list_kinds():
        say(f"coverage of the interval of the {kind.replace('_', ' ')} on splits left out ...")
        values = store.load_or_compute(
            f"coverage {kind}", lambda k=kind: list(protocols.measure_coverage(rows, k).values())
        )
        results[kind] = dict(zip(COVERAGE_FIGURES, values.tolist(), strict=True))
    return results
