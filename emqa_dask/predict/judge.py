"""The model that predicts a detector's F1, precision and recall on an image, with intervals and reasons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.numpy
from numpy.typing import ArrayLike, NDArray

from emqa_dask import models
from emqa_dask.predict import conformal, protocols, reasons, regressors
from emqa_dask.predict.forest import PAPER_FEATURES, SPREAD_FLOOR, Forest, check_conditions, values_of
from emqa_dask.predict.gaussian import GaussianProcess
from emqa_dask.predict.trees import Trees, from_pipeline

FILE = "judge.safetensors"
TARGETS = {"f1": "true_f1", "precision": "precision", "recall": "recall"}  # predicted name: column of the truth
N_BACKGROUND = 3  # rows that SHAP values compare with
_TYPES = {"trees": Trees, "gaussian_process": GaussianProcess}


@dataclass(frozen=True)
class Part:
    """One regressor's share in a prediction: slope times its mean."""

    slope: float
    columns: tuple[str, ...]
    regressor: regressors.Regressor


@dataclass(frozen=True)
class Target:
    """Prediction = offset + the parts' sum, clipped to [0, 1]; widths of its interval, see predict.conformal."""

    parts: tuple[Part, ...]
    offset: float
    width_low: float
    width_high: float
    spread_floor: float = conformal.SPREAD_FLOOR


@dataclass(frozen=True)
class Judge:
    """Targets (some of TARGETS, f1 always), the conditions under which they hold, and what is usual in training."""

    targets: Mapping[str, Target]
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


def mean_of(target: Target, columns: Sequence[str], values: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unclipped prediction and spread of n rows (n, d) of the features `columns`."""
    mean = np.full(len(values), target.offset)
    variance = np.zeros(len(values))
    for part in target.parts:
        found, spread = regressors.predict(part.regressor, values[:, [columns.index(c) for c in part.columns]])
        mean += part.slope * found
        variance += (part.slope * spread) ** 2
    return mean, np.sqrt(variance)


def fit_target(
    kind: str, columns: Sequence[str], values: NDArray, true: NDArray, groups: ArrayLike, images: ArrayLike | None,
    coverage: float, recalibrate: bool = False,
) -> Target:  # fmt: skip
    """A target fitted on all n rows; its interval on predictions of models that saw neither a row's group nor image.

    With at most 10 groups each is left out in turn (and, with `images`, every row of its images), else they are spread
    over 10 folds. `recalibrate`: see conformal.recalibration.
    """
    groups = np.asarray(groups)
    if len(np.unique(groups)) > 10:
        folds = protocols.grouped_folds(groups, 10, images)
    else:
        if len(np.unique(groups)) < 2:
            raise ValueError("all rows are of one group: holding it out leaves nothing to fit")
        folds = protocols.leave_one_out(groups, images)

    def fit_predict(fit: NDArray, held_out: NDArray) -> NDArray:
        fitted = regressors.fit(kind, values[fit], true[fit], columns, groups=groups[fit])
        return np.stack(regressors.predict(fitted, values[held_out]), axis=1)

    mean, spread = protocols.out_of_fold(folds, len(true), fit_predict).T
    offset, slope = conformal.recalibration(mean, true, groups) if recalibrate else (0.0, 1.0)
    mean = np.clip(offset + slope * mean, 0, 1)
    low, high = conformal.group_widths(mean, slope * spread, true, groups, coverage)
    whole = regressors.fit(kind, values, true, columns, groups=groups)
    return Target((Part(slope, tuple(columns), whole),), offset, low, high)


def fit(
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
) -> Judge:
    """A judge fitted on n images with detections.

    features: n rows with `columns`, all finite; truth: n rows with true_f1 and, where known, precision and recall, all
    in [0, 1]; groups: n labels of what the interval has to hold for when it was not among them (cohort, split,
    instrument); images: n names, where one is in several groups; kind: one of regressors.KINDS, the mixed Gaussian
    process where most images to come are of new groups (published table, splits left out: mean grouped error .131,
    Gaussian process .140, boosting .153, forest .156). Raises ValueError for
    missing or infinite features, truths outside [0, 1] and a single group.
    """
    values = finite_values(features, columns)
    targets = {}
    for name, column in TARGETS.items():
        if column in truth:
            true = checked_truth(truth[column])
            targets[name] = fit_target(kind, columns, values, true, groups, images, coverage, recalibrate)
    if "f1" not in targets:
        raise ValueError("the truth lacks true_f1")
    conditions = {"detector": detector, "score_floor": score_floor, "iou_threshold": iou_threshold, "rule": rule}
    return make(targets, tuple(columns), values, truth["true_f1"], kind, coverage, conditions)


def make(
    targets: Mapping[str, Target], columns: tuple[str, ...], values: NDArray, true_f1: ArrayLike, kind: str,
    coverage: float, conditions: Mapping[str, object],
) -> Judge:  # fmt: skip
    """A judge from fitted targets, and what is usual in its training rows (n, d)."""
    order = np.argsort(np.asarray(true_f1), kind="stable")
    drawn = order[np.round(np.linspace(0.1, 0.9, N_BACKGROUND) * (len(order) - 1)).astype(int)]
    spread = np.subtract(*np.percentile(values, [75, 25], axis=0))
    spread = np.where(spread > 0, spread, values.std(axis=0))
    return Judge(
        targets, columns, coverage=coverage, kind=kind, typical=np.median(values, axis=0),
        spread=np.where(spread > 0, spread, 1.0), background=values[drawn], **conditions,
    )  # fmt: skip


def finite_values(features: pd.DataFrame, columns: Sequence[str]) -> NDArray[np.float64]:
    """n x columns, or ValueError naming the columns with NaN or infinite values."""
    values = values_of(features, columns)
    if not np.isfinite(values).all():
        bad = [c for c, ok in zip(columns, np.isfinite(values).all(axis=0)) if not ok]
        raise ValueError(f"features hold NaN or infinite values: {', '.join(bad)}")
    return values


def checked_truth(column: pd.Series) -> NDArray[np.float64]:
    """A truth as float64, or ValueError where it is not in [0, 1]."""
    true = np.asarray(column, dtype=np.float64)
    if not ((true >= 0) & (true <= 1)).all():
        raise ValueError(f"{column.name} has to be in [0, 1]; count it as 0 where nothing matched")
    return true


def predict(judge: Judge, features: pd.DataFrame) -> pd.DataFrame:
    """Predictions for every row, with its index: `detector`, `predicted_<target>` with `_low` and `_high` of f1,
    precision and recall (NaN for a target that the judge has not), `evidence` and `because`.

    features: the judge's columns, `n_detections` and `score_floor`; where there is a column `detector` it has to be
    the judge's. Evidence is `detections`; `no_detections` (n_detections is 0: nothing to judge by) or `none` (a
    feature is unknown), both with NaN and without reasons: neither F1 = 0 nor a guess. A row's result depends on no
    other row. Raises ValueError for missing columns and for features of another score floor or detector.
    """
    check_conditions(judge, features, "model")
    values = values_of(features, judge.columns)
    counts = features["n_detections"].to_numpy(dtype=np.float64)
    judged = (counts > 0) & np.isfinite(values).all(axis=1)
    columns: dict[str, object] = {"detector": np.full(len(features), judge.detector, dtype=object)}
    for name in TARGETS:
        found = np.full((len(features), 3), np.nan)
        if name in judge.targets and judged.any():
            target = judge.targets[name]
            mean, spread = mean_of(target, judge.columns, values[judged])
            mean = np.clip(mean, 0, 1)
            widths = (target.width_low, target.width_high)
            found[judged] = np.stack([mean, *conformal.interval(mean, spread, widths, target.spread_floor)], axis=1)
        columns |= {f"predicted_{name}{suffix}": column for suffix, column in zip(("", "_low", "_high"), found.T)}
    columns["evidence"] = np.select([judged, counts == 0], ["detections", "no_detections"], "none").astype(object)
    because = np.empty(len(features), dtype=object)
    because[:] = [[] for _ in range(len(features))]
    if judged.any():
        shap, _ = explain(judge, values[judged])
        said = reasons.in_words(judge.columns, values[judged], shap, judge.typical, judge.spread)
        for i, words in zip(np.flatnonzero(judged), said):
            because[i] = words
    return pd.DataFrame(columns | {"because": because}, features.index)  # at once: partitions are small and many


def explain(judge: Judge, values: NDArray, target: str = "f1") -> tuple[NDArray[np.float64], float]:
    """SHAP values (n, k) of the concepts of the judge's columns, and their base; both sum to the unclipped mean."""
    groups = reasons.concepts(judge.columns)
    total = np.zeros((len(values), len(groups)))
    base = judge.targets[target].offset
    for part in judge.targets[target].parts:
        at = [judge.columns.index(c) for c in part.columns]
        found, part_base = reasons.shap_values(part.regressor, part.columns, values[:, at], judge.background[:, at])
        for k, concept in enumerate(reasons.concepts(part.columns)):
            where = next(i for i, group in enumerate(groups) if concept[0] in group)
            total[:, where] += part.slope * found[:, k]
        base += part.slope * part_base
    return total, base


def save(judge: Judge, directory: Path) -> dict:
    """Writes `judge.safetensors` and returns the judge's part of the card, under the key `judge`."""
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {name: getattr(judge, name) for name in ("typical", "spread", "background")}
    record = {f.name: getattr(judge, f.name) for f in fields(Judge) if f.name not in (*arrays, "targets")}
    record = {**record, "columns": list(judge.columns), "targets": {}}
    for name, target in judge.targets.items():
        parts = {}
        for i, part in enumerate(target.parts):
            kind = "trees" if isinstance(part.regressor, Trees) else "gaussian_process"
            parts[str(i)] = {"slope": part.slope, "columns": list(part.columns), "type": kind}
            for field in fields(part.regressor):
                value = getattr(part.regressor, field.name)
                if field.name == "is_mean":
                    parts[str(i)]["is_mean"] = value
                else:
                    arrays[f"{name}.{i}.{field.name}"] = value
        own = {f.name: getattr(target, f.name) for f in fields(Target) if f.name != "parts"}
        record["targets"][name] = {**own, "parts": parts}
    content = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    (directory / FILE).write_bytes(content)  # save_file() would leave it readable by its owner only
    return {"judge": record}


def load(directory: Path) -> Judge:
    """The judge in a model directory, its file checked against the card's SHA-256; ValueError for another model."""
    card = models.load_card(directory)
    if "judge" not in card or FILE not in card.get("files", {}):
        raise models.ModelError(f"{directory / 'card.toml'}: not the card of a judge")
    arrays = safetensors.numpy.load_file(directory / FILE)
    record = dict(card["judge"])
    targets = {}
    for name, target in record.pop("targets").items():
        parts = []
        for i, part in target["parts"].items():
            prefix = f"{name}.{i}."
            type_ = _TYPES[part["type"]]
            own = {k.removeprefix(prefix): array for k, array in arrays.items() if k.startswith(prefix)}
            extra = {"is_mean": part["is_mean"]} if "is_mean" in part else {}
            parts.append(Part(part["slope"], tuple(part["columns"]), type_(**own, **extra)))
        targets[name] = Target(tuple(parts), **{k: v for k, v in target.items() if k != "parts"})
    rest = {name: arrays[name] for name in ("typical", "spread", "background")}
    return Judge(targets, **{**record, "columns": tuple(record["columns"])}, **rest)


def from_forest(forest: Forest) -> Judge:
    """A forest (predict.forest) as a judge of F1 alone: the same mean and interval but for the last bits, with reasons.

    The mean training row is all that a forest keeps of what is usual.
    """
    scaler = forest.pipeline[0]
    part = Part(1.0, forest.columns, from_pipeline(forest.pipeline))
    target = Target((part,), 0.0, forest.width_low, forest.width_high, SPREAD_FLOOR)
    return Judge(
        {"f1": target}, forest.columns, forest.detector, forest.score_floor, forest.iou_threshold, forest.rule,
        forest.coverage, "forest", scaler.mean_.copy(), scaler.scale_.copy(), scaler.mean_[None].copy(),
    )  # fmt: skip
