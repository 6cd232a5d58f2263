"""Laws of scaling: known times give their law back, and the cheapest cluster is the smallest one in time."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emqa_dask.run.scaling import ScalingLaw, compute_efficiency, find_cheapest_workers, fit_law


@settings(deadline=None)
@given(st.floats(0, 20), st.floats(0, 0.01), st.floats(0.001, 2))
def test_exact_times_give_their_law_back(start_s, shared_s, compute_s):
    law = ScalingLaw(start_s, shared_s, 0.0, compute_s, 0.0)
    n, w = (values.ravel() for values in np.meshgrid([50, 200], [1, 2, 4]))
    fitted = fit_law(n, w, law.predict_seconds(n, w))
    assert fitted == pytest.approx(law, rel=1e-6, abs=1e-6)


@settings(deadline=None)
@given(st.floats(0, 20), st.floats(0, 0.1), st.floats(0.1, 2), st.sampled_from([2.5, 5.0, 12.0]))
def test_a_limit_of_the_disk_is_found(start_s, shared_s, compute_s, limiting_workers):
    law = ScalingLaw(start_s, shared_s, compute_s / limiting_workers, compute_s, 0.0)
    n, w = (values.ravel() for values in np.meshgrid([100, 400], [1, 2, 4, 8, 16, 32]))
    fitted = fit_law(n, w, law.predict_seconds(n, w))
    assert fitted == pytest.approx(law, rel=1e-6, abs=1e-6)
    assert find_cheapest_workers(law, 100, start_s + 100 * (shared_s + law.io_s) - 1e-3) is None


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_noise_changes_no_prediction_much(seed):
    """Runs of a law without a limit, whose times vary by 3 %."""
    law = ScalingLaw(5.0, 0.01, 0.0, 1.0, 0.0)
    n, w = (values.ravel() for values in np.meshgrid([100, 400], [1, 2, 4, 8, 16, 32]))
    noise = np.random.default_rng(seed).normal(1, 0.03, len(n))
    fitted = fit_law(n, w, law.predict_seconds(n, w) * noise)
    assert fitted.predict_seconds(400, 32) == pytest.approx(law.predict_seconds(400, 32), rel=0.15)


def test_one_number_of_images_leaves_no_shared_time():
    # By hand: 10 s with one worker and 6 s with two are 2 s and 8 s of 100 images.
    law = fit_law([100, 100], [1, 2], [10.0, 6.0])
    assert law[:4] == pytest.approx((2.0, 0.0, 0.0, 0.08))
    with pytest.raises(ValueError, match="two numbers of workers"):
        fit_law([100, 200], [2, 2], [1.0, 2.0])


def test_efficiency_is_that_of_a_hand_calculation():
    # Ratios 0.9 and 0.8: mean 0.8485; t of one degree 12.706, standard error of the logarithms 0.0589.
    value, low, high = compute_efficiency([10.0, 10.0], [36.0, 32.0], 1, 4)
    assert value == pytest.approx(math.sqrt(0.72))
    assert (low, high) == pytest.approx((0.8485 * math.exp(-0.7483), 0.8485 * math.exp(0.7483)), rel=1e-3)
    assert np.isnan(compute_efficiency([1.0], [2.0], 1, 2)[1:]).all()


def test_fewest_workers_in_time_are_found():
    law = ScalingLaw(start_s=60.0, shared_s=0.001, io_s=0.0, compute_s=1.0, error=0.0)
    # 3600 images in 600 s: 60 + 3.6 + 3600 / w <= 600, so w >= 6.71.
    assert find_cheapest_workers(law, 3600, 600.0) == 7
    assert find_cheapest_workers(law, 3600, 63.0) is None
    assert find_cheapest_workers(law, 1, 1e9) == 1
