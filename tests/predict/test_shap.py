"""Our compiled SHAP values are those of the shap package: of trees, and of a Gaussian process as a black box."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from emqa_dask.predict import feature_ranking, reasons, regressors, shap_values, trees

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of matplotlib, about what shap asks of it
    import shap

N_FEATURES = 6


def drawn(seed=0, n=90, d=N_FEATURES):
    rng = np.random.default_rng(seed)
    values = rng.uniform(size=(n, d)) * np.logspace(-1, 2, d)
    scaled = values / np.logspace(-1, 2, d)
    return values, scaled[:, 0] * scaled[:, 1] + 0.2 * np.sin(5 * scaled[:, 2]) + rng.normal(0, 0.05, n)


@pytest.mark.parametrize("model", [RandomForestRegressor(30), ExtraTreesRegressor(30, min_samples_leaf=3)])
def test_values_of_trees_are_those_of_the_tree_explainer(model):
    values, targets = drawn()
    pipeline = make_pipeline(StandardScaler(), model.set_params(random_state=0)).fit(values, targets)
    rows = values[20:50]
    background = values[:20]
    found, base = shap_values.compute_tree_shap_values(trees.convert_pipeline(pipeline), rows, background)
    scaler, fitted = pipeline
    known = shap.TreeExplainer(fitted, data=scaler.transform(background), feature_perturbation="interventional")
    np.testing.assert_allclose(found, known.shap_values(scaler.transform(rows)), atol=1e-6)
    assert base == pytest.approx(float(np.ravel(known.expected_value)[0]), abs=1e-6)


@pytest.mark.parametrize("kind", ["gaussian_process", "boosting"])
def test_black_box_values_equal_the_exact_explainer(kind):
    """The names are of no concept, so that every feature is a player."""
    columns = tuple("abcd")
    values, targets = drawn(1, d=len(columns))
    model = regressors.fit_regressor(kind, values, targets, columns)
    rows = values[20:26]
    background = values[:5]
    found, base = reasons.compute_group_shap_values(model, columns, rows, background)

    def predict(rows):
        return regressors.predict_regressor(model, np.asarray(rows, dtype=np.float64))[0]

    masker = shap.maskers.Independent(background, max_samples=len(background))
    known = shap.explainers.Exact(predict, masker)(rows)
    np.testing.assert_allclose(found, known.values, atol=1e-9)
    np.testing.assert_allclose(known.base_values, base, atol=1e-9)


def test_the_ranking_is_by_shaps_own_mean_magnitudes():
    values, targets = drawn(2)
    columns = tuple("abcdef")
    features = pd.DataFrame(values, columns=columns)
    ranking = feature_ranking.rank_features(features, targets, columns)
    scaler = StandardScaler().fit(values)
    forest = RandomForestRegressor(100, random_state=0, n_jobs=1).fit(scaler.transform(values), targets)
    background = values[np.random.default_rng(0).permutation(len(values))[:50]]
    explainer = shap.TreeExplainer(forest, data=scaler.transform(background), feature_perturbation="interventional")
    size = np.abs(explainer.shap_values(scaler.transform(values))).mean(axis=0)
    assert ranking.columns == tuple(columns[i] for i in np.argsort(-size, kind="stable"))
    np.testing.assert_allclose(ranking.importance, np.sort(size)[::-1], atol=1e-6)
