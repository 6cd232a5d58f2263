"""Gaussian process (Matern 3/2, linear, white noise, offsets of groups) as plain arrays: fit and prediction.

Compiled loops make the predictions: the last bits of matrix products depend on the number of rows and their position.
"""

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.linalg.lapack import dpotrf, dpotrs
from scipy.spatial.distance import cdist

MAX_ROWS = 1000  # the covariance's inverse factor is kept: 8 MB in double precision
MAX_SEARCH_ROWS = 400  # rows by which the six parameters are found: the time grows with their cube


@dataclass(frozen=True)
class GaussianProcess:
    """Scaled features of the training rows, and the arrays that a prediction is computed from."""

    centre: NDArray[np.float64]  # (d,), taken off the features
    scale: NDArray[np.float64]  # (d,), then divided by
    rows: NDArray[np.float64]  # (n, d), scaled
    weights: NDArray[np.float64]  # (n,): inverse covariance times the standardised targets
    factor: NDArray[np.float64]  # (n, n), upper triangle: its square is the inverse covariance, noise included
    kernel: NDArray[np.float64]  # (5,): amplitude^2, length, linear^2, linear offset^2, noise^2 of a new group's row
    target: NDArray[np.float64]  # (2,): mean and standard deviation of the targets


def fit_gaussian_process(
    values: NDArray, targets: NDArray, seed: int = 0, groups: ArrayLike | None = None
) -> GaussianProcess:
    """The process of n rows of finite features (n, d) and targets (n,), with parameters of maximum marginal likelihood.

    All features share a length: with a length for each, a fit to a few hundred rows is too close to hold for other
    detectors and instruments. With `groups` (n,), at least 3 of them, every group has an offset from a normal
    distribution: the features do not explain a group's peculiarities, and the spread holds for rows of new groups. Of
    more than MAX_ROWS rows a random MAX_ROWS are used.
    """
    rng = np.random.default_rng(seed)
    groups = None if groups is None or len(np.unique(groups)) < 3 else np.unique(groups, return_inverse=True)[1]
    if len(values) > MAX_ROWS:
        keep = np.sort(rng.permutation(len(values))[:MAX_ROWS])
        values = values[keep]
        targets = targets[keep]
        groups = None if groups is None else groups[keep]
    centre = values.mean(axis=0)
    scale = values.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    mean = float(targets.mean())
    std = float(targets.std()) or 1.0
    rows = (values - centre) / scale
    standardised = (targets - mean) / std
    sample = np.sort(rng.permutation(len(rows))[:MAX_SEARCH_ROWS])
    parameters = _maximise_likelihood(rows[sample], standardised[sample], None if groups is None else groups[sample])
    covariance, _, _ = _compute_covariance(parameters, *_compare_pairs(rows, groups))
    lower = cholesky(covariance, lower=True)
    inverse_lower = solve_triangular(lower, np.eye(len(rows)), lower=True)
    kernel = parameters[:5].copy()
    kernel[4] = parameters[4] + parameters[5]  # a new row is of a group of its own
    return GaussianProcess(
        centre=centre,
        scale=scale,
        rows=np.ascontiguousarray(rows),
        weights=cho_solve((lower, True), standardised),
        factor=np.ascontiguousarray(np.triu(inverse_lower.T)),
        kernel=kernel,
        target=np.array([mean, std]),
    )


# amplitude^2, length, linear^2, linear offset^2, noise^2, groups' offset^2: in units of the targets' variance.
_START = np.log([1.0, 2.0, 0.1, 0.1, 0.1, 0.05])
_BOUNDS = np.log([(1e-2, 1e2), (0.3, 100.0), (1e-5, 10.0), (1e-5, 10.0), (1e-3, 1.0), (1e-4, 2.0)])


def _compare_pairs(rows: NDArray, groups: NDArray | None) -> tuple[NDArray, NDArray, NDArray | None]:
    """Distance, product and equality of the group (0 or 1), each (n, n), of all pairs of rows."""
    is_same_group = None if groups is None else np.equal.outer(groups, groups).astype(float)
    return cdist(rows, rows), rows @ rows.T, is_same_group


def _compute_covariance(
    parameters: NDArray, distance: NDArray, product: NDArray, is_same_group: NDArray | None
) -> tuple[NDArray, ...]:
    """Covariance of all rows, its Matern part, and the derivative of that part by the logarithm of the length."""
    amplitude, length = parameters[:2]
    linear, offset = parameters[2:4]
    noise, group_variance = parameters[4:]
    r = np.sqrt(3) / length * distance
    decay = amplitude * np.exp(-r)
    matern = (1 + r) * decay
    covariance = matern + linear * product + offset
    if is_same_group is not None:
        covariance = covariance + group_variance * is_same_group
    covariance[np.diag_indices_from(covariance)] += noise
    return covariance, matern, r * r * decay


def _maximise_likelihood(rows: NDArray, targets: NDArray, groups: NDArray | None) -> NDArray[np.float64]:
    """The six parameters of maximum marginal likelihood, by its gradient in their logarithms."""
    from scipy.optimize import minimize  # processes that only predict do not import it

    pair_statistics = _compare_pairs(rows, groups)
    identity = np.eye(len(rows))
    parameters = np.exp(
        minimize(
            _compute_likelihood,
            _START,
            (targets, pair_statistics, identity),
            jac=True,
            bounds=_BOUNDS,
            method="L-BFGS-B",
        ).x
    )
    if groups is None:
        parameters[5] = 0.0
    return parameters


def _compute_likelihood(
    logs: NDArray, targets: NDArray, pair_statistics: tuple[NDArray, NDArray, NDArray | None], identity: NDArray
) -> tuple[float, NDArray]:
    """Negative log marginal likelihood and its gradient (6,) (Rasmussen & Williams 5.9)."""
    parameters = np.exp(logs)
    covariance, matern, length_slope = _compute_covariance(parameters, *pair_statistics)
    # LAPACK itself: for matrices of some labelled images SciPy's wrappers take longer than the computation.
    factor, failed = dpotrf(covariance, lower=1)
    if failed:
        return 1e10, np.zeros(len(logs))
    weights = dpotrs(factor, targets, lower=1)[0]
    gradient_matrix = dpotrs(factor, identity, lower=1)[0] - np.outer(weights, weights)
    linear, offset = parameters[2:4]
    noise, group_variance = parameters[4:]
    _, product, is_same_group = pair_statistics
    slopes = [
        np.vdot(gradient_matrix, matern),
        np.vdot(gradient_matrix, length_slope),
        linear * np.vdot(gradient_matrix, product),
        offset * gradient_matrix.sum(),
        noise * np.trace(gradient_matrix),
        0.0 if is_same_group is None else group_variance * np.vdot(gradient_matrix, is_same_group),
    ]
    value = 0.5 * targets @ weights + np.log(np.diag(factor)).sum()
    return float(value), 0.5 * np.array(slopes)


def predict_gaussian_process(
    model: GaussianProcess, values: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation, noise included, for n rows of finite features (n, d)."""
    scaled = (np.asarray(values, dtype=np.float64) - model.centre) / model.scale
    mean, spread = _predict_scaled(scaled, model.rows, model.weights, model.factor, model.kernel)
    return mean * model.target[1] + model.target[0], spread * model.target[1]


_BLOCK = 8  # rows that go through the factor together: it is read from memory once for all of them


@numba.njit(cache=True)
def _predict_scaled(values, rows, weights, factor, kernel):
    """Mean and standard deviation (m,) of m scaled rows (m, d), in units of the targets' standard deviation."""
    mean = np.zeros(len(values))
    spread = np.zeros(len(values))
    n = len(rows)
    covariance = np.empty((_BLOCK, n))
    projected = np.empty((_BLOCK, n))
    for first in range(0, len(values), _BLOCK):
        size = min(_BLOCK, len(values) - first)
        for b in range(size):
            mean[first + b] = _covary_row(covariance[b], values[first + b], rows, weights, kernel)
        _multiply_factor(projected, covariance, factor, size)
        for b in range(size):
            spread[first + b] = _compute_spread(projected[b], values[first + b], kernel)
    return mean, spread


@numba.njit(cache=True)
def _covary_row(covariance, row, rows, weights, kernel):
    """Fills the covariances (n,) of a row (d,) with the training rows, and returns its mean."""
    amplitude = kernel[0]
    length = kernel[1]
    linear = kernel[2]
    offset = kernel[3]
    mean = 0.0
    for j in range(len(rows)):
        square = 0.0
        product = 0.0
        for f in range(rows.shape[1]):
            square += (row[f] - rows[j, f]) ** 2
            product += row[f] * rows[j, f]
        r = np.sqrt(3 * square) / length
        covariance[j] = amplitude * (1 + r) * np.exp(-r) + linear * product + offset
        mean += covariance[j] * weights[j]
    return mean


@numba.njit(cache=True)
def _multiply_factor(projected, covariance, factor, size):
    """Fills `projected` (_BLOCK, n) with the product of `size` covariances and the upper triangle `factor`."""
    n = len(factor)
    projected[:] = 0.0
    for j in range(n):
        column = factor[j, j:]
        for b in range(size):
            target = projected[b, j:]
            covariance_entry = covariance[b, j]
            for m in range(n - j):
                target[m] += column[m] * covariance_entry


@numba.njit(cache=True)
def _compute_spread(projected, row, kernel):
    """Standard deviation of the prediction for a row (d,), noise included."""
    linear = kernel[2]
    variance = kernel[0] + kernel[3] + kernel[4]  # amplitude, offset and noise
    for f in range(len(row)):
        variance += linear * row[f] * row[f]
    for j in range(len(projected)):
        variance -= projected[j] * projected[j]
    return np.sqrt(max(variance, 0.0))
