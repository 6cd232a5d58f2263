"""A Gaussian process (Matern 3/2, linear, white noise, groups' offsets) as plain arrays: fit, prediction, SHAP values.

Predictions are made by compiled loops and not by matrix products, whose last bits depend on how many rows there are
and where they lie.
"""

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.linalg.lapack import dpotrf, dpotrs
from scipy.spatial.distance import cdist

MAX_ROWS = 1000  # the covariance's inverse factor is kept: 8 MB in double precision
_MAX_SEARCH = 400  # rows by which the five parameters are found: its time grows with their cube


@dataclass(frozen=True)
class GaussianProcess:
    """Training rows as scaled features, and what a prediction needs of them."""

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
    """The process of n rows of finite features (n, d) and targets (n,), its parameters of largest marginal likelihood.

    A length for all features together: with one for each, a few hundred rows are fitted too closely to hold for
    detectors and instruments that were not among them. With `groups` (n,), at least 3 of them, every group has an
    offset of its own, drawn from a normal distribution: what is peculiar to a group is not laid on its features, and
    the spread holds for a row of a new group. Of more than MAX_ROWS rows a random MAX_ROWS are used.
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
    standard = (targets - mean) / std
    some = np.sort(rng.permutation(len(rows))[:_MAX_SEARCH])
    parameters = _search(rows[some], standard[some], None if groups is None else groups[some])
    lower = cholesky(_covariance(parameters, *_pairs(rows, groups))[0], lower=True)
    amplitude, length, linear, offset, noise, between = parameters
    return GaussianProcess(
        centre,
        scale,
        np.ascontiguousarray(rows),
        cho_solve((lower, True), standard),
        np.ascontiguousarray(np.triu(solve_triangular(lower, np.eye(len(rows)), lower=True).T)),
        np.array([amplitude, length, linear, offset, noise + between]),
        np.array([mean, std]),
    )


# amplitude^2, length, linear^2, linear offset^2, noise^2, groups' offset^2: in units of the targets' variance.
_START = np.log([1.0, 2.0, 0.1, 0.1, 0.1, 0.05])
_BOUNDS = np.log([(1e-2, 1e2), (0.3, 100.0), (1e-5, 10.0), (1e-5, 10.0), (1e-3, 1.0), (1e-4, 2.0)])


def _pairs(rows: NDArray, groups: NDArray | None) -> tuple[NDArray, NDArray, NDArray | None]:
    """Distance, product and whether the group is the same, of all pairs of rows."""
    return cdist(rows, rows), rows @ rows.T, None if groups is None else np.equal.outer(groups, groups).astype(float)


def _covariance(parameters: NDArray, distance: NDArray, product: NDArray, same: NDArray | None) -> tuple[NDArray, ...]:
    """Covariance of all rows, its Matern part, and that part's slope by the logarithm of the length."""
    amplitude, length, linear, offset, noise, between = parameters
    r = np.sqrt(3) / length * distance
    fall = amplitude * np.exp(-r)
    matern = (1 + r) * fall
    whole = matern + linear * product + offset
    if same is not None:
        whole = whole + between * same
    whole[np.diag_indices_from(whole)] += noise
    return whole, matern, r * r * fall


def _search(rows: NDArray, standard: NDArray, groups: NDArray | None) -> NDArray[np.float64]:
    """The parameters of largest marginal likelihood, by its gradient in their logarithms (Rasmussen & Williams 5.9)."""
    from scipy.optimize import minimize  # what only predicts does well without

    pairs = _pairs(rows, groups)
    identity = np.eye(len(rows))

    def negative(logs: NDArray) -> tuple[float, NDArray]:
        parameters = np.exp(logs)
        whole, matern, stretched = _covariance(parameters, *pairs)
        # By LAPACK itself: around matrices of some labelled images SciPy's own functions take longer than these.
        factor, failed = dpotrf(whole, lower=1)
        if failed:
            return 1e10, np.zeros(len(logs))
        weights = dpotrs(factor, standard, lower=1)[0]
        inner = dpotrs(factor, identity, lower=1)[0] - np.outer(weights, weights)
        _, _, linear, offset, noise, between = parameters
        slopes = [
            np.vdot(inner, matern),
            np.vdot(inner, stretched),
            linear * np.vdot(inner, pairs[1]),
            offset * inner.sum(),
            noise * np.trace(inner),
            0.0 if pairs[2] is None else between * np.vdot(inner, pairs[2]),
        ]
        value = 0.5 * standard @ weights + np.log(np.diag(factor)).sum()
        return float(value), 0.5 * np.array(slopes)

    found = np.exp(minimize(negative, _START, jac=True, bounds=_BOUNDS, method="L-BFGS-B").x)
    if groups is None:
        found[5] = 0.0
    return found


def predict_gaussian_process(
    model: GaussianProcess, values: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation, noise included, for n rows of finite features (n, d)."""
    scaled = (np.asarray(values, dtype=np.float64) - model.centre) / model.scale
    mean, spread = _run(scaled, model.rows, model.weights, model.factor, model.kernel)
    return mean * model.target[1] + model.target[0], spread * model.target[1]


def compute_shap_values(
    model: GaussianProcess, values: NDArray, background: NDArray, player: ArrayLike
) -> tuple[NDArray[np.float64], float]:
    """Exact Shapley values (n, k) of n rows (n, d) against b background rows (b, d), and their base.

    player: (d,), 0...k-1: which of k groups of features a feature belongs to; all 2^k coalitions of the groups are
    tried, k at most 12. A group's part of the squared distance to a training row does not depend on the others, so a
    coalition is a sum. Values and base, the mean prediction of the background, sum to the row's prediction.
    """
    player = np.asarray(player, dtype=np.int64)
    k = int(player.max()) + 1
    if k > 12:
        raise ValueError(f"{k} groups of features have too many coalitions: at most 12")
    inside = (np.arange(2**k)[:, None] >> np.arange(k)) & 1  # coalitions x groups
    size = inside.sum(axis=1)
    weights = compute_shapley_weights(k + 1)
    # Shapley's weight of a coalition, + where the group belongs to it and - where it does not.
    signed = np.where(inside, weights[size, k - size][:, None], -weights[k - size, size][:, None])
    scaled, others = (
        (np.asarray(part, dtype=np.float64) - model.centre) / model.scale for part in (values, background)
    )
    found = _shap(scaled, others, model.rows, model.weights, model.kernel, player, inside, signed)
    return found * model.target[1], float(predict_gaussian_process(model, background)[0].mean())


def compute_shapley_weights(n: int) -> NDArray[np.float64]:
    """w[a, b] = (a - 1)! b! / (a + b)!, a + b < n: Shapley's weight of a coalition of a players, b left out."""
    w = np.zeros((n, n))
    for a in range(1, n):
        w[a, 0] = 1 / a
        for b in range(1, n - a):
            w[a, b] = w[a, b - 1] * b / (a + b)
    return w


_BLOCK = 8  # rows that go through the factor together: it is read from memory once for all of them


@numba.njit(cache=True)
def _run(x, rows, weights, factor, kernel):
    amplitude, length, linear, offset, noise = kernel
    n, d = rows.shape
    mean = np.zeros(len(x))
    spread = np.zeros(len(x))
    k = np.empty((_BLOCK, n))
    v = np.empty((_BLOCK, n))
    for first in range(0, len(x), _BLOCK):
        size = min(_BLOCK, len(x) - first)
        for b in range(size):
            i = first + b
            for j in range(n):
                square = 0.0
                product = 0.0
                for f in range(d):
                    square += (x[i, f] - rows[j, f]) ** 2
                    product += x[i, f] * rows[j, f]
                r = np.sqrt(3 * square) / length
                k[b, j] = amplitude * (1 + r) * np.exp(-r) + linear * product + offset
                mean[i] += k[b, j] * weights[j]
        v[:] = 0.0
        for j in range(n):
            column = factor[j, j:]
            for b in range(size):
                mine = v[b, j:]
                share = k[b, j]
                for m in range(n - j):
                    mine[m] += column[m] * share
        for b in range(size):
            i = first + b
            own = amplitude + offset + noise
            for f in range(d):
                own += linear * x[i, f] * x[i, f]
            for j in range(n):
                own -= v[b, j] * v[b, j]
            spread[i] = np.sqrt(max(own, 0.0))
    return mean, spread


# their sum is ln 2 (fdlibm)
_LN2_HIGH = 6.93147180369123816490e-01
_LN2_LOW = 1.90821492927058770002e-10


@numba.njit(inline="always")
def _exp_parts(x):
    """exp(x) = (first + 1) 2^second for -700 <= x <= 0, to 2e-16: plain arithmetic, which a compiler does in rows."""
    power = np.floor(x * 1.4426950408889634 + 0.5)
    r = x - power * _LN2_HIGH - power * _LN2_LOW
    series = 1 / 479001600 + r / 6227020800
    series = 1 / 39916800 + r * series
    series = 1 / 3628800 + r * series
    series = 1 / 362880 + r * series
    series = 1 / 40320 + r * series
    series = 1 / 5040 + r * series
    series = 1 / 720 + r * series
    series = 1 / 120 + r * series
    series = 1 / 24 + r * series
    series = 1 / 6 + r * series
    series = 0.5 + r * series
    return r + r * r * series, power


@numba.njit(cache=True)
def _shap(x, background, rows, weights, kernel, player, inside, signed):
    amplitude = kernel[0]
    length = kernel[1]
    linear = kernel[2]
    n, d = rows.shape
    c, k = inside.shape
    found = np.zeros((len(x), k))
    total = np.empty(c)  # of every coalition: what all training rows add
    square = np.empty((c, n))
    value = np.empty(n)
    power = np.empty(n, np.int64)
    two = power.view(np.float64)
    mine = np.empty((k, n))
    theirs = np.empty((len(background), k, n))
    theirs[:] = 0.0
    for b in range(len(background)):
        for f in range(d):
            for j in range(n):
                theirs[b, player[f], j] += (background[b, f] - rows[j, f]) ** 2
    pull = np.zeros(d)  # the linear part: a feature's own, whatever the coalition
    for f in range(d):
        for j in range(n):
            pull[f] += linear * weights[j] * rows[j, f]
    for i in range(len(x)):
        mine[:] = 0.0
        for f in range(d):
            own = mine[player[f]]
            for j in range(n):
                own[j] += (x[i, f] - rows[j, f]) ** 2
        total[:] = 0.0
        for b in range(len(background)):
            for f in range(d):
                found[i, player[f]] += pull[f] * (x[i, f] - background[b, f])
            square[0] = 0.0
            for g in range(k):
                square[0] += theirs[b, g]
            for g in range(k):  # a coalition that g joins, from the one without it
                step = 1 << g
                gain = mine[g]
                loss = theirs[b, g]
                for s in range(step):
                    before = square[s]
                    after = square[s + step]
                    for j in range(n):
                        after[j] = before[j] + gain[j] - loss[j]
            for s in range(c):
                of = square[s]
                for j in range(n):
                    r = min(np.sqrt(3 * max(of[j], 0.0)) / length, 700.0)
                    part, exponent = _exp_parts(-r)
                    value[j] = weights[j] * (1 + r) * (1 + part)
                    power[j] = (np.int64(exponent) + 1023) << 52
                added = 0.0
                for j in range(n):
                    added += value[j] * two[j]
                total[s] += amplitude * added
        for s in range(c):
            for g in range(k):
                found[i, g] += signed[s, g] * total[s]
    return found / len(background)
