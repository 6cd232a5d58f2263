"""Importance of features: ranking by SHAP values, and the error against the number of features kept."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from emqa_dask.predict import cross_validation, regressors

ROWS = 16  # explained at once: shap prints a progress bar after 10 s, which 64 rows take on a busy machine


class Ranking(NamedTuple):
    """Features from the most to the least important, and their SHAP values."""

    columns: tuple[str, ...]
    importance: NDArray[np.float64]  # (d,): mean magnitude of the SHAP values
    shap_values: NDArray[np.float64]  # (n, d), in the target's units
    base: float


def import_shap():
    """The package shap, whose import takes seconds and makes matplotlib warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import shap
    return shap


def rank_features(
    features: pd.DataFrame, targets: ArrayLike, columns: Sequence[str], kind: str = "forest", n_background: int = 50
) -> Ranking:
    """SHAP values of a model of trees fitted to all n rows (figure 3 of Li et al.), against rows drawn from them.

    Raises ValueError for a Gaussian process: its ranking would need all coalitions of the features.
    """
    if kind.endswith("gaussian_process"):
        raise ValueError("features are ranked by a model of trees, not by a Gaussian process")
    shap = import_shap()
    values = features[list(columns)].to_numpy(dtype=np.float64)
    scaler, trees = regressors.fit_pipeline(kind, values, np.asarray(targets, dtype=np.float64), columns)
    scaled = scaler.transform(values)
    background_rows = np.random.default_rng(0).permutation(len(values))[:n_background]
    explainer = shap.TreeExplainer(trees, data=scaled[background_rows], feature_perturbation="interventional")
    parts = [explainer.shap_values(scaled[start : start + ROWS]) for start in range(0, len(scaled), ROWS)]
    effects = np.concatenate(parts)
    base = float(np.ravel(explainer.expected_value)[0])
    importance = np.abs(effects).mean(axis=0)
    order = np.argsort(-importance, kind="stable")
    return Ranking(tuple(columns[i] for i in order), importance[order], effects[:, order], base)


def sweep_feature_counts(
    features: pd.DataFrame,
    targets: ArrayLike,
    ranked: Sequence[str],
    kind: str = "forest",
    groups: ArrayLike | None = None,
    repeats: int = 1,
) -> pd.DataFrame:
    """`n_features`, `rmse`, `mae`, `r2` with the first 1...d of `ranked`, 5-fold (figure 4 of Li et al.).

    Random folds, or with `groups` (n,) folds that share no group. The ranking used all rows, as in the paper: the
    curve serves to choose features, not to report an error.
    """
    targets = np.asarray(targets, dtype=np.float64)
    rows = []
    for k in range(1, len(ranked) + 1):
        values = features[list(ranked[:k])].to_numpy(dtype=np.float64)
        errors = [_cross_validate(kind, values, targets, ranked[:k], groups, seed) for seed in range(repeats)]
        rows.append({"n_features": k, **pd.DataFrame(errors).mean()[["rmse", "mae", "r2"]]})
    return pd.DataFrame(rows)


def _cross_validate(
    kind: str, values: NDArray, targets: NDArray, columns: Sequence[str], groups: ArrayLike | None, seed: int
) -> dict[str, float]:
    """Errors of 5-fold predictions of n rows (n, d)."""

    def fit_predict(fit: NDArray, held_out: NDArray) -> NDArray:
        model = regressors.fit_regressor(kind, values[fit], targets[fit], columns, seed)
        return regressors.predict_regressor(model, values[held_out])[0]

    n = len(targets)
    if groups is None:
        folds = cross_validation.make_random_folds(n, seed=seed)
    else:
        folds = cross_validation.make_grouped_folds(groups)
    return cross_validation.compute_errors(targets, cross_validation.predict_out_of_fold(folds, n, fit_predict))
