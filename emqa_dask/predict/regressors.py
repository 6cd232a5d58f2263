"""Regressors that predict a detector's F1, precision or recall from features."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emqa_dask.predict import gaussian_process, trees
from emqa_dask.predict.gaussian_process import GaussianProcess
from emqa_dask.predict.trees import TreeEnsemble

N_TREES = 100  # as published
KINDS = ("forest", "extra_trees", "boosting", "gaussian_process", "mixed_gaussian_process")
Regressor = TreeEnsemble | GaussianProcess

# Signs of the monotonic boosting: more high scores and more stable boxes mean better detections, more scores just above
# the floor worse ones.
_SIGNS = {
    "score_fraction_0": -1,
    "score_fraction_1": -1,
    "score_fraction_8": 1,
    "mean_score": 1,
    "image_confidence": 1,
    "mean_stability": 1,
    "mean_class_margin": 1,
}


def fit_regressor(
    kind: str, values: NDArray, targets: NDArray, columns: Sequence[str], seed: int = 0, groups: ArrayLike | None = None
) -> Regressor:
    """A regressor of one of KINDS fitted to n rows of finite features (n, d), targets (n,) and the features' names.

    `forest`: the published model, StandardScaler and 100 trees (Li et al., Digital Discovery 4 (2025) 987).
    `extra_trees`: 100 trees with at least 5 rows in a leaf. `boosting`: histogram gradient boosting that never falls
    with confidence. `gaussian_process`: see predict.gaussian_process. `mixed_gaussian_process`: the same with an
    offset of each of the `groups` (n,), for images of new groups; the other kinds ignore groups. Raises ValueError for
    an unknown kind.
    """
    if kind == "gaussian_process":
        return gaussian_process.fit_gaussian_process(values, targets, seed)
    if kind == "mixed_gaussian_process":
        return gaussian_process.fit_gaussian_process(values, targets, seed, groups)
    return trees.convert_pipeline(fit_pipeline(kind, values, targets, columns, seed))


def fit_pipeline(kind: str, values: NDArray, targets: NDArray, columns: Sequence[str], seed: int = 0):
    """The fitted scikit-learn pipeline, a scaler and trees, behind a regressor of trees of fit_regressor()."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = _create_trees(kind, len(values), columns, seed)
    return make_pipeline(StandardScaler(), model).fit(values, targets)


def _create_trees(kind: str, n_rows: int, columns: Sequence[str], seed: int):
    """An unfitted scikit-learn ensemble for `n_rows` rows; ValueError for an unknown kind."""
    from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor, RandomForestRegressor

    if kind == "forest":
        return RandomForestRegressor(N_TREES, random_state=seed, n_jobs=1)
    if kind == "extra_trees":
        return ExtraTreesRegressor(N_TREES, min_samples_leaf=min(5, 1 + n_rows // 20), random_state=seed, n_jobs=1)
    if kind == "boosting":
        return HistGradientBoostingRegressor(
            learning_rate=0.05,
            max_iter=150,
            max_leaf_nodes=8,
            min_samples_leaf=int(np.clip(n_rows // 20, 2, 15)),
            monotonic_cst=[_SIGNS.get(name, 0) for name in columns],
            early_stopping=False,
            random_state=seed,
        )
    raise ValueError(f"kind is {kind!r}: it is one of {', '.join(KINDS)}")


def predict_regressor(regressor: Regressor, values: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and spread for n rows of finite features (n, d); a row's result does not depend on the rows beside it."""
    if isinstance(regressor, TreeEnsemble):
        return trees.predict_tree_ensemble(regressor, values)
    return gaussian_process.predict_gaussian_process(regressor, values)
