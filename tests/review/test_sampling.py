"""Drawn images: exact probabilities, a fixed number, strata, duplicates, and valid estimates from them."""

import numpy as np
import pandas as pd
import pytest

from emqa_dask.measure.estimation import Design, estimate_ratio
from emqa_dask.pipeline.commands.review_plan import number_strata
from emqa_dask.review.gain import RESULTS
from emqa_dask.review.sampling import compute_probabilities, compute_standard_error, draw_images, draw_systematic


def test_probabilities_sum_to_the_number_of_draws():
    sizes = np.array([0.0, 1.0, 2.0, 100.0, np.nan, 3.0])
    probabilities = compute_probabilities(sizes, 3)
    assert probabilities.sum() == pytest.approx(3)
    assert probabilities[3] == 1.0
    assert (probabilities > 0).all()
    assert probabilities[0] == probabilities[4] < probabilities[1] < probabilities[2] < probabilities[5] < 1


def test_budget_of_all_images_makes_them_certain():
    assert compute_probabilities(np.array([1.0, 5.0]), 7).tolist() == [1, 1]
    assert compute_probabilities(np.array([]), 7).tolist() == []


def test_images_are_drawn_as_often_as_their_probabilities_say():
    rng = np.random.default_rng(3)
    strata = np.repeat([0, 1, 2], [4, 10, 26])
    probabilities = compute_probabilities(rng.gamma(0.5, size=40), 11)
    draws = [draw_systematic(probabilities, strata, rng) for _ in range(4000)]
    assert {len(draw) for draw in draws} == {11}
    frequencies = np.bincount(np.concatenate(draws), minlength=40) / 4000
    deviations = np.sqrt(probabilities * (1 - probabilities) / 4000)
    assert (np.abs(frequencies - probabilities) <= 4 * deviations + 1e-9).all()
    expected = np.bincount(strata, probabilities)
    counts = np.array([np.bincount(strata[draw], minlength=3) for draw in draws])
    assert (np.abs(counts - expected) < 1).all()


def test_order_of_review_is_random():
    rng = np.random.default_rng(0)
    firsts = [draw_systematic(np.full(6, 0.5), np.arange(6), rng)[0] for _ in range(600)]
    assert np.bincount(firsts, minlength=6).min() > 60


def test_of_duplicates_at_most_one_is_drawn():
    clusters = np.array([0, 0, 0, 1, 2, 2, 3, 4, 5, 6])
    counts = np.zeros(10)
    for seed in range(3000):
        draw = draw_images(np.ones(10), np.zeros(10, int), clusters, 4, seed)
        assert len(np.unique(clusters[draw.positions])) == len(draw.positions) == 4
        counts[draw.positions] += 1
    assert np.abs(counts / 3000 - draw.probabilities).max() < 0.04
    assert (draw.probabilities > 0).all()


def test_same_seed_draws_the_same_images():
    deviations = np.random.default_rng(1).random(50)
    first, second, other = (draw_images(deviations, np.arange(50) % 3, np.arange(50), 9, seed) for seed in (5, 5, 6))
    assert np.array_equal(first.positions, second.positions)
    assert not np.array_equal(first.positions, other.positions)


def test_intervals_of_drawn_images_contain_the_truth():
    """95 % intervals over 400 plans; the images with large errors are drawn more often."""
    rng = np.random.default_rng(8)
    true = rng.poisson(rng.gamma(2, 10, size=300)) + 1.0
    recall = rng.beta(6, 2, size=300)
    predicted = rng.binomial(true.astype(int), recall).astype(float)
    deviations = np.abs(true - predicted) * rng.gamma(4, 0.25, size=300) + 1
    ones = np.ones(300)
    n_covering = 0
    errors = []
    for seed in range(400):
        draw = draw_images(deviations, np.arange(300) % 4, np.arange(300), 40, seed)
        design = Design(300, draw.positions, draw.probabilities[draw.positions], np.zeros(len(draw.positions), int))
        values = np.column_stack([true, ones])
        estimate = estimate_ratio(design, values[draw.positions], np.column_stack([predicted, ones]))
        n_covering += estimate.low <= true.mean() <= estimate.high
        errors.append(estimate.value - true.mean())
    assert n_covering / 400 > 0.92
    assert np.std(errors) < 1.3 * compute_standard_error(true - predicted, draw.probabilities) / 300


def test_intervals_contain_the_truth_where_the_detector_misses_some_images():
    """One image in ten has 80 objects of which the detector sees next to none; each plan has its share of these."""
    rng = np.random.default_rng(4)
    is_missed = np.arange(160) < 16
    true = np.where(is_missed, 80, rng.poisson(rng.gamma(1.5, 12, 160)))
    found = np.where(is_missed, rng.poisson(0.5, 160), rng.binomial(true, 0.8))
    f1 = np.where(is_missed, np.nan, rng.uniform(0.5, 0.9, 160))
    triage = pd.DataFrame({f"predicted_{name}": f1 for name in ("f1", "precision", "recall")})
    triage = triage.assign(n_detections=found, predicted_f1_low=f1 - 0.2, predicted_f1_high=f1 + 0.1)
    gain = RESULTS["density"](triage)
    assert gain.is_uninformative[is_missed].mean() > 0.9
    strata = number_strata(pd.Series(np.arange(160) % 5), gain)
    true_totals = np.column_stack([true, np.ones(160)]).astype(float)
    predicted_totals = np.column_stack([found, np.ones(160)]).astype(float)
    n_covering = 0
    for seed in range(200):
        draw = draw_images(gain.deviations, strata, np.arange(160), 24, seed)
        expected = draw.probabilities[gain.is_uninformative].sum()
        assert abs(gain.is_uninformative[draw.positions].sum() - expected) < 1
        design = Design(160, draw.positions, draw.probabilities[draw.positions], np.zeros(len(draw.positions), int))
        estimate = estimate_ratio(design, true_totals[draw.positions], predicted_totals)
        n_covering += estimate.low <= true.mean() <= estimate.high
    assert n_covering / 200 >= 0.93


@pytest.mark.parametrize("result", RESULTS)
def test_every_result_expects_something_of_images_without_predictions(result):
    columns = ["predicted_f1", "predicted_f1_low", "predicted_f1_high", "predicted_precision", "predicted_recall"]
    triage = pd.DataFrame({name: [0.8, 0.5, np.nan] for name in columns}, dtype=float)
    triage["predicted_f1_low"] -= 0.1
    triage["f1_probability"] = [0.99, 0.5, np.nan]
    triage["n_detections"] = pd.array([10, 10, pd.NA], "Int64")
    gain = RESULTS[result](triage)
    assert np.isfinite(gain.expected).all()
    assert (gain.deviations > 0).all()
    assert len(gain.reasons) == 3


def test_uncertain_images_have_larger_deviations():
    triage = pd.DataFrame({"predicted_f1": [0.8, 0.8], "predicted_f1_low": [0.7, 0.3], "predicted_f1_high": [0.9, 1.0]})
    assert RESULTS["f1"](triage).deviations == pytest.approx([0.2 / 3.29, 0.7 / 3.29], rel=1e-3)
    assert RESULTS["triage"](pd.DataFrame({"f1_probability": [0.99, 0.5]})).deviations[1] == 0.5
