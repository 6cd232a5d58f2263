"""Ratios and quantiles over a group from few labels and many detections: values, intervals, cases without answer."""

import numpy as np
import pytest
from scipy import stats

from emqa_dask.measure.estimation import (
    Design,
    count_further_labels,
    define_simple_design,
    define_stratified_design,
    estimate_ratio,
    reduce_degrees,
    span_interval,
)


def draw_group(rng, n_images=2000, n_sessions=8):
    """Totals of a group: true and predicted (N, 2) objects and area, and (N,) sessions; the bias is the session's."""
    sessions = rng.integers(0, n_sessions, n_images)
    area = rng.choice([0.5, 1.0], n_sessions)[sessions]
    n_objects = rng.poisson(30 * np.exp(rng.normal(0, 0.4, n_sessions))[sessions] * area * rng.gamma(4, 0.25, n_images))
    hits = rng.binomial(n_objects, rng.uniform(0.5, 0.95, n_sessions)[sessions])
    n_detections = hits + rng.poisson(rng.uniform(1, 8, n_sessions)[sessions])
    return np.column_stack([n_objects, area]), np.column_stack([n_detections, area]), sessions


def solve_slowly(true_totals, predicted_totals, reviewed, probabilities):
    """The tuned ratio of a single stratum in plain steps."""
    y, z = true_totals[reviewed].T
    weights = 1 / probabilities * len(true_totals) / (1 / probabilities).sum()
    predicted_ratio = predicted_totals[:, 0].sum() / predicted_totals[:, 1].sum()
    a = (predicted_totals[:, 0] - predicted_ratio * predicted_totals[:, 1])[reviewed]
    q = weights**2 * (1 - probabilities)
    ratio = weights @ y / (weights @ z)
    a_centered = a - q @ a / q.sum()
    for _ in range(2):
        tuning = q @ ((y - ratio * z) * a_centered) / (q @ a_centered**2)
        ratio = (weights @ y - tuning * (weights @ a)) / (weights @ z)
    return ratio


def test_without_detections_equals_textbook_ratio_and_mean():
    rng = np.random.default_rng(0)
    n_objects = rng.poisson(20, 12).astype(float)
    design = define_simple_design(12, np.arange(5))
    estimate = estimate_ratio(design, np.column_stack([n_objects[:5], np.ones(5)]))
    sample = n_objects[:5]
    assert estimate.value == pytest.approx(sample.mean())
    assert estimate.standard_error == pytest.approx(np.sqrt((1 - 5 / 12) * sample.var(ddof=1) / 5))
    excess = stats.kurtosis(sample, bias=False)
    degrees = 2 / (2 / 4 + max(excess, 0) / 5)
    influences = [-np.log(np.delete(sample, k).mean()) for k in range(5)]
    shift = stats.skew(influences, bias=False) * (2 * stats.t.ppf(0.975, 4) ** 2 + 1) / (6 * np.sqrt(5))
    margins = stats.t.ppf(0.975, degrees) + np.array([max(-shift, 0), max(shift, 0)])
    ends = sample.mean() * np.exp(margins * [-1, 1] * estimate.standard_error / sample.mean())
    assert (estimate.low, estimate.high) == pytest.approx(ends)


def test_delete_one_ratios_equal_plain_steps_with_probabilities():
    rng = np.random.default_rng(1)
    true_totals, predicted_totals, _ = draw_group(rng, 200)
    reviewed = rng.choice(200, 20, replace=False)
    probabilities = rng.uniform(0.05, 0.2, 20)
    design = Design(200, reviewed, probabilities, np.zeros(20, int))
    estimate = estimate_ratio(design, true_totals[reviewed], predicted_totals)
    assert estimate.value == pytest.approx(solve_slowly(true_totals, predicted_totals, reviewed, probabilities))
    deletions = np.array(
        [
            solve_slowly(true_totals, predicted_totals, np.delete(reviewed, k), np.delete(probabilities, k))
            for k in range(20)
        ]
    )
    terms = 19 / 20 * (1 - probabilities) * (deletions - deletions.mean()) ** 2
    # The plain steps scale the weights to the group, the variance weights by their square: the ratio is the same.
    assert estimate.standard_error == pytest.approx(np.sqrt(terms.sum()), rel=1e-9)


def test_equals_prediction_powered_mean_of_its_authors():
    ppi_py = pytest.importorskip("ppi_py", reason="ppi-python is not installed")
    rng = np.random.default_rng(2)
    true_totals, predicted_totals, _ = draw_group(rng, 4000)
    true_totals[:, 1] = predicted_totals[:, 1] = 1.0
    reviewed = np.arange(400)
    estimate = estimate_ratio(define_simple_design(4000, reviewed), true_totals[reviewed], predicted_totals)
    y, predicted = true_totals[:, 0], predicted_totals[:, 0].astype(float)
    n_share = 400 / 4000
    # Its unlabelled images exclude the labelled ones: the same estimator has its weight times 1 - n / N.
    value = ppi_py.ppi_mean_pointestimate(
        y[reviewed], predicted[reviewed], predicted[400:], lam=estimate.tuning * (1 - n_share)
    )
    assert estimate.value == pytest.approx(float(np.squeeze(value)), rel=1e-9)
    low, high = ppi_py.ppi_mean_ci(y[reviewed], predicted[reviewed], predicted[400:], alpha=0.05)
    # Its population is infinite: the variance of our finite one is that of residuals, by 1 - n / N smaller.
    residuals = y[reviewed] - estimate.tuning * predicted[reviewed]
    expected = 1.96 * np.sqrt(residuals.var(ddof=2) / 400 * (1 - n_share))
    assert estimate.half_width == pytest.approx(expected, rel=0.03)
    assert estimate.half_width < (float(np.squeeze(high)) - float(np.squeeze(low))) / 2


def test_any_bias_of_exact_detections_is_removed():
    rng = np.random.default_rng(3)
    true_totals, _, _ = draw_group(rng)
    predicted_totals = np.column_stack([3 * true_totals[:, 0] + 5 * true_totals[:, 1], true_totals[:, 1]])
    reviewed = rng.choice(2000, 20, replace=False)
    estimate = estimate_ratio(define_simple_design(2000, reviewed), true_totals[reviewed], predicted_totals)
    assert estimate.value == pytest.approx(true_totals[:, 0].sum() / true_totals[:, 1].sum(), rel=1e-4)
    assert estimate.tuning == pytest.approx(1 / 3, rel=1e-3)


def test_labels_that_equal_their_detections_have_no_interval():
    true_totals, _, _ = draw_group(np.random.default_rng(9))
    estimate = estimate_ratio(define_simple_design(2000, np.arange(20)), true_totals[:20], true_totals)
    assert estimate.value == pytest.approx(true_totals[:, 0].sum() / true_totals[:, 1].sum(), rel=1e-3)
    unit_area = np.column_stack([true_totals[:, 0], np.ones(2000)])
    estimate = estimate_ratio(define_simple_design(2000, np.arange(20)), unit_area[:20], unit_area)
    assert estimate.value == pytest.approx(unit_area[:, 0].mean())
    assert np.isnan([estimate.low, estimate.high]).all()


def test_all_images_reviewed_leave_no_uncertainty():
    true_totals = np.array([[3.0, 1.0], [0.0, 1.0], [5.0, 2.0]])
    estimate = estimate_ratio(define_simple_design(3, np.arange(3)), true_totals, true_totals)
    assert (estimate.value, estimate.low, estimate.high) == (2.0, 2.0, 2.0)
    assert estimate.standard_error == 0


def test_certain_images_add_no_variance():
    true_totals = np.array([[30.0, 1], [2, 1], [3, 1], [5, 1]])
    probabilities = np.array([1.0, 0.1, 0.1, 0.1])
    design = Design(31, np.arange(4), probabilities, np.zeros(4, int))
    changed = true_totals.copy()
    changed[0, 0] = 31.0
    shift = estimate_ratio(design, changed).value - estimate_ratio(design, true_totals).value
    assert shift == pytest.approx(1 / 31)


def test_no_object_in_labels_has_no_interval():
    reviewed = np.arange(20)
    true_totals = np.column_stack([np.zeros(20), np.ones(20)])
    density = estimate_ratio(define_simple_design(100, reviewed), true_totals)
    assert density.value == 0
    assert np.isnan(density.low)
    diameter = estimate_ratio(define_simple_design(100, reviewed), np.zeros((20, 2)), np.ones((100, 2)))
    assert np.isnan(diameter.value)


@pytest.mark.parametrize("n_labels", [0, 1])
def test_less_than_two_labels_have_no_interval(n_labels):
    estimate = estimate_ratio(
        define_simple_design(9, np.arange(n_labels)), np.full((n_labels, 2), 3.0), np.ones((9, 2))
    )
    assert estimate.n_labels == n_labels
    assert np.isnan([estimate.low, estimate.high]).all()


def test_few_labels_ignore_detections():
    rng = np.random.default_rng(4)
    true_totals, predicted_totals, _ = draw_group(rng)
    design = define_simple_design(2000, np.arange(7))
    assert estimate_ratio(design, true_totals[:7], predicted_totals).tuning == 0
    design = define_simple_design(2000, np.arange(8))
    assert estimate_ratio(design, true_totals[:8], predicted_totals).tuning > 0


def test_equal_detections_count_nothing():
    rng = np.random.default_rng(5)
    true_totals, predicted_totals, _ = draw_group(rng)
    reviewed = np.arange(40)
    predicted_totals = np.column_stack([0.1 * predicted_totals[:, 1], predicted_totals[:, 1]])
    design = define_simple_design(2000, reviewed)
    assert estimate_ratio(design, true_totals[:40], predicted_totals) == estimate_ratio(design, true_totals[:40])


def test_strata_weigh_by_their_images():
    image_strata = np.array([0] * 90 + [1] * 10)
    reviewed = np.array([0, 1, 2, 90, 91, 92])
    true_totals = np.column_stack([[1.0, 2, 3, 10, 20, 30], np.ones(6)])
    estimate = estimate_ratio(define_stratified_design(image_strata, reviewed), true_totals)
    assert estimate.value == pytest.approx(0.9 * 2 + 0.1 * 20)
    expected = 0.9**2 * (1 - 3 / 90) * 1 / 3 + 0.1**2 * (1 - 3 / 10) * 100 / 3
    assert estimate.standard_error == pytest.approx(np.sqrt(expected))
    with pytest.raises(ValueError, match="two reviewed"):
        define_stratified_design(image_strata, reviewed[:4])


def test_completely_reviewed_stratum_of_one_image_is_exact():
    image_strata = np.array([0] * 50 + [1])
    reviewed = np.array([0, 1, 2, 50])
    true_totals = np.column_stack([[1.0, 2, 3, 100], np.ones(4)])
    estimate = estimate_ratio(define_stratified_design(image_strata, reviewed), true_totals)
    assert estimate.value == pytest.approx(200 / 51)
    assert estimate.standard_error == pytest.approx(50 / 51 * np.sqrt((1 - 3 / 50) / 3))


def test_four_times_as_many_labels_halve_interval():
    assert count_further_labels(define_simple_design(10**9, np.arange(50))) == 150
    further = count_further_labels(define_simple_design(200, np.arange(50)))
    assert (1 / (50 + further) - 1 / 200) / (1 / 50 - 1 / 200) == pytest.approx(1 / 4, rel=0.05)
    assert count_further_labels(define_simple_design(20, np.arange(20))) == 0


def test_heavy_tails_reduce_degrees_of_freedom():
    assert reduce_degrees(np.array([3.0]), np.array([11]), -1.0) == pytest.approx(10)
    assert reduce_degrees(np.array([3.0]), np.array([11]), 6.0) == pytest.approx(2 / (2 / 10 + 6 / 11))
    # Satterthwaite by hand: (1 + 3)^2 / (1 / 4 + 9 / 2)
    assert reduce_degrees(np.array([1.0, 3.0, 0.0]), np.array([5, 3, 1]), 0.0) == pytest.approx(16 / 4.75)
    assert span_interval(2.0, 2 * np.log(2), 2 * np.log(3)) == pytest.approx((1, 6))
    assert span_interval(-1.0, 3.0, 3.0) == (0, 2)


def test_intervals_cover_truth_with_and_without_probabilities():
    rng = np.random.default_rng(6)
    n_covered = np.zeros(2)
    n_groups = 200
    for _ in range(n_groups):
        true_totals, predicted_totals, _ = draw_group(rng)
        truth = true_totals[:, 0].sum() / true_totals[:, 1].sum()
        reviewed = rng.choice(2000, 30, replace=False)
        simple = estimate_ratio(define_simple_design(2000, reviewed), true_totals[reviewed], predicted_totals)
        probabilities = 30 * (1 + predicted_totals[:, 0]) / (1 + predicted_totals[:, 0]).sum()
        reviewed = np.flatnonzero(rng.random(2000) < probabilities)
        design = Design(2000, reviewed, probabilities[reviewed], np.zeros(len(reviewed), int))
        unequal = estimate_ratio(design, true_totals[reviewed], predicted_totals)
        n_covered += [simple.low <= truth <= simple.high, unequal.low <= truth <= unequal.high]
    assert (n_covered >= 0.9 * n_groups).all()  # 0.95 less three standard errors
