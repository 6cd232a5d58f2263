"""The power law of learning curves: what was put in comes out, and the labels that a target needs reach it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emqa_dask.uncertainty.learning_curve import (
    LearningCurve,
    compute_labels_needed,
    fit_learning_curve,
    predict_accuracy,
)

N = np.array([100, 200, 400, 800, 1600])


@given(st.floats(0, 0.2), st.floats(1, 5), st.floats(0.3, 1.2))
def test_a_law_is_recovered_and_predicts_labels_for_targets(floor, loss, exponent):
    law = LearningCurve(floor, loss, exponent)
    seen = predict_accuracy(law, N)
    if seen.min() <= 0:
        return
    found = fit_learning_curve(N, seen)
    assert predict_accuracy(found, N) == pytest.approx(seen, abs=1e-6)
    for n in (150, 1000, 3000):
        target = float(predict_accuracy(law, n))
        assert compute_labels_needed(law, target) == pytest.approx(n, rel=1e-6)
        assert predict_accuracy(found, compute_labels_needed(found, target)) == pytest.approx(target, abs=1e-9)


def test_overconfident_curves_need_fewer_labels_and_noisy_ones_similar():
    law = LearningCurve(0.02, 3.0, 0.5)
    rng = np.random.default_rng(0)
    noisy = fit_learning_curve(N, predict_accuracy(law, N) + rng.normal(0, 0.003, len(N)))
    assert compute_labels_needed(noisy, 0.9) == pytest.approx(compute_labels_needed(law, 0.9), rel=0.15)
    overconfident = fit_learning_curve(N, predict_accuracy(law, N) + 0.03)
    assert compute_labels_needed(overconfident, 0.9) < compute_labels_needed(law, 0.9)


def test_higher_targets_need_more_labels_up_to_the_floor():
    law = LearningCurve(0.05, 3.0, 0.5)
    needed = [compute_labels_needed(law, target) for target in (0.6, 0.8, 0.9, 0.94)]
    assert needed == sorted(needed)
    assert np.all(np.diff(needed) > 0)
    assert compute_labels_needed(law, 0.95) == compute_labels_needed(law, 0.99) == np.inf


def test_a_curve_that_falls_is_taken_as_flat():
    found = fit_learning_curve(N, [0.8, 0.79, 0.78, 0.77, 0.76])
    assert found.loss == pytest.approx(0, abs=1e-6)
    assert compute_labels_needed(LearningCurve(0.22, 0.0, 1.0), 0.7) == 1
    assert compute_labels_needed(found, 0.9) == np.inf


@pytest.mark.parametrize(
    ("n", "accuracy", "said"),
    [
        ([1, 2], [0.1, 0.2], "three"),
        ([5, 5, 5, 9], [0.1, 0.1, 0.1, 0.2], "three"),
        ([1, 2, 0], [0.1, 0.2, 0.3], "number of labels 0 at place 2"),
        ([1, 2, 3], [0.1, np.nan, 0.3], "accuracy nan at place 1"),
        ([1, 2, 3], [0.1, 0.2, 92], "accuracy 92 at place 2"),
    ],
)
def test_what_is_no_curve_is_refused(n, accuracy, said):
    with pytest.raises(ValueError, match=said):
        fit_learning_curve(n, accuracy)


@pytest.mark.parametrize("target", [0, 1, 92, np.nan])
def test_a_target_is_a_share(target):
    with pytest.raises(ValueError, match="between 0 and 1"):
        compute_labels_needed(LearningCurve(0, 1, 1), target)
