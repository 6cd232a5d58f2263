"""Fitting a quality model to labelled images, with conformal intervals that hold for groups left out of the fit."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from emqa_dask.predict import conformal, cross_validation, regressors
from emqa_dask.predict.forest import PAPER_FEATURES, select_feature_values
from emqa_dask.predict.quality_model import TARGETS, Component, QualityModel, TargetModel

MAX_LEFT_OUT = 10  # groups; more of them are spread over as many folds
N_BACKGROUND = 3  # training rows that SHAP values compare with: of low, middle and high F1


def fit_quality_model(
    features: pd.DataFrame,
    truth: pd.DataFrame,
    groups: ArrayLike,
    *,
    detector: str,
    score_floor: float,
    iou_threshold: float,
    rule: str = "greedy",
    kind: str = "gaussian_process",
    columns: Sequence[str] = PAPER_FEATURES,
    images: ArrayLike | None = None,
    coverage: float = 0.9,
    recalibrate: bool = False,
) -> QualityModel:
    """A quality model fitted to n images with detections.

    features: n rows with `columns`, all finite. truth: n rows with true_f1 and, where known, precision and recall, all
    in [0, 1]. groups: n labels; the intervals have to hold for new groups (sessions, detectors, instruments). images:
    n names, where one image is in several groups. kind: one of regressors.KINDS; the mixed Gaussian process where most
    future images are of new groups (published table, splits left out: mean grouped error .131, Gaussian process .140,
    boosting .153, forest .156). Raises ValueError for missing or infinite features, truths outside [0, 1] and a single
    group.
    """
    values = select_finite_values(features, columns)
    targets = {}
    for name, column in TARGETS.items():
        if column in truth:
            true = check_truth(truth[column])
            targets[name] = fit_target(kind, columns, values, true, groups, images, recalibrate)
    if "f1" not in targets:
        raise ValueError("the truth lacks true_f1")
    conditions = {"detector": detector, "score_floor": score_floor, "iou_threshold": iou_threshold, "rule": rule}
    return build_quality_model(targets, tuple(columns), values, truth["true_f1"], kind, coverage, conditions)


def fit_target(
    kind: str,
    columns: Sequence[str],
    values: NDArray,
    true: NDArray,
    groups: ArrayLike,
    images: ArrayLike | None,
    recalibrate: bool = False,
) -> TargetModel:
    """A target's model fitted to all n rows; its distribution is of predictions whose fit had neither group nor image.

    At most MAX_LEFT_OUT groups are left out one by one (with `images`, also every other row of their images); more
    groups are spread over MAX_LEFT_OUT folds. `recalibrate`: see conformal.fit_recalibration.
    """
    groups = np.asarray(groups)

    def fit_predict(fit: NDArray, held_out: NDArray) -> NDArray:
        fold_model = regressors.fit_regressor(kind, values[fit], true[fit], columns, groups=groups[fit])
        return np.stack(regressors.predict_regressor(fold_model, values[held_out]), axis=1)

    folds = _make_folds(groups, images)
    mean, spread = cross_validation.predict_out_of_fold(folds, len(true), fit_predict).T
    offset, slope = conformal.fit_recalibration(mean, true, groups) if recalibrate else (0.0, 1.0)
    mean = np.clip(offset + slope * mean, 0, 1)
    residuals = conformal.compute_residual_quantiles(mean, slope * spread, true, groups)
    regressor = regressors.fit_regressor(kind, values, true, columns, groups=groups)
    return TargetModel((Component(slope, tuple(columns), regressor),), offset, residuals)


def _make_folds(groups: NDArray, images: ArrayLike | None) -> cross_validation.Folds:
    """Folds of rows by `groups` (n,); ValueError for a single group."""
    n_groups = len(np.unique(groups))
    if n_groups > MAX_LEFT_OUT:
        return cross_validation.make_grouped_folds(groups, MAX_LEFT_OUT, images)
    if n_groups < 2:
        raise ValueError("all rows are of one group: holding it out leaves nothing to fit")
    return cross_validation.make_leave_one_out_folds(groups, images)


def build_quality_model(
    targets: Mapping[str, TargetModel],
    columns: tuple[str, ...],
    values: NDArray,
    true_f1: ArrayLike,
    kind: str,
    coverage: float,
    conditions: Mapping[str, object],
) -> QualityModel:
    """A quality model from fitted targets and its n training rows (n, d).

    conditions: detector, score_floor, iou_threshold and rule, and agreement_detectors where there are any.
    """
    order = np.argsort(np.asarray(true_f1), kind="stable")
    background_rows = order[np.round(np.linspace(0.1, 0.9, N_BACKGROUND) * (len(order) - 1)).astype(int)]
    spread = np.subtract(*np.percentile(values, [75, 25], axis=0))
    spread = np.where(spread > 0, spread, values.std(axis=0))
    return QualityModel(
        targets,
        columns,
        coverage=coverage,
        kind=kind,
        typical=np.median(values, axis=0),
        spread=np.where(spread > 0, spread, 1.0),
        background=values[background_rows],
        **conditions,
    )


def select_finite_values(features: pd.DataFrame, columns: Sequence[str]) -> NDArray[np.float64]:
    """Values (n, columns) of a table, or ValueError naming the columns with NaN or infinite values."""
    values = select_feature_values(features, columns)
    is_finite = np.isfinite(values).all(axis=0)
    if not is_finite.all():
        nonfinite_columns = [name for name, ok in zip(columns, is_finite) if not ok]
        raise ValueError(f"features hold NaN or infinite values: {', '.join(nonfinite_columns)}")
    return values


def check_truth(column: pd.Series) -> NDArray[np.float64]:
    """A truth as float64, or ValueError where it is not in [0, 1]."""
    true = np.asarray(column, dtype=np.float64)
    if not ((true >= 0) & (true <= 1)).all():
        raise ValueError(f"{column.name} has to be in [0, 1]; count it as 0 where nothing matched")
    return true
