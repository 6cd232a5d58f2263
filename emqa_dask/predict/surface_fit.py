"""Response surfaces of F1 over imaging conditions: fitted to a grid, and assessed on points that were held out."""

import warnings
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emqa_dask.response_surface import ResponseSurface, evaluate_surface, list_grid_points, scale_conditions

MIN_VALUES = 3  # of an axis: a curve through fewer is a guess
N_FOLDS = 4  # each quarter of the grid is predicted from the others


class SurfaceFit(NamedTuple):
    """How well the surface predicts points of the grid that it was not fitted to."""

    f1: NDArray[np.float64]  # (n,), predicted without the point
    spearman: float
    mae: float


def check_axes(axes: Mapping[str, ArrayLike]) -> dict[str, NDArray[np.float64]]:
    """`axes` sorted and without repetitions; ValueError, with the remedy, for values that cannot be an axis."""
    checked = {}
    for name, values in axes.items():
        ticks = np.unique(np.asarray(values, float))
        if not np.isfinite(ticks).all() or (name != "defocus_nm" and (ticks <= 0).any()):
            rule = "has to be finite" if name == "defocus_nm" else "has to be finite and above 0"
            raise ValueError(f"{name} of the grid is {ticks.tolist()}: each value {rule}")
        if len(ticks) < MIN_VALUES:
            raise ValueError(
                f"{name} of the grid is {ticks.tolist()}: no curve follows from that; give at least {MIN_VALUES} values"
            )
        checked[name] = ticks
    return checked


def fit_response_surface(axes: Mapping[str, NDArray], f1: ArrayLike, seed: int = 0) -> ResponseSurface:
    """The surface through the F1 (n,) of all points of the grid; points with NaN do not count.

    A Gaussian process with a squared exponential kernel, a length for each condition and white noise, all by maximum
    marginal likelihood. Raises ValueError where all F1 are equal: no condition matters, and there is nothing to fit.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    targets = np.asarray(f1, float)
    is_known = np.isfinite(targets)
    if not is_known.any() or np.ptp(targets[is_known]) == 0:
        raise ValueError("F1 is the same under all conditions of the grid: there is no response to fit")
    rows = scale_conditions(axes, list_grid_points(axes))[is_known]
    mean = float(targets[is_known].mean())
    spread = float(targets[is_known].std())
    kernel = ConstantKernel(1.0, (0.1, 100)) * RBF(np.ones(len(axes)), (0.1, 30)) + WhiteKernel(0.02, (1e-4, 0.5))
    with warnings.catch_warnings():  # a length at its bound says that the condition hardly matters
        warnings.simplefilter("ignore", ConvergenceWarning)
        process = GaussianProcessRegressor(kernel, n_restarts_optimizer=1, random_state=seed)
        process.fit(rows, (targets[is_known] - mean) / spread)
    smooth = process.kernel_.k1
    weights = np.zeros(len(targets))
    weights[is_known] = process.alpha_ * smooth.k1.constant_value * spread
    lengths = np.broadcast_to(smooth.k2.length_scale, len(axes)).astype(float)
    return ResponseSurface({name: np.asarray(v, float) for name, v in axes.items()}, lengths, weights, mean)


def assess_response_surface(axes: Mapping[str, NDArray], f1: ArrayLike, seed: int = 0) -> SurfaceFit:
    """Predictions of every point of the grid by surfaces that were fitted without a random quarter of the points."""
    from scipy.stats import spearmanr

    targets = np.asarray(f1, float)
    points = list_grid_points(axes)
    folds = np.random.default_rng(seed).permutation(len(targets)) % N_FOLDS
    predicted = np.empty(len(targets))
    for fold in range(N_FOLDS):
        surface = fit_response_surface(axes, np.where(folds == fold, np.nan, targets), seed)
        predicted[folds == fold] = evaluate_surface(surface, points[folds == fold])
    rank_correlation = float(spearmanr(predicted, targets).statistic)
    return SurfaceFit(predicted, rank_correlation, float(np.abs(predicted - targets).mean()))
