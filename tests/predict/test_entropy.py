"""Laws of the ensemble's uncertainty."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emqa_dask import mutual_information, predictive_entropy
from emqa_dask.predict.entropy import variation_ratio


def ensemble(seed: int, members: int = 5, n: int = 40, classes: int = 7, sharpness: float = 0.3) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(classes, sharpness), (members, n))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32), st.integers(1, 9), st.integers(0, 20), st.integers(1, 12), st.sampled_from([0.02, 0.3, 5.0])
)
def test_information_is_between_0_and_entropy_and_entropy_below_ln_k(seed, members, n, classes, sharpness):
    p = ensemble(seed, members, n, classes, sharpness)
    information, entropy, ratio = mutual_information(p), predictive_entropy(p), variation_ratio(p)
    assert information.shape == entropy.shape == ratio.shape == (n,)
    assert np.all(information >= 0)
    assert np.all(information <= entropy)
    assert np.all(entropy <= np.log(classes))
    assert np.all((ratio >= 0) & (ratio <= 1 - 1 / members))


def test_members_that_agree_have_no_information_to_give():
    p = np.repeat(ensemble(1, members=1), 6, axis=0)
    assert mutual_information(p) == pytest.approx(0, abs=1e-12)
    assert np.all(variation_ratio(p) == 0)
    assert predictive_entropy(p) == pytest.approx(predictive_entropy(p[:1]))


def test_the_order_of_members_and_of_classes_changes_nothing():
    p = ensemble(2)
    members, classes = np.random.default_rng(0).permutation(5), np.random.default_rng(1).permutation(7)
    for measure in (predictive_entropy, mutual_information, variation_ratio):
        assert measure(p[members]) == pytest.approx(measure(p))
        assert measure(p[..., classes]) == pytest.approx(measure(p))


def test_the_ends_of_the_scales():
    certain, even = np.eye(4)[None], np.full((1, 3, 4), 0.25)
    assert np.all(predictive_entropy(certain) == 0)
    assert predictive_entropy(even) == pytest.approx(np.log(4))
    torn = np.eye(4)[:, None]  # four members, each sure of another class
    assert mutual_information(torn) == pytest.approx(np.log(4))
    assert predictive_entropy(torn) == pytest.approx(np.log(4))
    assert variation_ratio(torn) == pytest.approx(0.75)


def test_low_precision_softmaxes_are_taken():
    p = ensemble(3)
    assert predictive_entropy(p.astype(np.float16)) == pytest.approx(predictive_entropy(p), abs=0.01)


@pytest.mark.parametrize(
    ("value", "said"),
    [(np.nan, "NaN"), (-0.1, "negative"), (1.5, "more than 1"), (0.9, r"member 2, row 3 sum to .* logits")],
)
def test_what_is_no_probability_is_refused_by_name(value, said):
    p = np.full((4, 6, 3), 1 / 3)
    p[2, 3, 1] = value
    for measure in (predictive_entropy, mutual_information, variation_ratio):
        with pytest.raises(ValueError, match=said):
            measure(p)


def test_a_missing_axis_is_named():
    with pytest.raises(ValueError, match=r"\(members, n, classes\)"):
        predictive_entropy(np.full((6, 3), 1 / 3))
