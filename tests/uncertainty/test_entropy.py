"""Laws of the ensemble's uncertainty."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emqa_dask import mutual_information, predictive_entropy
from emqa_dask.uncertainty.entropy import summarise_entropies, variation_ratio


def ensemble(seed: int, members: int = 5, n: int = 40, classes: int = 7, sharpness: float = 0.3) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(classes, sharpness), (members, n))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32), st.integers(1, 9), st.integers(0, 20), st.integers(1, 12), st.sampled_from([0.02, 0.3, 5.0])
)
def test_information_is_at_most_entropy_and_entropy_ln_k(seed, members, n, classes, sharpness):
    p = ensemble(seed, members, n, classes, sharpness)
    information = mutual_information(p)
    entropy = predictive_entropy(p)
    ratio = variation_ratio(p)
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
    members = np.random.default_rng(0).permutation(5)
    classes = np.random.default_rng(1).permutation(7)
    for measure in (predictive_entropy, mutual_information, variation_ratio):
        assert measure(p[members]) == pytest.approx(measure(p))
        assert measure(p[..., classes]) == pytest.approx(measure(p))


def test_the_ends_of_the_scales():
    certain = np.eye(4)[None]
    even = np.full((1, 3, 4), 0.25)
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


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 50), st.integers(2, 40), st.integers(1, 30))
def test_entropy_shapes_have_one_size_and_ignore_image_order(seed, n, classes, bins):
    rng = np.random.default_rng(seed)
    entropy = rng.uniform(0, np.log(classes), n)
    shape = summarise_entropies(entropy, classes, bins)
    assert summarise_entropies(rng.permutation(entropy), classes, bins) == pytest.approx(shape)
    assert list(shape) == list(summarise_entropies([], classes, bins))
    assert len(shape) == bins + 6
    assert sum(shape[f"bin_{k:02d}"] for k in range(bins)) == pytest.approx(1)
    assert 0 <= shape["quantile_10"] <= shape["quantile_50"] <= shape["quantile_90"] <= 1
    assert shape["mean"] == pytest.approx(entropy.mean() / np.log(classes))


def test_the_entropy_shape_is_relative_to_the_largest_entropy():
    share = np.random.default_rng(0).beta(1, 4, 200)
    of_5 = summarise_entropies(share * np.log(5), 5)
    of_30 = summarise_entropies(share * np.log(30), 30)
    assert of_5 == pytest.approx(of_30)
    assert of_5["skewness"] > 0 > summarise_entropies((1 - share) * np.log(5), 5)["skewness"]
    mirrored = summarise_entropies((1 - share) * np.log(5), 5)
    assert mirrored["bin_09"] == pytest.approx(of_5["bin_00"])
    assert summarise_entropies(np.full(7, np.log(5)), 5) == pytest.approx(
        dict.fromkeys(of_5, 0) | dict.fromkeys(("bin_09", "mean", "quantile_10", "quantile_50", "quantile_90"), 1)
    )


def test_the_shape_of_nothing_and_of_what_is_no_entropy():
    nothing = summarise_entropies([], 3)
    assert nothing["bin_00"] == 0
    assert np.isnan(nothing["mean"])
    for bad in ([0.1, np.nan], [0.1, 1.2], [0.1, -0.1]):
        with pytest.raises(ValueError, match=r"of row 1 is not in 0\.\.\.ln 3"):
            summarise_entropies(bad, 3)
    for entropy, classes, bins in ([[0.1]], 3, 4), ([0.0], 1, 4), ([0.1], 3, 0):
        with pytest.raises(ValueError, match="two classes and a bin"):
            summarise_entropies(entropy, classes, bins)
