"""Selection of a quality model's kind and features by left-out sources, and its evaluation on sources never used.

Errors are pinball losses of the predictive distribution, summed over its levels (a continuous ranked probability
score): they count wrong means, wrong widths and wrong probabilities of trust alike.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.fit_log_forest import DOMAIN
from benchmarks.forest_fit import SCALE_FREE_FEATURES
from benchmarks.quality_rows import DRAWN_SET, LATTICE
from benchmarks.studies.real_metrics import GOOD_F1
from emqa_dask import domain_distance
from emqa_dask.predict import conformal, cross_validation, regressors
from emqa_dask.predict.forest import PAPER_FEATURES, select_feature_values
from emqa_dask.predict.quality_model import Component, TargetModel, predict_distribution
from emqa_dask.settings import Triage
from emqa_dask.tables import F1_LEVELS, F1_QUANTILES
from emqa_dask.triage.f1_probability import compute_f1_probability

Columns = tuple[str, ...]
CIRCULARITY = ("mean_circularity", "std_circularity")
IMAGE = ("noise_floor", "entropy_bits", "spectrum_slope", "local_contrast_spread", "gradient_tail")
CLASSES = ("mean_class_margin", "label_purity")
STABILITY = ("mean_stability",)
COUNT = ("n_detections",)
_SHAPE = (*SCALE_FREE_FEATURES, *CIRCULARITY)
REFERENCE = "forest of the published eight"
# name: kind of regressor, features; the reference first, then from few features to many
CANDIDATES: dict[str, tuple[str, Columns]] = {
    REFERENCE: ("forest", PAPER_FEATURES),
    "extra trees, scale-free": ("extra_trees", SCALE_FREE_FEATURES),
    "extra trees, scale-free and shape": ("extra_trees", _SHAPE),
    "extra trees, shape and classes": ("extra_trees", (*_SHAPE, *CLASSES)),
    "extra trees, shape and image": ("extra_trees", (*_SHAPE, *IMAGE)),
    "extra trees, shape, classes and stability": ("extra_trees", (*_SHAPE, *CLASSES, *STABILITY)),
    "extra trees, shape, classes, count and image": ("extra_trees", (*_SHAPE, *CLASSES, *COUNT, *IMAGE)),
    "extra trees, all": ("extra_trees", (*_SHAPE, *CLASSES, *COUNT, *IMAGE, *STABILITY)),
    "boosting, shape and classes": ("boosting", (*_SHAPE, *CLASSES)),
    "boosting, shape, classes, count and image": ("boosting", (*_SHAPE, *CLASSES, *COUNT, *IMAGE)),
}
N_FOLDS = 5  # of sources, by which candidates are compared
N_OUTER_FOLDS = 8  # of sources, for the evaluation
MARGIN = 1.0  # standard errors of a difference within which an earlier candidate is as good
MIN_KNOWN_SHARE = 0.95  # of rows that know all features of a candidate
COVERAGE = 0.9
LEVEL_WEIGHTS = np.gradient(np.array(F1_LEVELS))


class Selection(NamedTuple):
    """The selected candidate, fitted to all rows, and the loss of every candidate on left-out sources."""

    name: str
    columns: Columns
    target: TargetModel
    losses: dict[str, float]


def list_candidates(rows: pd.DataFrame) -> dict[str, tuple[str, Columns]]:
    """The candidates whose features are known for nearly all rows: the LoG has no classes and no stability."""
    return {
        name: (kind, columns)
        for name, (kind, columns) in CANDIDATES.items()
        if np.isfinite(select_feature_values(rows, columns)).all(axis=1).mean() >= MIN_KNOWN_SHARE
    }


def select_usable_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with detections, a true F1 and all features of all candidates."""
    rows = rows[(rows["n_detections"] > 0) & rows["true_f1"].notna()].reset_index(drop=True)
    columns = sorted({column for _, columns in list_candidates(rows).values() for column in columns})
    return rows[np.isfinite(select_feature_values(rows, columns)).all(axis=1)].reset_index(drop=True)


def list_sources(rows: pd.DataFrame) -> NDArray[np.str_]:
    """Labels (n,) of the exchangeable unit: the source."""
    return rows["source"].to_numpy(str)


def compute_losses(quantiles: NDArray, true: NDArray) -> NDArray[np.float64]:
    """Pinball losses (n,) of quantiles (n, k) at F1_LEVELS, summed over the levels."""
    levels = np.array(F1_LEVELS)
    errors = true[:, None] - quantiles
    return 2 * (np.maximum(levels * errors, (levels - 1) * errors) * LEVEL_WEIGHTS).sum(axis=1)


def predict_left_out(
    rows: pd.DataFrame, kind: str, columns: Columns, true: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean, clipped, and spread (n,) by regressors whose fit had no row of a row's source."""
    values = select_feature_values(rows, columns)
    sources = list_sources(rows)

    def fit_predict(fit: NDArray, left_out: NDArray) -> NDArray:
        regressor = regressors.fit_regressor(kind, values[fit], true[fit], columns, groups=sources[fit])
        return np.stack(regressors.predict_regressor(regressor, values[left_out]), axis=1)

    folds = cross_validation.make_grouped_folds(sources, N_FOLDS)
    mean, spread = cross_validation.predict_out_of_fold(folds, len(rows), fit_predict).T
    return np.clip(mean, 0, 1), spread


def select_candidate(
    rows: pd.DataFrame, candidates: Mapping[str, tuple[str, Columns]], target: str = "true_f1"
) -> Selection:
    """The candidate for the target column: the first that is as good as the best within MARGIN standard errors."""
    true = rows[target].to_numpy(float)
    sources = list_sources(rows)
    names, positions, sizes = np.unique(sources, return_inverse=True, return_counts=True)
    residuals = {}
    source_losses = {}
    for name, (kind, columns) in candidates.items():
        mean, spread = predict_left_out(rows, kind, columns, true)
        residuals[name] = conformal.compute_residual_quantiles(mean, spread, true, sources)
        losses = compute_losses(conformal.compute_quantiles(mean, spread, residuals[name]), true)
        source_losses[name] = np.bincount(positions, losses) / sizes
    best = min(source_losses, key=lambda name: source_losses[name].mean())
    selected = next(
        name
        for name, losses in source_losses.items()
        if losses.mean() - source_losses[best].mean()
        <= MARGIN * (losses - source_losses[best]).std(ddof=1) / np.sqrt(len(names))
    )
    kind, columns = candidates[selected]
    values = select_feature_values(rows, columns)
    regressor = regressors.fit_regressor(kind, values, true, columns, groups=sources)
    model = TargetModel((Component(1.0, columns, regressor),), 0.0, residuals[selected])
    return Selection(selected, columns, model, {name: float(losses.mean()) for name, losses in source_losses.items()})


def fit_row_domain(rows: pd.DataFrame) -> domain_distance.Domain:
    """The domain of the rows' images with objects; lattices are in the domain of the LoG only."""
    is_typical = rows["n_true"] > 0
    if (rows["detector"] != "log").any():
        is_typical &= rows["source"] != f"{DRAWN_SET}/{LATTICE}"
    typical = rows[is_typical]
    return domain_distance.fit_domain(typical, typical["source"], columns=DOMAIN)


def predict_rows(rows: pd.DataFrame, selection: Selection, domain: domain_distance.Domain) -> pd.DataFrame:
    """`rows` with predictions and verdicts as in a run: trust, review or out_of_domain; image flags do not count."""
    values = select_feature_values(rows, selection.columns)
    mean, quantiles = predict_distribution(selection.target, selection.columns, values)
    low, high = conformal.select_interval(mean, quantiles, COVERAGE)
    table = rows.assign(
        **dict(zip(F1_QUANTILES, quantiles.T)),
        predicted_f1=mean,
        predicted_f1_low=low,
        predicted_f1_high=high,
        candidate=selection.name,
        best_f1=rows["true_f1"],
        ood_distance=domain_distance.compute_domain_distances(domain, rows),
    )
    table["f1_probability"] = compute_f1_probability(table, GOOD_F1)
    limits = Triage()
    is_sure = table["f1_probability"] >= limits.trust_probability
    is_in = ~(table["ood_distance"] > limits.max_ood_distance)
    table["verdict"] = np.select([~is_in, is_sure], ["out_of_domain", "trust"], "review")
    return table


def evaluate_left_out(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """predict_rows() of all rows, each by a candidate, distribution and domain that had nothing of its group.

    by: "source" (folds of sources) or "set" (each real set as a whole; drawn images are not predicted).
    """
    if by == "source":
        folds: Sequence = list(cross_validation.make_grouped_folds(list_sources(rows), N_OUTER_FOLDS))
    else:
        folds = [fold for fold in _make_set_folds(rows) if len(fold[0])]
    candidates = list_candidates(rows)
    tables = []
    for fit, left_out in folds:
        known = rows.iloc[fit].reset_index(drop=True)
        tables.append(predict_rows(rows.iloc[left_out], select_candidate(known, candidates), fit_row_domain(known)))
    return pd.concat(tables).sort_index()


def _make_set_folds(rows: pd.DataFrame) -> list[tuple[NDArray, NDArray]]:
    names = sorted(set(rows["set"]) - {DRAWN_SET})
    return [(np.flatnonzero(rows["set"] != name), np.flatnonzero(rows["set"] == name)) for name in names]
