"""Labels needed for a target: the known answer of made curves, its interval, and curves that never reach it."""

import numpy as np
import pytest

from emqa_dask.uncertainty.curve_points import CurvePoint, estimate_curve_labels, tabulate_curve
from emqa_dask.uncertainty.held_out_scores import compute_held_out_scores
from emqa_dask.uncertainty.labels_needed import describe_labels_needed, estimate_labels_needed

N_LABELS = (20, 40, 80, 160, 320)


def probabilities(accuracy, n=1000, seed=0, members=1):
    """Certain and calibrated predictions (members, n, 2) of class 0, a share `accuracy` of which are right."""
    is_right = np.arange(n) < round(accuracy * n)
    order = np.random.default_rng(seed).permutation(n)
    p = np.where(is_right[order], accuracy, 1 - accuracy)
    return np.tile(np.stack([p, 1 - p], axis=1), (members, 1, 1))


def law(floor=0.02, loss=2.0):
    """Probabilities along the power law accuracy = 1 - floor - loss / n."""
    return [probabilities(1 - floor - loss / n, seed=n) for n in N_LABELS]


def test_the_answer_of_a_known_law_is_in_its_interval():
    y = np.zeros(1000, int)
    needed = estimate_labels_needed(N_LABELS, law(), y, np.arange(1000), 0.96, n_resamples=50)
    assert needed.n_labels == pytest.approx(100, rel=0.1)  # 0.02 + 2 / 100
    assert needed.low < 100 < needed.high
    assert "needs about 99 labels" in describe_labels_needed(needed)
    assert "extrapolated" not in describe_labels_needed(needed)


def test_confidence_of_calibrated_predictions_gives_the_same_answer():
    y = np.zeros(1000, int)
    by_labels = estimate_labels_needed(N_LABELS, law(), y, np.arange(1000), 0.96, n_resamples=5)
    without = estimate_labels_needed(N_LABELS, law(), None, np.arange(1000), 0.96, n_resamples=5)
    assert without.n_labels == pytest.approx(by_labels.n_labels, rel=0.05)


def test_a_target_above_the_ceiling_is_not_reached():
    y = np.zeros(1000, int)
    needed = estimate_labels_needed(N_LABELS, law(floor=0.1), y, np.arange(1000), 0.99, n_resamples=20)
    assert np.isinf(needed.n_labels)
    assert "is not reached with up to 3200 labels" in describe_labels_needed(needed)


def test_a_target_below_the_curve_needs_its_fewest_labels():
    flat = [probabilities(0.95, seed=n) for n in N_LABELS]
    needed = estimate_labels_needed(N_LABELS, flat, np.zeros(1000, int), np.arange(1000), 0.9, n_resamples=20)
    assert (needed.n_labels, needed.low, needed.high) == (20, 20, 20)
    assert "is reached with 20 labels, the fewest of the curve" in describe_labels_needed(needed)


def test_fewer_groups_give_a_wider_interval():
    y = np.zeros(1000, int)
    rows = [
        estimate_labels_needed(N_LABELS, law(), y, groups, 0.96) for groups in (np.arange(1000), np.arange(1000) // 100)
    ]
    assert np.log(rows[1].high / rows[1].low) > np.log(rows[0].high / rows[0].low)


def test_a_curve_table_has_accuracy_and_confidence():
    points = [CurvePoint(n / 320, n, p, p) for n, p in zip(N_LABELS, law())]
    y = np.zeros(1000, int)
    table = tabulate_curve(points, y)
    np.testing.assert_allclose(table["accuracy"], 1 - 0.02 - 2 / table["n_labels"], atol=6e-4)
    np.testing.assert_allclose(table["confidence"], table["accuracy"], atol=1e-3)
    groups = np.arange(1000)
    assert set(estimate_curve_labels(points, y, groups, groups, 0.9, n_resamples=3)) == {"accuracy", "confidence"}
    assert estimate_curve_labels(points[:2], y, groups, groups, 0.9) == {}


def test_scores_of_a_calibrated_predictor():
    rng = np.random.default_rng(3)
    confidence = rng.uniform(0.5, 1, 40_000)
    p = np.stack([confidence, 1 - confidence], axis=1)
    y = (rng.random(40_000) > confidence).astype(int)
    scores = compute_held_out_scores(p[None], y)
    assert scores["ece"] < 0.01
    assert scores["accuracy"] == pytest.approx(0.75, abs=0.01)
    assert scores["confidence"] == pytest.approx(scores["accuracy"], abs=0.01)
    assert scores["temperature"] == pytest.approx(1, abs=0.05)
    assert scores["error_at_90_percent_coverage"] < 1 - scores["accuracy"]
    # Of the most certain share c the confidence is uniform in 1 - c / 2 to 1, so the mean error is c / 4.
    assert scores["risk_coverage_area"] == pytest.approx(0.125, abs=0.01)
