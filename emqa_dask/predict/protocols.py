"""Protocols of cross-validation for images in splits: the published ones, and those that hold whole groups out.

Each model is fitted anew for every fold, and nothing is tuned on what is held out.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask.predict import conformal, cross_validation, regressors
from emqa_dask.predict.published_table import is_grouped

RANDOM = "random"  # 5 random folds: what Li et al. report
GROUPED = "grouped by image"  # 5 folds that share no image: an image is in several splits
LEFT_OUT = "leave one split out"
LEFT_OUT_IMAGES = "leave one split out, images removed"  # a new detector or instrument
METRICS = ("rmse", "mae", "r2", "nrmse", "nmae")
ALL = "all"  # name of the row of all images
MEANS = {"mean of grouped splits": True, "mean of random splits": False}  # row: is_grouped() of its splits
MIN_SPLITS = 3  # to calibrate intervals on splits beside the one left out


class LabelledSplits(NamedTuple):
    """n images with features, a target and their splits."""

    values: NDArray[np.float64]  # (n, d), finite
    columns: tuple[str, ...]  # d names
    true: NDArray[np.float64]  # (n,)
    splits: NDArray  # (n,) names
    images: NDArray  # (n,) names; one image can be in several splits


def arrange_splits(table: pd.DataFrame, columns: Sequence[str], target: str = "true_f1") -> LabelledSplits:
    """The rows of a table of published_table.read_published() as arrays."""
    return LabelledSplits(
        table[list(columns)].to_numpy(dtype=np.float64),
        tuple(columns),
        table[target].to_numpy(dtype=np.float64),
        table["split"].to_numpy(dtype=str),
        table["image"].to_numpy(dtype=str),
    )


def make_folds(rows: LabelledSplits, protocol: str, seed: int = 0) -> cross_validation.Folds:
    """The folds of a protocol; the seed is that of random folds."""
    if protocol == RANDOM:
        return cross_validation.make_random_folds(len(rows.true), seed=seed)
    if protocol == GROUPED:
        return cross_validation.make_grouped_folds(rows.images)
    images = rows.images if protocol == LEFT_OUT_IMAGES else None
    return cross_validation.make_leave_one_out_folds(rows.splits, images)


def predict_by_protocol(
    rows: LabelledSplits, protocol: str, kind: str = "forest", seed: int = 0
) -> NDArray[np.float64]:
    """Held-out predictions (n,) of the target by a model of one of regressors.KINDS."""

    def fit_predict(fit: NDArray, held_out: NDArray) -> NDArray:
        groups = rows.splits[fit]
        model = regressors.fit_regressor(kind, rows.values[fit], rows.true[fit], rows.columns, seed, groups)
        return regressors.predict_regressor(model, rows.values[held_out])[0]

    return cross_validation.predict_out_of_fold(make_folds(rows, protocol, seed), len(rows.true), fit_predict)


def list_splits(splits: NDArray) -> list[str]:
    """The splits in the paper's order: grouped ones first, each kind by its number of images."""
    names, counts = np.unique(splits, return_counts=True)
    sizes = dict(zip(names.tolist(), counts.tolist(), strict=True))
    return sorted(sizes, key=lambda name: (not is_grouped(name), -sizes[name], name))


def measure_splits(rows: LabelledSplits, protocol: str, predictions: Sequence[NDArray]) -> list[dict]:
    """Rows of the paper's table 2, split, protocol, n and METRICS: all images, every split, and the MEANS of splits.

    predictions: (n,) of each repeat, over which the errors are averaged.
    """
    results = {}
    names = list_splits(rows.splits)
    for name in (ALL, *names):
        is_member = np.full(len(rows.true), True) if name == ALL else rows.splits == name
        errors = [cross_validation.compute_errors(rows.true[is_member], p[is_member]) for p in predictions]
        means = pd.DataFrame(errors).mean()
        results[name] = {"split": name, "protocol": protocol, "n": float(is_member.sum()), **means[list(METRICS)]}
    for name, grouped in MEANS.items():
        members = pd.DataFrame([results[split] for split in names if is_grouped(split) == grouped])
        if len(members):
            results[name] = {"split": name, "protocol": protocol, **members[["n", *METRICS]].mean()}
    return list(results.values())


def measure_coverage(rows: LabelledSplits, kind: str = "forest", coverage: float = 0.9) -> dict[str, float]:
    """Coverage and width of the interval on splits left out, calibrated on the others only; {} with few splits.

    A model for each pair of splits, fitted without the images of both, says how far off predictions are on either when
    the other is the one that is left out and not looked at.
    """
    names = list_splits(rows.splits)
    if len(names) < MIN_SPLITS:
        return {}
    predictions = _predict_pairs(rows, kind, names)
    low, high = np.full((2, len(rows.true)), np.nan)
    for name in names:
        own = np.flatnonzero(rows.splits == name)
        others = [predictions[name, other] for other in names if other != name]
        indices = [np.flatnonzero(rows.splits == other) for other in names if other != name]
        mean, spread = (
            np.concatenate([part[k][index] for part, index in zip(others, indices, strict=True)]) for k in (0, 1)
        )
        indices_of_others = np.concatenate(indices)
        true = rows.true[indices_of_others]
        residuals = conformal.compute_residual_quantiles(mean, spread, true, rows.splits[indices_of_others])
        own_mean, own_spread = (part[own] for part in predictions[name, name])
        quantiles = conformal.compute_quantiles(own_mean, own_spread, residuals)
        low[own], high[own] = conformal.select_interval(own_mean, quantiles, coverage)
    is_inside = (rows.true >= low) & (rows.true <= high)
    return {
        "nominal": coverage,
        "mean_over_splits": cross_validation.average_over_groups(is_inside, rows.splits),
        **cross_validation.compute_interval_errors(rows.true, low, high),
    }


def _predict_pairs(rows: LabelledSplits, kind: str, names: Sequence[str]) -> dict[tuple[str, str], NDArray]:
    """Mean and spread (2, n) of two splits, NaN elsewhere, by a model without the images of both."""
    results = {}
    for i, first in enumerate(names):
        for second in names[i:]:
            held_out = np.isin(rows.splits, [first, second])
            fit = ~np.isin(rows.images, rows.images[held_out])
            if not fit.any():
                raise ValueError(f"leaving out {first} and {second} leaves no image to fit")
            groups = rows.splits[fit]
            model = regressors.fit_regressor(kind, rows.values[fit], rows.true[fit], rows.columns, groups=groups)
            predicted = np.full((2, len(rows.true)), np.nan)
            predicted[:, held_out] = regressors.predict_regressor(model, rows.values[held_out])
            results[first, second] = predicted
            results[second, first] = predicted
    return results


def has_pairs_to_fit(rows: LabelledSplits) -> bool:
    """Whether leaving any two splits out, with their images, leaves images to fit."""
    names = np.unique(rows.splits)
    pairs = ((first, second) for i, first in enumerate(names) for second in names[i + 1 :])
    return all((~np.isin(rows.images, rows.images[np.isin(rows.splits, pair)])).any() for pair in pairs)


def classify_good_images(true: NDArray, predicted: NDArray, thresholds: Sequence[float]) -> pd.DataFrame:
    """How well images with an F1 of at least a threshold are told: a row per threshold, and the best constant answer.

    Columns: threshold, precision (NaN where no image is called good), recall (NaN where none is), f1, accuracy,
    baseline_f1 (of "all are good") and baseline_accuracy.
    """
    rows = []
    for threshold in thresholds:
        is_good = true >= threshold
        is_called_good = predicted >= threshold
        n_hits = (is_good & is_called_good).sum()
        n_marked = is_called_good.sum() + is_good.sum()
        share = is_good.mean()
        rows.append(
            {
                "threshold": threshold,
                "precision": n_hits / is_called_good.sum() if is_called_good.any() else np.nan,
                "recall": n_hits / is_good.sum() if is_good.any() else np.nan,
                "f1": 2 * n_hits / n_marked if n_marked else np.nan,
                "accuracy": np.mean(is_good == is_called_good),
                "baseline_f1": 2 * share / (1 + share),
                "baseline_accuracy": max(share, 1 - share),
            }
        )
    return pd.DataFrame(rows)
