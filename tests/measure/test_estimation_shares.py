"""Shares of images: the exact binomial interval where all reviewed images agree, else the estimate of a ratio."""

import numpy as np
import pytest
from scipy import stats

from emqa_dask.measure.estimation import Design, define_simple_design, estimate_ratio
from emqa_dask.measure.estimation_shares import estimate_share


def make_totals(has_property):
    return np.column_stack([has_property, np.ones(len(has_property))]).astype(float)


@pytest.mark.parametrize("share", [0, 1])
@pytest.mark.parametrize("n", [1, 5, 16])
def test_labels_that_agree_have_the_binomial_interval(share, n):
    design = define_simple_design(200, np.arange(n))
    predicted = make_totals(np.random.default_rng(n).random(200))
    estimate = estimate_share(design, make_totals(np.full(n, share)), predicted)
    exact = stats.binomtest(share * n, n).proportion_ci(0.95, method="exact")
    assert (estimate.low, estimate.high) == pytest.approx((exact.low, exact.high))
    assert estimate.value == share


def test_labels_that_differ_have_the_estimate_of_the_ratio():
    design = define_simple_design(200, np.arange(20))
    true = make_totals(np.arange(20) % 4 > 0)
    predicted = make_totals(np.random.default_rng(3).random(200))
    assert estimate_share(design, true, predicted) == estimate_ratio(design, true, predicted)


def test_unequal_probabilities_widen_the_interval_of_equal_labels():
    true = make_totals(np.ones(12))
    equal, unequal = (
        estimate_share(Design(100, np.arange(12), probabilities, np.zeros(12, int)), true, None)
        for probabilities in (np.full(12, 0.12), np.repeat([0.05, 0.3], 6))
    )
    assert unequal.low < equal.low < 1 == unequal.high == equal.high
    true[6:] = 0
    six = estimate_share(define_simple_design(100, np.arange(12)), true, None)
    assert six.low == pytest.approx(stats.binomtest(6, 6).proportion_ci(0.95, method="exact").low)


def test_intervals_of_a_share_near_one_contain_it():
    rng = np.random.default_rng(5)
    is_trusted = rng.random(300) < 0.97
    true = make_totals(is_trusted)
    samples = [rng.choice(300, 16, replace=False) for _ in range(400)]
    estimates = [estimate_share(define_simple_design(300, sample), true[sample], None) for sample in samples]
    assert np.mean([row.low <= is_trusted.mean() <= row.high for row in estimates]) >= 0.95
