"""Exact SHAP values of tree ensembles and of Gaussian processes, by compiled loops."""

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from emqa_dask.predict.gaussian_process import GaussianProcess, predict_gaussian_process
from emqa_dask.predict.trees import TreeEnsemble, predict_tree_ensemble, scale_features

MAX_FEATURES = 63  # of a tree ensemble: each has a bit in the masks of a walk
MAX_GROUPS = 12  # of a Gaussian process: 2^12 coalitions
STACK_SIZE = 4096  # nodes that a walk through one tree can put off


def compute_shapley_weights(n: int) -> NDArray[np.float64]:
    """w[a, b] = (a - 1)! b! / (a + b)!, a + b < n: Shapley's weight of a coalition of a players, b left out."""
    weights = np.zeros((n, n))
    for a in range(1, n):
        weights[a, 0] = 1 / a
        for b in range(1, n - a):
            weights[a, b] = weights[a, b - 1] * b / (a + b)
    return weights


_WEIGHTS = compute_shapley_weights(MAX_FEATURES + 1)  # of a leaf that needs a features of the row, b of the background


def compute_tree_shap_values(
    trees: TreeEnsemble, values: NDArray, background: NDArray
) -> tuple[NDArray[np.float64], float]:
    """Exact interventional SHAP values (n, d) of n rows against b background rows (b, d), and their base.

    Each row's values and the base, the mean prediction of the background, sum to the row's prediction (Lundberg et
    al., Nature Machine Intelligence 2 (2020) 56). A walk through a tree branches only where row and background go to
    different nodes: 0.07 ms per row, background row and the published forest of 100 deep trees. At most MAX_FEATURES.
    """
    if values.shape[1] > MAX_FEATURES:
        raise ValueError(f"{values.shape[1]} features: at most {MAX_FEATURES} have a bit in the masks of a walk")
    effects = _explain_trees(
        scale_features(trees, values),
        scale_features(trees, background),
        trees.roots,
        trees.feature,
        trees.threshold,
        trees.children,
        trees.value,
        _WEIGHTS,
    )
    return effects, float(predict_tree_ensemble(trees, background)[0].mean())


@numba.njit(cache=True)
def _explain_trees(values, background, roots, feature, threshold, children, value, weights):
    """SHAP values (n, d), mean over the background rows."""
    effects = np.zeros(values.shape)
    nodes = np.empty(STACK_SIZE, np.int64)
    masks = np.empty((STACK_SIZE, 2), np.int64)  # features that came from the row, and from the background
    counts = np.empty((STACK_SIZE, 2), np.int64)
    for i in range(len(values)):
        for j in range(len(background)):
            for root in roots:
                _walk_tree(
                    effects[i], values[i], background[j], root, feature, threshold, children, value, weights,
                    nodes, masks, counts,
                )  # fmt: skip
    return effects / len(background)


@numba.njit(cache=True)
def _walk_tree(effects, row, other, root, feature, threshold, children, value, weights, nodes, masks, counts):
    """Adds the effects (d,) of one tree for a `row` and an `other` of the background; nodes, masks, counts: a stack."""
    top = 0
    nodes[0] = root
    masks[0] = 0
    counts[0] = 0
    while top >= 0:
        node = nodes[top]
        row_mask = masks[top, 0]
        other_mask = masks[top, 1]
        n_row = counts[top, 0]
        n_other = counts[top, 1]
        top -= 1
        f = feature[node]
        while f >= 0:
            row_node = children[node, 0 if row[f] <= threshold[node] else 1]
            other_node = children[node, 0 if other[f] <= threshold[node] else 1]
            if row_node == other_node or (row_mask >> f) & 1:
                node = row_node
            elif (other_mask >> f) & 1:
                node = other_node
            else:
                top += 1
                nodes[top] = other_node
                masks[top, 0] = row_mask
                masks[top, 1] = other_mask | (1 << f)
                counts[top, 0] = n_row
                counts[top, 1] = n_other + 1
                node = row_node
                row_mask = row_mask | (1 << f)
                n_row = n_row + 1
            f = feature[node]
        if n_row > 0:
            _add_to_features(effects, row_mask, value[node] * weights[n_row, n_other])
        if n_other > 0:
            _add_to_features(effects, other_mask, -value[node] * weights[n_other, n_row])


@numba.njit(cache=True)
def _add_to_features(effects, mask, effect):
    """Adds `effect` to the features (d,) whose bits are set in `mask`."""
    for k in range(len(effects)):
        if (mask >> k) & 1:
            effects[k] += effect


def compute_process_shap_values(
    model: GaussianProcess, values: NDArray, background: NDArray, players: ArrayLike
) -> tuple[NDArray[np.float64], float]:
    """Exact Shapley values (n, k) of n rows (n, d) against b background rows (b, d), and their base.

    players: (d,), 0...k-1: the group of each feature; all 2^k coalitions of the groups are computed, k at most
    MAX_GROUPS. A group's part of the squared distance to a training row does not depend on the others, so a coalition
    is a sum. Values and base, the mean prediction of the background, sum to the row's prediction.
    """
    players = np.asarray(players, dtype=np.int64)
    n_groups = int(players.max()) + 1
    if n_groups > MAX_GROUPS:
        raise ValueError(f"{n_groups} groups of features have too many coalitions: at most {MAX_GROUPS}")
    is_member = (np.arange(2**n_groups)[:, None] >> np.arange(n_groups)) & 1  # coalitions x groups
    size = is_member.sum(axis=1)
    weights = compute_shapley_weights(n_groups + 1)
    # Shapley's weight of a coalition, + where the group belongs to it and - where it does not.
    with_group = weights[size, n_groups - size][:, None]
    without_group = -weights[n_groups - size, size][:, None]
    signed_weights = np.where(is_member, with_group, without_group)
    scaled = (np.asarray(values, dtype=np.float64) - model.centre) / model.scale
    background_rows = (np.asarray(background, dtype=np.float64) - model.centre) / model.scale
    effects = _explain_process(
        scaled, background_rows, model.rows, model.weights, model.kernel, players, signed_weights
    )
    return effects * model.target[1], float(predict_gaussian_process(model, background)[0].mean())


@numba.njit(cache=True)
def _explain_process(values, background, rows, weights, kernel, players, signed_weights):
    """Shapley values (n, k), mean over the background rows, in units of the targets' standard deviation."""
    amplitude = kernel[0]
    length = kernel[1]
    linear = kernel[2]
    n_coalitions, n_groups = signed_weights.shape
    n, d = rows.shape
    effects = np.zeros((len(values), n_groups))
    totals = np.empty(n_coalitions)  # of every coalition: the sum over all training rows
    squares = np.empty((n_coalitions, n))
    buffer = np.empty(n)
    power = np.empty(n, np.int64)
    row_factors = np.empty((n_groups, n))
    background_factors = np.zeros((len(background), n_groups, n))
    for b in range(len(background)):
        _add_group_squares(background_factors[b], background[b], rows, players)
    slopes = np.zeros(d)  # of the linear part: a feature's own, whatever the coalition
    for f in range(d):
        for j in range(n):
            slopes[f] += linear * weights[j] * rows[j, f]
    for i in range(len(values)):
        row_factors[:] = 0.0
        _add_group_squares(row_factors, values[i], rows, players)
        totals[:] = 0.0
        for b in range(len(background)):
            for f in range(d):
                effects[i, players[f]] += slopes[f] * (values[i, f] - background[b, f])
            _fill_coalition_squares(squares, row_factors, background_factors[b])
            for c in range(n_coalitions):
                totals[c] += amplitude * _sum_matern(squares[c], weights, length, buffer, power)
        for c in range(n_coalitions):
            for g in range(n_groups):
                effects[i, g] += signed_weights[c, g] * totals[c]
    return effects / len(background)


@numba.njit(cache=True)
def _add_group_squares(squares, row, rows, players):
    """Adds to (k, n) the groups' parts of the squared distances of a row (d,) to n training rows."""
    for f in range(rows.shape[1]):
        group = squares[players[f]]
        for j in range(len(rows)):
            group[j] += (row[f] - rows[j, f]) ** 2


@numba.njit(cache=True)
def _fill_coalition_squares(squares, own, other):
    """Squared distances (2^k, n) of every coalition: groups in it from `own` (k, n), the others from `other` (k, n)."""
    squares[0] = 0.0
    for g in range(len(own)):
        squares[0] += other[g]
    for g in range(len(own)):  # a coalition that g joins, from the one without it
        step = 1 << g
        gain = own[g]
        loss = other[g]
        for c in range(step):
            smaller = squares[c]
            larger = squares[c + step]
            for j in range(len(smaller)):
                larger[j] = smaller[j] + gain[j] - loss[j]


@numba.njit(cache=True)
def _sum_matern(squares, weights, length, buffer, power):
    """Weighted sum of (1 + r) exp(-r) over n training rows at squared distances (n,); the last two are buffers."""
    for j in range(len(squares)):
        r = min(np.sqrt(3 * max(squares[j], 0.0)) / length, 700.0)
        fraction, exponent = _split_exp(-r)
        buffer[j] = weights[j] * (1 + r) * (1 + fraction)
        power[j] = (np.int64(exponent) + 1023) << 52  # the bits of 2^exponent as a float64
    powers = power.view(np.float64)
    total = 0.0
    for j in range(len(squares)):
        total += buffer[j] * powers[j]
    return total


# their sum is ln 2 (fdlibm)
_LN2_HIGH = 6.93147180369123816490e-01
_LN2_LOW = 1.90821492927058770002e-10


@numba.njit(inline="always")
def _split_exp(x):
    """exp(x) = (first + 1) 2^second for -700 <= x <= 0, to 2e-16: plain arithmetic, which a compiler vectorises."""
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
