"""The quality model of a detector: it predicts F1, precision and recall on an image, with intervals and reasons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask.predict import conformal, reasons, regressors
from emqa_dask.predict.forest import SPREAD_FLOOR, Forest, check_conditions, select_feature_values
from emqa_dask.predict.trees import convert_pipeline
from emqa_dask.tables import F1_LEVELS, F1_QUANTILES

AGREEMENT = "detector_agreement"  # feature of an image in a run of several detectors, see tables.EVIDENCE
TARGETS = {"f1": "true_f1", "precision": "precision", "recall": "recall"}  # predicted name: column of the truth


@dataclass(frozen=True)
class Component:
    """One regressor of a target's model: it contributes slope times its mean."""

    slope: float
    columns: tuple[str, ...]
    regressor: regressors.Regressor


@dataclass(frozen=True)
class TargetModel:
    """Prediction = offset + sum of the components, clipped to [0, 1], and its distribution, see predict.conformal."""

    components: tuple[Component, ...]
    offset: float
    residuals: NDArray[np.float64]  # (k,), quantiles of the residuals at F1_LEVELS
    spread_floor: float = conformal.SPREAD_FLOOR


@dataclass(frozen=True)
class QualityModel:
    """Models of some TARGETS (f1 always), the conditions under which they hold, and statistics of the training rows."""

    targets: Mapping[str, TargetModel]
    columns: tuple[str, ...]  # all features of the components
    detector: str
    score_floor: float
    iou_threshold: float
    rule: str
    coverage: float  # nominal, of the two-sided intervals
    kind: str  # the type of the F1 model, for people
    typical: NDArray[np.float64]  # (d,), medians of the training rows
    spread: NDArray[np.float64]  # (d,), interquartile ranges of the training rows, > 0
    background: NDArray[np.float64]  # (b, d), training rows from low to high F1: SHAP values compare with them
    agreement_detectors: tuple[str, ...] = ()  # that AGREEMENT compares with, where it is among the columns


def predict_target(
    target: TargetModel, columns: Sequence[str], values: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unclipped prediction and spread of n rows (n, d) of the features `columns`."""
    mean = np.full(len(values), target.offset)
    variance = np.zeros(len(values))
    for component in target.components:
        indices = [columns.index(name) for name in component.columns]
        predicted, spread = regressors.predict_regressor(component.regressor, values[:, indices])
        mean += component.slope * predicted
        variance += (component.slope * spread) ** 2
    return mean, np.sqrt(variance)


def predict_distribution(
    target: TargetModel, columns: Sequence[str], values: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Prediction (n,) and quantiles at F1_LEVELS (n, k), in [0, 1], of n rows (n, d) of the features `columns`."""
    mean, spread = predict_target(target, columns, values)
    mean = np.clip(mean, 0, 1)
    return mean, conformal.compute_quantiles(mean, spread, target.residuals, target.spread_floor)


def predict_quality(model: QualityModel, features: pd.DataFrame) -> pd.DataFrame:
    """Predictions for every row, with its index: `detector`, `predicted_<target>` with `_low` and `_high` of f1,
    precision and recall (NaN for a target without a model), F1_QUANTILES, `evidence` and `because`.

    features: the model's columns, `n_detections` and `score_floor`; a column `detector` has to name the model's
    detector. `evidence` is `detections`, `no_detections` (n_detections is 0) or `none` (a feature is unknown); the
    last two have NaN and no reasons. A row's result depends on no other row. Raises ValueError for missing columns and
    for features of another score floor or detector.
    """
    check_conditions(model, features, "model")
    values = select_feature_values(features, model.columns)
    counts = features["n_detections"].to_numpy(dtype=np.float64)
    is_predicted = (counts > 0) & np.isfinite(values).all(axis=1)
    table: dict[str, object] = {"detector": np.full(len(features), model.detector, dtype=object)}
    for name in TARGETS:
        predicted = np.full((len(features), 3 + len(F1_LEVELS)), np.nan)
        if name in model.targets and is_predicted.any():
            mean, quantiles = predict_distribution(model.targets[name], model.columns, values[is_predicted])
            ends = conformal.select_interval(mean, quantiles, model.coverage)
            predicted[is_predicted] = np.column_stack([mean, *ends, quantiles])
        table |= {f"predicted_{name}{suffix}": part for suffix, part in zip(("", "_low", "_high"), predicted.T)}
        if name == "f1":
            table |= dict(zip(F1_QUANTILES, predicted.T[3:]))
    table["evidence"] = np.select([is_predicted, counts == 0], ["detections", "no_detections"], "none").astype(object)
    table["because"] = _explain_rows(model, values, is_predicted)
    return pd.DataFrame(table, features.index)  # at once: partitions are small and many


def _explain_rows(model: QualityModel, values: NDArray, is_predicted: NDArray) -> NDArray:
    """Reasons (n,), lists of text, for rows (n, d); empty lists where no prediction was made."""
    because = np.empty(len(values), dtype=object)
    because[:] = [[] for _ in range(len(values))]
    if not is_predicted.any():
        return because
    effects, _ = explain_predictions(model, values[is_predicted])
    texts = reasons.describe_effects(model.columns, values[is_predicted], effects, model.typical, model.spread)
    for row, text in zip(np.flatnonzero(is_predicted), texts):
        because[row] = text
    return because


def explain_predictions(model: QualityModel, values: NDArray, target: str = "f1") -> tuple[NDArray[np.float64], float]:
    """SHAP values (n, k) of the feature groups of the model's columns, and their base.

    values: (n, d), rows of the model's columns. The values and the base sum to the unclipped prediction.
    """
    groups = reasons.group_features(model.columns)
    effects = np.zeros((len(values), len(groups)))
    base = model.targets[target].offset
    for component in model.targets[target].components:
        indices = [model.columns.index(name) for name in component.columns]
        own_effects, own_base = reasons.compute_group_shap_values(
            component.regressor, component.columns, values[:, indices], model.background[:, indices]
        )
        for k, own_group in enumerate(reasons.group_features(component.columns)):
            column = next(i for i, group in enumerate(groups) if own_group[0] in group)
            effects[:, column] += component.slope * own_effects[:, k]
        base += component.slope * own_base
    return effects, base


def convert_forest(forest: Forest) -> QualityModel:
    """A forest (predict.forest) as a quality model of F1 alone: equal means and intervals but for the last bits.

    A forest stores no medians and no training rows: the mean training row replaces both.
    """
    scaler = forest.pipeline[0]
    component = Component(1.0, forest.columns, convert_pipeline(forest.pipeline))
    residuals = conformal.convert_widths(forest.width_low, forest.width_high, forest.coverage)
    return QualityModel(
        targets={"f1": TargetModel((component,), 0.0, residuals, SPREAD_FLOOR)},
        columns=forest.columns,
        detector=forest.detector,
        score_floor=forest.score_floor,
        iou_threshold=forest.iou_threshold,
        rule=forest.rule,
        coverage=forest.coverage,
        kind="forest",
        typical=scaler.mean_.copy(),
        spread=scaler.scale_.copy(),
        background=scaler.mean_[None].copy(),
    )
