"""Ensembles of regression trees as plain arrays: mean, and spread over the trees, by compiled loops.

A fitted scikit-learn forest, extra trees or histogram gradient boosting becomes seven arrays, which a safetensors file
holds: nothing is unpickled, and a process that predicts imports neither scikit-learn nor shap.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TreeEnsemble:
    """k trees of m nodes in all; a row goes left where its scaled feature is at most the threshold."""

    centre: NDArray[np.float64]  # (d,), subtracted from the features
    scale: NDArray[np.float64]  # (d,), divisor of the centred features
    roots: NDArray[np.int32]  # (k,), each tree's first node
    feature: NDArray[np.int32]  # (m,), -1 at a leaf
    threshold: NDArray[np.float64]  # (m,)
    children: NDArray[np.int32]  # (m, 2), left and right
    value: NDArray[np.float64]  # (m,), at leaves: added to the prediction
    offset: NDArray[np.float64]  # (1,), added to the sum over trees
    is_mean: bool  # a mean over independent trees, whose standard deviation is the spread; False: boosted trees


class _Tree(NamedTuple):
    """One tree of m nodes."""

    feature: NDArray  # (m,)
    threshold: NDArray  # (m,)
    left: NDArray  # (m,), node numbers in this tree
    right: NDArray  # (m,)
    value: NDArray  # (m,), at leaves: added to the prediction
    is_leaf: NDArray  # (m,)


def convert_pipeline(pipeline) -> TreeEnsemble:
    """The trees of a fitted scikit-learn pipeline of a StandardScaler and a forest, extra trees or boosting.

    Leaves of forests are divided by the number of trees, so that the prediction is a sum in both cases.
    """
    scaler = pipeline[0]
    model = pipeline[-1]
    is_mean = hasattr(model, "estimators_")
    trees = _list_forest_trees(model) if is_mean else _list_boosted_trees(model)
    starts = np.cumsum([0] + [len(tree.feature) for tree in trees])
    children = [np.column_stack([tree.left, tree.right]).astype(np.int64) + start for tree, start in zip(trees, starts)]
    is_leaf = np.concatenate([tree.is_leaf for tree in trees])
    feature = np.concatenate([tree.feature for tree in trees])
    return TreeEnsemble(
        centre=np.asarray(scaler.mean_, float),
        scale=np.asarray(scaler.scale_, float),
        roots=starts[:-1].astype(np.int32),
        feature=np.where(is_leaf, -1, feature).astype(np.int32),
        threshold=np.concatenate([tree.threshold for tree in trees]).astype(np.float64),
        children=np.where(is_leaf[:, None], 0, np.concatenate(children)).astype(np.int32),
        value=np.concatenate([tree.value for tree in trees]).astype(np.float64),
        offset=np.array([0.0 if is_mean else float(np.ravel(model._baseline_prediction)[0])]),
        is_mean=is_mean,
    )


def _list_forest_trees(model) -> list[_Tree]:
    """The trees of a forest or of extra trees."""
    trees = [estimator.tree_ for estimator in model.estimators_]
    n = len(trees)
    return [
        _Tree(t.feature, t.threshold, t.children_left, t.children_right, t.value[:, 0, 0] / n, t.feature < 0)
        for t in trees
    ]


def _list_boosted_trees(model) -> list[_Tree]:
    """The trees of a histogram gradient boosting."""
    tables = [predictor.nodes for (predictor,) in model._predictors]
    return [
        _Tree(t["feature_idx"], t["num_threshold"], t["left"], t["right"], t["value"], t["is_leaf"].astype(bool))
        for t in tables
    ]


def predict_tree_ensemble(trees: TreeEnsemble, values: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Prediction and standard deviation (ddof = 0) over the trees for n rows of finite features (n, d).

    A row's result does not depend on the other rows. The spread of boosted trees is 0: they are not independent.
    """
    scaled = scale_features(trees, values)
    total, squares = _sum_trees(scaled, trees.roots, trees.feature, trees.threshold, trees.children, trees.value)
    n_trees = len(trees.roots)
    spread = np.sqrt(np.maximum(squares * n_trees - total**2, 0)) if trees.is_mean else np.zeros(len(total))
    return total + trees.offset[0], spread


def scale_features(trees: TreeEnsemble, values: NDArray) -> NDArray[np.float64]:
    """Features (n, d) as the trees' thresholds compare them."""
    scaled = (np.asarray(values, dtype=np.float64) - trees.centre) / trees.scale
    # Forests were fitted to float32 features, and compare these with their thresholds.
    return scaled.astype(np.float32).astype(np.float64) if trees.is_mean else scaled


@numba.njit(cache=True)
def _sum_trees(values, roots, feature, threshold, children, value):
    """Sum of the trees' leaves, and of their squares, each (n,), for n scaled rows (n, d)."""
    total = np.zeros(len(values))
    squares = np.zeros(len(values))
    for i in range(len(values)):
        for root in roots:
            node = root
            while feature[node] >= 0:
                node = children[node, 0 if values[i, feature[node]] <= threshold[node] else 1]
            total[i] += value[node]
            squares[i] += value[node] ** 2
    return total, squares
