"""Sequential test for drift: p-values by hand, the martingale's law, and the rate of false alarms."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import kstest

from emqa_dask.uncertainty import exchangeability
from emqa_dask.uncertainty.exchangeability import JUMP, STAKES, DriftTest, Ranking, Wager


def compute_p_values(values, tie_breakers) -> np.ndarray:
    """p-values (n,) of values that come one after the other."""
    ranking = Ranking()
    return np.array([ranking.add(value, u) for value, u in zip(values, tie_breakers, strict=True)], float)


def compute_log_martingale(p_values) -> np.ndarray:
    """Logarithm (n,) of the martingale after each of `p_values`."""
    wager = Wager()
    return np.array([wager.add(p) for p in p_values], float)


QUANTITIES = ("noise_floor", "contrast", "skewness", "predicted_f1")


def find_first_alarm(values, false_alarms=0.01, seed=0):
    """The change of the first alarm of (n, 4) values, or None."""
    test = DriftTest(QUANTITIES, false_alarms, seed)
    changes = (test.add(dict(zip(QUANTITIES, row, strict=True))) for row in values)
    return next(filter(None, changes), None)


def test_p_values_are_shares_of_values_above():
    # 3rd: of 2, 5, 3 one is above; of the equal one 0.5 counts: 1.5 / 3. 4th: two equal ones, 5 and 5: 0.25 * 2 / 4.
    p = compute_p_values(np.array([2.0, 5.0, 3.0, 5.0, np.nan]), np.array([0.5, 0.0, 0.5, 0.25, 0.1]))
    np.testing.assert_allclose(p[:4], [0.5, 0.0, 1.5 / 3, 0.5 / 4])
    assert math.isnan(p[4])


def test_p_values_of_any_exchangeable_values_are_uniform():
    rng = np.random.default_rng(1)
    values = np.round(rng.lognormal(0, 2, 4000), 1)  # skewed, with many equal ones
    assert kstest(compute_p_values(values, rng.random(4000)), "uniform").pvalue > 0.01


def test_the_martingale_has_the_expectation_1():
    # A mean of wagers that are linear in p: three values of p with the mean 1/2 give all moments that count.
    paths = itertools.product([0.0, 0.5, 1.0], repeat=5)
    capital = [math.exp(compute_log_martingale(np.array(path))[-1]) for path in paths]
    assert np.mean(capital) == pytest.approx(1)


def test_the_first_wagers_are_those_computed_by_hand():
    shares = np.full(5, 0.2)
    first = (shares * (1 + STAKES * 0.4)).sum()
    shares = (1 - JUMP) * shares * (1 + STAKES * 0.4) / first + JUMP / 5
    second = (shares * (1 + STAKES * 0.3)).sum()
    np.testing.assert_allclose(compute_log_martingale(np.array([0.9, 0.8])), np.log([first, first * second]))


def test_without_drift_alarms_are_as_rare_as_stated():
    rng = np.random.default_rng(2)
    n_alarms = sum(find_first_alarm(rng.gamma(2, 1, (2000, 4)), 0.1, seed) is not None for seed in range(40))
    assert n_alarms <= 9  # binomial with 40 tries of 0.1: over 9 has a probability of 0.5 %


def test_a_drift_is_found_within_60_images():
    delays = []
    for seed in range(20):
        values = np.random.default_rng(seed).normal(size=(1100, 4))
        values[1000:, 2] += 1.5
        change = find_first_alarm(values, seed=seed)
        if change and change.n_images > 1000:
            assert change.quantity == "skewness"
            assert abs(change.first - 1000) < 60
            delays.append(change.n_images - 1000)
    assert sum(delay <= 60 for delay in delays) >= 18


def test_unknown_values_and_a_constant_raise_nothing():
    values = np.full((500, 4), np.nan)
    values[:, 0] = 1.0
    assert find_first_alarm(values) is None


def test_a_test_starts_again_after_an_alarm(monkeypatch):
    monkeypatch.setattr(exchangeability, "MAX_IMAGES", 300)
    values = np.random.default_rng(3).normal(size=(700, 4))
    values[100:, 0] += 5
    test = DriftTest(QUANTITIES, 0.01)
    changes = [change for row in values if (change := test.add(dict(zip(QUANTITIES, row, strict=True))))]
    assert [change.quantity for change in changes] == ["noise_floor"]
    assert test.n_images == 700
