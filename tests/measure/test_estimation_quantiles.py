"""Quantiles over a group from few labels and many detections."""

import numpy as np
import pytest

from emqa_dask.measure.estimation import Design, define_simple_design
from emqa_dask.measure.estimation_quantiles import estimate_quantile
from tests.measure.test_estimation import draw_group


def test_quantile_interval_covers_truth_and_detections_shorten_it():
    rng = np.random.default_rng(7)
    n_covered = 0
    lengths = np.zeros(2)
    for _ in range(200):
        true_totals, predicted_totals, _ = draw_group(rng)
        truth = np.quantile(true_totals[:, 0], 0.5, method="inverted_cdf")
        reviewed = rng.choice(2000, 60, replace=False)
        design = define_simple_design(2000, reviewed)
        values = true_totals[reviewed, 0]
        estimate = estimate_quantile(design, values, 0.5, predicted_totals[:, 0])
        labels_alone = estimate_quantile(design, values, 0.5)
        n_covered += estimate.low <= truth <= estimate.high
        lengths += [estimate.half_width, labels_alone.half_width]
    assert n_covered >= 180  # 0.95 less three standard errors
    assert lengths[0] < 0.8 * lengths[1]


def test_quantile_with_large_weights_in_its_tail_is_less_certain():
    rng = np.random.default_rng(8)
    values = np.arange(40.0)
    reviewed = rng.choice(2000, 40, replace=False)
    equal = Design(2000, reviewed, np.full(40, 0.02), np.zeros(40, int))
    unequal = equal._replace(probabilities=np.where(values < 8, 0.005, 0.02))
    probability = unequal.weights[:8].sum() / 2000  # the same images are below the quantile
    certain = estimate_quantile(equal, values, 0.2)
    uncertain = estimate_quantile(unequal, values, probability)
    assert certain.value == uncertain.value == 7
    assert uncertain.high - 7 > certain.high - 7


def test_quantile_beyond_labels_is_open():
    design = define_simple_design(1000, np.arange(10))
    estimate = estimate_quantile(design, np.arange(10.0), 0.9)
    assert estimate.value == 8
    assert np.isnan(estimate.high)
    assert estimate.low < 8
    assert estimate_quantile(define_simple_design(9, np.arange(9)), np.arange(9.0), 0.5).value == 4


def test_images_without_value_are_no_part_of_the_quantile():
    values = np.array([5.0, 1, 3, 2, 4])
    design = define_simple_design(100, np.arange(10))
    with_others = np.concatenate([values, np.full(5, np.nan)])
    mixed = estimate_quantile(design, with_others, 0.5)
    assert mixed.value == 3
    assert mixed.n_labels == 10
    alone = estimate_quantile(define_simple_design(50, np.arange(5)), values, 0.5)
    assert (mixed.low, mixed.high) == pytest.approx((alone.low, alone.high), nan_ok=True)
    nothing = estimate_quantile(design, np.full(10, np.nan), 0.5, np.ones(100))
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()


def test_quantile_of_images_with_objects_is_covered_with_unequal_probabilities():
    rng = np.random.default_rng(11)
    n_covered = 0
    for _ in range(200):
        n_objects = rng.poisson(rng.gamma(1, 2, 2000))
        diameters = np.where(n_objects > 0, 10 * np.exp(rng.normal(0, 0.3, 2000)), np.nan)
        is_detected = rng.random(2000) < np.where(n_objects > 0, 0.9, 0.2)
        predicted = np.where(is_detected, 8 * np.exp(rng.normal(0, 0.3, 2000)), np.nan)
        predicted = np.where(is_detected & (n_objects > 0), 0.9 * diameters + rng.normal(0, 1, 2000), predicted)
        probabilities = rng.choice([0.02, 0.08], 2000)
        reviewed = np.flatnonzero(rng.random(2000) < probabilities)
        design = Design(2000, reviewed, probabilities[reviewed], np.zeros(len(reviewed), int))
        estimate = estimate_quantile(design, diameters[reviewed], 0.5, predicted)
        truth = np.quantile(diameters[n_objects > 0], 0.5, method="inverted_cdf")
        n_covered += estimate.low <= truth <= estimate.high
    assert 180 <= n_covered <= 199  # 0.95 less and plus three standard errors


def test_quantile_agrees_with_that_of_prediction_powered_inference():
    ppi_py = pytest.importorskip("ppi_py", reason="ppi-python is not installed")
    rng = np.random.default_rng(12)
    n_within = 0
    lengths = np.zeros(2)
    for _ in range(20):
        true_totals, predicted_totals, _ = draw_group(rng, 4000)
        # It assumes values without ties: with equal numbers its intervals cover the truth less often than stated.
        y, predicted = true_totals[:, 0] + rng.random(4000), predicted_totals[:, 0] + rng.random(4000)
        design = define_simple_design(4000, np.arange(400))
        estimate = estimate_quantile(design, y[:400], 0.5, predicted)
        low, high = ppi_py.ppi_quantile_ci(y[:400], predicted[:400], predicted[400:], 0.5, alpha=0.05, exact_grid=True)
        point = ppi_py.ppi_quantile_pointestimate(y[:400], predicted[:400], predicted[400:], 0.5, exact_grid=True)
        n_within += low <= estimate.value <= high and estimate.low <= point <= estimate.high
        lengths += [estimate.high - estimate.low, high - low]
    assert n_within >= 19
    # It compares values as they are, so that a biased detector explains less; ours compares ranks and fits the weight.
    assert lengths[0] < lengths[1]
