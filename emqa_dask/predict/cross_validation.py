"""How a prediction is tested: folds that are random, grouped or leave one group out; figures of the errors."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

Folds = Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]  # rows to fit, rows to predict


def make_random_folds(n: int, n_folds: int = 5, seed: int = 0) -> Folds:
    """n rows in `n_folds` random parts, each predicted once, whatever belongs together (Li et al., section 2.3)."""
    from sklearn.model_selection import KFold

    return KFold(min(n_folds, n), shuffle=True, random_state=seed).split(np.zeros(n))


def make_grouped_folds(groups: ArrayLike, n_folds: int = 5, images: ArrayLike | None = None) -> Folds:
    """Parts that never share a label of `groups` (n,), each row predicted once. ValueError for a single group.

    With `images` (n,), where one image can be in several groups, rows of the images to predict are in no fit either.
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
    """Every label of `groups` (n,) in turn; with `images` (n,), rows of a left-out image are in no fit either.

    Groups without which nothing is left to fit are refused with ValueError.
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
    """What `fit_predict(rows to fit, rows to predict)` gives, (k,) or (k, m), for n rows; NaN where no fold has one."""
    found = None
    for fit, held_out in folds:
        part = np.asarray(fit_predict(fit, held_out), dtype=np.float64)
        if found is None:
            found = np.full((n, *part.shape[1:]), np.nan)
        found[held_out] = part
    return np.full(n, np.nan) if found is None else found


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
    true, low, high = (np.asarray(a, dtype=np.float64) for a in (true, low, high))
    return {
        "coverage": float(np.mean((true >= low) & (true <= high))),
        "below": float(np.mean(true < low)),
        "above": float(np.mean(true > high)),
        "width": float(np.mean(high - low)),
    }


def average_over_groups(values: ArrayLike, groups: ArrayLike) -> float:
    """Mean over groups of their mean value: every group counts the same."""
    values = np.asarray(values, dtype=np.float64)
    groups = np.asarray(groups)
    return float(np.mean([values[groups == group].mean() for group in np.unique(groups)]))
