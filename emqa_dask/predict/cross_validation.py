"""Cross-validation: random folds, grouped folds and leave-one-group-out folds; errors of the held-out predictions."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

Folds = Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]  # rows to fit, rows to predict


def make_random_folds(n: int, n_folds: int = 5, seed: int = 0) -> Folds:
    """Folds of n rows at random, each row held out once; groups are ignored (Li et al., section 2.3)."""
    from sklearn.model_selection import KFold

    return KFold(min(n_folds, n), shuffle=True, random_state=seed).split(np.zeros(n))


def make_grouped_folds(groups: ArrayLike, n_folds: int = 5, images: ArrayLike | None = None) -> Folds:
    """Folds that never share a label of `groups` (n,), each row held out once. ValueError for a single group.

    With `images` (n,), where one image can be in several groups, no fit has a row of a held-out image.
    """
    from sklearn.model_selection import GroupKFold

    groups = np.asarray(groups)
    n_groups = len(np.unique(groups))
    if n_groups < 2:
        raise ValueError("all rows are of one group: holding it out leaves nothing to fit")
    for fit, held_out in GroupKFold(min(n_folds, n_groups)).split(np.zeros(len(groups)), groups=groups):
        if images is not None:
            fit = fit[~np.isin(np.asarray(images)[fit], np.asarray(images)[held_out])]
            if len(fit) == 0:
                raise ValueError("every image is in every group: leaving one out leaves nothing to fit")
        yield fit, held_out


def make_leave_one_out_folds(groups: ArrayLike, images: ArrayLike | None = None) -> Folds:
    """A fold for every label of `groups` (n,); with `images` (n,), no fit has a row of a held-out image.

    Raises ValueError where a fold leaves nothing to fit.
    """
    groups = np.asarray(groups)
    for group in np.unique(groups):
        held_out = groups == group
        fit = ~held_out
        if images is not None:
            fit &= ~np.isin(np.asarray(images), np.asarray(images)[held_out])
        if not fit.any():
            raise ValueError(f"leaving out {group} leaves nothing to fit")
        yield np.flatnonzero(fit), np.flatnonzero(held_out)


def predict_out_of_fold(
    folds: Folds, n: int, fit_predict: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray]
) -> NDArray[np.float64]:
    """Held-out predictions (n,) or (n, m) of `fit_predict(rows to fit, rows to predict)`; NaN for rows in no fold."""
    predicted = None
    for fit, held_out in folds:
        part = np.asarray(fit_predict(fit, held_out), dtype=np.float64)
        if predicted is None:
            predicted = np.full((n, *part.shape[1:]), np.nan)
        predicted[held_out] = part
    return np.full(n, np.nan) if predicted is None else predicted


def compute_errors(true: ArrayLike, predicted: ArrayLike) -> dict[str, float]:
    """`rmse`, `mae`, `r2`, `nrmse` = rmse / std(true) and `nmae` = mae / mean(true) of n values (std: ddof = 0).

    r2 = 1 - nrmse^2; both are NaN where `true` does not vary, nmae where its mean is 0, all without values.
    """
    true = np.asarray(true, dtype=np.float64)
    predicted = np.asarray(predicted, dtype=np.float64)
    if len(true) == 0:
        return dict.fromkeys(("rmse", "mae", "r2", "nrmse", "nmae"), float("nan"))
    error = predicted - true
    rmse = float(np.sqrt(np.mean(error**2)))
    mae = float(np.abs(error).mean())
    std = float(true.std())
    mean = float(true.mean())
    nrmse = rmse / std if std > 0 else float("nan")
    return {"rmse": rmse, "mae": mae, "r2": 1 - nrmse**2, "nrmse": nrmse, "nmae": mae / mean if mean else float("nan")}


def compute_interval_errors(true: ArrayLike, low: ArrayLike, high: ArrayLike) -> dict[str, float]:
    """`coverage` of the intervals, share of truths `below` and `above` them, and their mean `width`."""
    true = np.asarray(true, dtype=np.float64)
    low = np.asarray(low, dtype=np.float64)
    high = np.asarray(high, dtype=np.float64)
    return {
        "coverage": float(np.mean((true >= low) & (true <= high))),
        "below": float(np.mean(true < low)),
        "above": float(np.mean(true > high)),
        "width": float(np.mean(high - low)),
    }


def average_over_groups(values: ArrayLike, groups: ArrayLike) -> float:
    """Mean of the groups' means: every group has the same weight."""
    values = np.asarray(values, dtype=np.float64)
    groups = np.asarray(groups)
    return float(np.mean([values[groups == group].mean() for group in np.unique(groups)]))
