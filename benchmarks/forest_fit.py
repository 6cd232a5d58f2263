"""Fitting a forest that predicts F1, with a split-conformal interval; fit_log_forest.py fits the bundled one."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from emqa_dask.predict.forest import PAPER_FEATURES, SPREAD_FLOOR, Forest, predict_trees, select_feature_values
from emqa_dask.tables import SCORE_BINS

# PAPER_FEATURES without pixels: equal for an image twice as large with twice the objects. size_variation is derived.
SCALE_FREE_FEATURES = (
    *SCORE_BINS,
    "area_ratio",
    "image_confidence",
    "mean_score",
    "std_score",
    "size_variation",
)


def create_pipeline(
    n_trees: int = 100, min_samples_leaf: int = 1, max_features: float = 1.0, seed: int = 0
) -> Pipeline:
    """An unfitted scaler and forest; the defaults are the published model's."""
    trees = RandomForestRegressor(
        n_trees, min_samples_leaf=min_samples_leaf, max_features=max_features, random_state=seed, n_jobs=1
    )
    return make_pipeline(StandardScaler(), trees)


def predict_held_out(
    pipeline: Pipeline, values: NDArray, true_f1: NDArray, groups: ArrayLike, n_folds: int = 5
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and spread for every row from forests whose fit had no row of its group.

    With at most `n_folds` groups each is left out in turn; else they are spread over that many folds.
    """
    n_groups = len(np.unique(groups))
    if n_groups < 2:
        raise ValueError("all rows are of one group: holding it out leaves nothing to fit")
    mean = np.empty(len(values))
    spread = np.empty(len(values))
    for fit_rows, held_out in GroupKFold(min(n_folds, n_groups)).split(values, true_f1, groups):
        model = clone(pipeline).fit(values[fit_rows], true_f1[fit_rows])
        mean[held_out], spread[held_out] = predict_trees(model, values[held_out])
    return mean, spread


def compute_conformal_widths(
    mean: NDArray, spread: NDArray, true_f1: NDArray, coverage: float = 0.9
) -> tuple[float, float]:
    """Widths of the interval below and above the mean, in units of spread + SPREAD_FLOOR.

    Split conformal on held-out predictions, each side by itself at (1 + coverage) / 2: the truth of an exchangeable
    image lies below the lower end with probability of at most (1 - coverage) / 2. Forests over-estimate low F1, so the
    two sides differ. Never negative: the interval contains the mean. (Lei et al., J. Am. Stat. Assoc. 113 (2018) 1094.)
    """
    n = len(mean)
    level = min(np.ceil((n + 1) * (1 + coverage) / 2) / n, 1.0)
    residual = (mean - true_f1) / (spread + SPREAD_FLOOR)
    width_low = np.quantile(residual, level, method="higher")
    width_high = np.quantile(-residual, level, method="higher")
    return max(float(width_low), 0.0), max(float(width_high), 0.0)


def fit_forest(
    features: pd.DataFrame,
    true_f1: ArrayLike,
    groups: ArrayLike,
    *,
    columns: Sequence[str] = PAPER_FEATURES,
    detector: str,
    score_floor: float,
    iou_threshold: float,
    rule: str = "greedy",
    coverage: float = 0.9,
    pipeline: Pipeline | None = None,
) -> Forest:
    """A forest fitted to all rows, with an interval from forests whose fit had no row of the row's group.

    features: n rows with `columns`, all finite (leave out images without detections); true_f1: n, in [0, 1]; groups: n
    labels; rows of one label are never both in the fit and in the test (image, parent image or, better, family). Raises
    ValueError for missing or non-finite values and for a single group.
    """
    values = select_feature_values(features, columns)
    true_f1 = np.asarray(true_f1, dtype=np.float64)
    if not np.isfinite(values).all():
        bad = [c for c, ok in zip(columns, np.isfinite(values).all(axis=0)) if not ok]
        raise ValueError(f"features hold NaN or infinite values: {', '.join(bad)}")
    if not ((true_f1 >= 0) & (true_f1 <= 1)).all():
        raise ValueError("true_f1 has to be in [0, 1]; count it as 0 where nothing matched")
    pipeline = create_pipeline() if pipeline is None else pipeline
    mean, spread = predict_held_out(pipeline, values, true_f1, groups)
    low, high = compute_conformal_widths(mean, spread, true_f1, coverage)
    return Forest(
        pipeline=clone(pipeline).fit(values, true_f1),
        columns=tuple(columns),
        detector=detector,
        score_floor=float(score_floor),
        iou_threshold=float(iou_threshold),
        rule=rule,
        coverage=coverage,
        width_low=low,
        width_high=high,
    )
