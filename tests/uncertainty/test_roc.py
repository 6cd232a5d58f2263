"""ROC curves: known ones, scikit-learn's, and their interval by groups."""

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from emqa_dask.uncertainty.roc import compute_group_interval, compute_roc_curve


def test_a_curve_by_hand():
    curve = compute_roc_curve([0.9, 0.8, 0.8, 0.1], [True, True, False, False])
    np.testing.assert_allclose(curve.false_positive_rate, [0, 0, 0.5, 1])
    np.testing.assert_allclose(curve.true_positive_rate, [0, 0.5, 1, 1])
    np.testing.assert_allclose(curve.threshold, [np.inf, 0.9, 0.8, 0.1])
    assert curve.area == 0.875  # of 4 pairs 3 are in order, 1 is a tie


def test_the_curve_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    is_positive = rng.random(300) < 0.4
    score = np.round(rng.normal(is_positive, 1), 1)
    curve = compute_roc_curve(score, is_positive)
    false_rate, true_rate, threshold = roc_curve(is_positive, score, drop_intermediate=False)
    np.testing.assert_allclose(curve.false_positive_rate, false_rate)
    np.testing.assert_allclose(curve.true_positive_rate, true_rate)
    np.testing.assert_allclose(curve.threshold, threshold)
    assert curve.area == pytest.approx(np.trapezoid(true_rate, false_rate))


def test_identical_distributions_have_an_area_of_one_half():
    score = np.tile(np.random.default_rng(1).random(50), 2)
    is_positive = np.repeat([True, False], 50)
    curve = compute_roc_curve(score, is_positive)
    assert curve.area == 0.5
    np.testing.assert_allclose(curve.true_positive_rate, curve.false_positive_rate)
    low, high = compute_group_interval(score, is_positive, np.arange(100))
    assert low < 0.5 < high


def test_groups_widen_the_interval_where_their_rows_agree():
    rng = np.random.default_rng(2)
    is_positive = np.repeat([True, False], 200)
    groups = np.repeat(np.arange(40), 10)
    score = np.repeat(rng.normal(np.repeat([0.7, 0], 20), 1), 10)
    alone = compute_group_interval(score, is_positive, np.arange(400))
    together = compute_group_interval(score, is_positive, groups)
    assert together[1] - together[0] > 1.5 * (alone[1] - alone[0])


def test_one_kind_of_rows_makes_no_curve():
    with pytest.raises(ValueError, match="positive and negative"):
        compute_roc_curve([0.1, 0.2], [True, True])
