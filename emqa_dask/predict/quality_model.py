"""The model that predicts a detector's F1, precision and recall on an image, with intervals and reasons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.numpy
from numpy.typing import ArrayLike, NDArray

from emqa_dask import models
from emqa_dask.predict import conformal, cross_validation, reasons, regressors
from emqa_dask.predict.forest import PAPER_FEATURES, SPREAD_FLOOR, Forest, check_conditions, select_values
from emqa_dask.predict.gaussian_process import GaussianProcess
from emqa_dask.predict.trees import TreeEnsemble, convert_pipeline

QUALITY_MODEL_FILE = "judge.safetensors"
TARGETS = {"f1": "true_f1", "precision": "precision", "recall": "recall"}  # predicted name: column of the truth
N_BACKGROUND = 3  # rows that SHAP values compare with
REGRESSOR_TYPES = {"trees": TreeEnsemble, "gaussian_process": GaussianProcess}


@dataclass(frozen=True)
class Component:
    """One regressor's share in a prediction: slope times its mean."""

    slope: float
    columns: tuple[str, ...]
    regressor: regressors.Regressor


@dataclass(frozen=True)
class TargetModel:
    """Prediction = offset + the parts' sum, clipped to [0, 1]; widths of its interval, see predict.conformal."""

    parts: tuple[Component, ...]
    offset: float
    width_low: float
    width_high: float
    spread_floor: float = conformal.SPREAD_FLOOR


@dataclass(frozen=True)
class QualityModel:
    """Targets (some of TARGETS, f1 always), the conditions under which they hold, and what is usual in training."""

    targets: Mapping[str, TargetModel]
    columns: tuple[str, ...]  # all that the parts need
    detector: str
    score_floor: float
    iou_threshold: float
    rule: str
    coverage: float  # nominal, of the two-sided intervals
    kind: str  # what stands behind F1, in words
    typical: NDArray[np.float64]  # (d,), medians
    spread: NDArray[np.float64]  # (d,), how much the features vary, > 0
    background: NDArray[np.float64]  # (b, d), training rows from bad to good


def predict_target(
    target: TargetModel, columns: Sequence[str], values: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unclipped prediction and spread of n rows (n, d) of the features `columns`."""
    mean = np.full(len(values), target.offset)
    variance = np.zeros(len(values))
    for part in target.parts:
        found, spread = regressors.predict_regressor(
            part.regressor, values[:, [columns.index(c) for c in part.columns]]
        )
        mean += part.slope * found
        variance += (part.slope * spread) ** 2
    return mean, np.sqrt(variance)


def fit_target(
    kind: str, columns: Sequence[str], values: NDArray, true: NDArray, groups: ArrayLike, images: ArrayLike | None,
    coverage: float, recalibrate: bool = False,
) -> TargetModel:  # fmt: skip
    """A target fitted on all n rows; its interval on predictions of models that saw neither a row's group nor image.

    With at most 10 groups each is left out in turn (and, with `images`, every row of its images), else they are spread
    over 10 folds. `recalibrate`: see conformal.recalibration.
    """
    groups = np.asarray(groups)
    if len(np.unique(groups)) > 10:
        folds = cross_validation.make_grouped_folds(groups, 10, images)
    else:
        if len(np.unique(groups)) < 2:
            raise ValueError("all rows are of one group: holding it out leaves nothing to fit")
        folds = cross_validation.make_leave_one_out_folds(groups, images)

    def fit_predict(fit: NDArray, held_out: NDArray) -> NDArray:
        fitted = regressors.fit_regressor(kind, values[fit], true[fit], columns, groups=groups[fit])
        return np.stack(regressors.predict_regressor(fitted, values[held_out]), axis=1)

    mean, spread = cross_validation.predict_out_of_fold(folds, len(true), fit_predict).T
    offset, slope = conformal.fit_recalibration(mean, true, groups) if recalibrate else (0.0, 1.0)
    mean = np.clip(offset + slope * mean, 0, 1)
    low, high = conformal.compute_group_widths(mean, slope * spread, true, groups, coverage)
    whole = regressors.fit_regressor(kind, values, true, columns, groups=groups)
    return TargetModel((Component(slope, tuple(columns), whole),), offset, low, high)


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
    """A judge fitted on n images with detections.

    features: n rows with `columns`, all finite; truth: n rows with true_f1 and, where known, precision and recall, all
    in [0, 1]; groups: n labels of what the interval has to hold for when it was not among them (cohort, split,
    instrument); images: n names, where one is in several groups; kind: one of regressors.KINDS, the mixed Gaussian
    process where most images to come are of new groups (published table, splits left out: mean grouped error .131,
    Gaussian process .140, boosting .153, forest .156). Raises ValueError for
    missing or infinite features, truths outside [0, 1] and a single group.
    """
    values = select_finite_values(features, columns)
    targets = {}
    for name, column in TARGETS.items():
        if column in truth:
            true = check_truth(truth[column])
            targets[name] = fit_target(kind, columns, values, true, groups, images, coverage, recalibrate)
    if "f1" not in targets:
        raise ValueError("the truth lacks true_f1")
    conditions = {"detector": detector, "score_floor": score_floor, "iou_threshold": iou_threshold, "rule": rule}
    return build_quality_model(targets, tuple(columns), values, truth["true_f1"], kind, coverage, conditions)


def build_quality_model(
    targets: Mapping[str, TargetModel], columns: tuple[str, ...], values: NDArray, true_f1: ArrayLike, kind: str,
    coverage: float, conditions: Mapping[str, object],
) -> QualityModel:  # fmt: skip
    """A judge from fitted targets, and what is usual in its training rows (n, d)."""
    order = np.argsort(np.asarray(true_f1), kind="stable")
    drawn = order[np.round(np.linspace(0.1, 0.9, N_BACKGROUND) * (len(order) - 1)).astype(int)]
    spread = np.subtract(*np.percentile(values, [75, 25], axis=0))
    spread = np.where(spread > 0, spread, values.std(axis=0))
    return QualityModel(
        targets, columns, coverage=coverage, kind=kind, typical=np.median(values, axis=0),
        spread=np.where(spread > 0, spread, 1.0), background=values[drawn], **conditions,
    )  # fmt: skip


def select_finite_values(features: pd.DataFrame, columns: Sequence[str]) -> NDArray[np.float64]:
    """n x columns, or ValueError naming the columns with NaN or infinite values."""
    values = select_values(features, columns)
    if not np.isfinite(values).all():
        bad = [c for c, ok in zip(columns, np.isfinite(values).all(axis=0)) if not ok]
        raise ValueError(f"features hold NaN or infinite values: {', '.join(bad)}")
    return values


def check_truth(column: pd.Series) -> NDArray[np.float64]:
    """A truth as float64, or ValueError where it is not in [0, 1]."""
    true = np.asarray(column, dtype=np.float64)
    if not ((true >= 0) & (true <= 1)).all():
        raise ValueError(f"{column.name} has to be in [0, 1]; count it as 0 where nothing matched")
    return true


def predict_quality(judge: QualityModel, features: pd.DataFrame) -> pd.DataFrame:
    """Predictions for every row, with its index: `detector`, `predicted_<target>` with `_low` and `_high` of f1,
    precision and recall (NaN for a target that the judge has not), `evidence` and `because`.

    features: the judge's columns, `n_detections` and `score_floor`; where there is a column `detector` it has to be
    the judge's. Evidence is `detections`; `no_detections` (n_detections is 0: nothing to judge by) or `none` (a
    feature is unknown), both with NaN and without reasons: neither F1 = 0 nor a guess. A row's result depends on no
    other row. Raises ValueError for missing columns and for features of another score floor or detector.
    """
    check_conditions(judge, features, "model")
    values = select_values(features, judge.columns)
    counts = features["n_detections"].to_numpy(dtype=np.float64)
    judged = (counts > 0) & np.isfinite(values).all(axis=1)
    columns: dict[str, object] = {"detector": np.full(len(features), judge.detector, dtype=object)}
    for name in TARGETS:
        found = np.full((len(features), 3), np.nan)
        if name in judge.targets and judged.any():
            target = judge.targets[name]
            mean, spread = predict_target(target, judge.columns, values[judged])
            mean = np.clip(mean, 0, 1)
            widths = (target.width_low, target.width_high)
            found[judged] = np.stack(
                [mean, *conformal.compute_interval(mean, spread, widths, target.spread_floor)], axis=1
            )
        columns |= {f"predicted_{name}{suffix}": column for suffix, column in zip(("", "_low", "_high"), found.T)}
    columns["evidence"] = np.select([judged, counts == 0], ["detections", "no_detections"], "none").astype(object)
    because = np.empty(len(features), dtype=object)
    because[:] = [[] for _ in range(len(features))]
    if judged.any():
        shap, _ = explain_predictions(judge, values[judged])
        said = reasons.describe_effects(judge.columns, values[judged], shap, judge.typical, judge.spread)
        for i, words in zip(np.flatnonzero(judged), said):
            because[i] = words
    return pd.DataFrame(columns | {"because": because}, features.index)  # at once: partitions are small and many


def explain_predictions(judge: QualityModel, values: NDArray, target: str = "f1") -> tuple[NDArray[np.float64], float]:
    """SHAP values (n, k) of the concepts of the judge's columns, and their base; both sum to the unclipped mean."""
    groups = reasons.group_features(judge.columns)
    total = np.zeros((len(values), len(groups)))
    base = judge.targets[target].offset
    for part in judge.targets[target].parts:
        at = [judge.columns.index(c) for c in part.columns]
        found, part_base = reasons.compute_group_shap_values(
            part.regressor, part.columns, values[:, at], judge.background[:, at]
        )
        for k, concept in enumerate(reasons.group_features(part.columns)):
            where = next(i for i, group in enumerate(groups) if concept[0] in group)
            total[:, where] += part.slope * found[:, k]
        base += part.slope * part_base
    return total, base


def write_quality_model(judge: QualityModel, directory: Path) -> dict:
    """Writes `judge.safetensors` and returns the judge's part of the card, under the key `judge`."""
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {name: getattr(judge, name) for name in ("typical", "spread", "background")}
    record = {f.name: getattr(judge, f.name) for f in fields(QualityModel) if f.name not in (*arrays, "targets")}
    record = {**record, "columns": list(judge.columns), "targets": {}}
    for name, target in judge.targets.items():
        parts = {}
        for i, part in enumerate(target.parts):
            kind = "trees" if isinstance(part.regressor, TreeEnsemble) else "gaussian_process"
            parts[str(i)] = {"slope": part.slope, "columns": list(part.columns), "type": kind}
            for field in fields(part.regressor):
                value = getattr(part.regressor, field.name)
                if field.name == "is_mean":
                    parts[str(i)]["is_mean"] = value
                else:
                    arrays[f"{name}.{i}.{field.name}"] = value
        own = {f.name: getattr(target, f.name) for f in fields(TargetModel) if f.name != "parts"}
        record["targets"][name] = {**own, "parts": parts}
    content = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    (directory / QUALITY_MODEL_FILE).write_bytes(content)  # save_file() would leave it readable by its owner only
    return {"judge": record}


def read_quality_model(directory: Path) -> QualityModel:
    """The judge in a model directory, its file checked against the card's SHA-256; ValueError for another model."""
    card = models.load_card(directory)
    if "judge" not in card or QUALITY_MODEL_FILE not in card.get("files", {}):
        raise models.ModelError(f"{directory / 'card.toml'}: not the card of a judge")
    arrays = safetensors.numpy.load_file(directory / QUALITY_MODEL_FILE)
    record = dict(card["judge"])
    targets = {}
    for name, target in record.pop("targets").items():
        parts = []
        for i, part in target["parts"].items():
            prefix = f"{name}.{i}."
            type_ = REGRESSOR_TYPES[part["type"]]
            own = {k.removeprefix(prefix): array for k, array in arrays.items() if k.startswith(prefix)}
            extra = {"is_mean": part["is_mean"]} if "is_mean" in part else {}
            parts.append(Component(part["slope"], tuple(part["columns"]), type_(**own, **extra)))
        targets[name] = TargetModel(tuple(parts), **{k: v for k, v in target.items() if k != "parts"})
    rest = {name: arrays[name] for name in ("typical", "spread", "background")}
    return QualityModel(targets, **{**record, "columns": tuple(record["columns"])}, **rest)


def convert_forest(forest: Forest) -> QualityModel:
    """A forest (predict.forest) as a judge of F1 alone: the same mean and interval but for the last bits, with reasons.

    The mean training row is all that a forest keeps of what is usual.
    """
    scaler = forest.pipeline[0]
    part = Component(1.0, forest.columns, convert_pipeline(forest.pipeline))
    target = TargetModel((part,), 0.0, forest.width_low, forest.width_high, SPREAD_FLOOR)
    return QualityModel(
        {"f1": target}, forest.columns, forest.detector, forest.score_floor, forest.iou_threshold, forest.rule,
        forest.coverage, "forest", scaler.mean_.copy(), scaler.scale_.copy(), scaler.mean_[None].copy(),
    )  # fmt: skip
