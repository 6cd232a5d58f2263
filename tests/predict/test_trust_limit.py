"""The limit of trust from a few labels: which detector, which limit, what it costs, and what can be claimed."""

import numpy as np
import pytest

from emqa_dask.predict.detection_choice import choose_detection
from emqa_dask.predict.few_residuals import compute_student_quantiles
from emqa_dask.predict.trust_limit import (
    UNREACHABLE_LIMIT,
    TrustRecord,
    choose_trust_limit,
    compute_lower_bound,
    count_needed_images,
    describe_claim,
    record_trust,
)
from emqa_dask.tables import F1_LEVELS


def test_a_claim_of_95_percent_needs_45_right_images():
    """0.95 to the power of 44 is above 0.1, to that of 45 below."""
    assert count_needed_images(0) == 45
    assert count_needed_images(1) == 77
    assert compute_lower_bound(45, 45) == pytest.approx(0.1 ** (1 / 45))
    assert compute_lower_bound(0, 0) == compute_lower_bound(0, 7) == 0


def test_claims_are_told_from_estimates():
    few = TrustRecord(0.9, n_labelled=30, n_good=22, n_trusted=20, n_right=20, expected_precision=0.98, share=0.6)
    text = describe_claim(few)
    assert "too few labels" in text
    assert "at least 0.89" in text
    assert "needs 45 trusted labelled images, of which 0 are wrong: about 68 labels" in text
    assert describe_claim(few._replace(n_labelled=60, n_trusted=45, n_right=45)).startswith(
        "claim: a precision of 0.95"
    )
    assert "none of them is trusted" in describe_claim(few._replace(n_trusted=0, n_right=0))


def test_the_limit_admits_as_many_as_the_precision_allows():
    """Probabilities that are right: the mean of those above the limit is the precision."""
    probability = np.linspace(0.02, 0.98, 49)
    archive = np.linspace(0.02, 0.98, 481)
    limit = choose_trust_limit(probability, probability > 0.6, archive)
    assert limit == pytest.approx(0.92, abs=0.003)  # the mean of 0.92 to 0.98 is 0.95
    trust = record_trust(limit, probability, probability > 0.6, archive)
    assert (trust.n_labelled, trust.n_trusted, trust.n_right) == (49, 4, 4)
    assert trust.n_good == 19
    assert trust.recall == pytest.approx(4 / 19)
    assert trust.share == pytest.approx((archive >= limit).mean())


def test_labels_that_contradict_the_probabilities_raise_the_limit():
    probability = np.linspace(0.9, 0.99, 30)
    archive = np.full(200, 0.97)
    assert choose_trust_limit(probability, np.ones(30, bool), archive) == pytest.approx(0.9)
    is_good = np.arange(30) % 3 > 0
    assert choose_trust_limit(probability, is_good, archive) == UNREACHABLE_LIMIT
    assert choose_trust_limit(probability, np.zeros(30, bool), np.full(200, 0.3)) == UNREACHABLE_LIMIT


def test_nothing_is_trusted_with_few_labels_or_unknown_probabilities():
    ones = np.full(9, 0.99)
    assert choose_trust_limit(ones, ones > 0, ones) == UNREACHABLE_LIMIT
    two_high = np.append(np.zeros(28), [0.9, 0.9])  # labels do not show what the third trusted image is like
    assert choose_trust_limit(two_high, two_high > 0, np.array([0.2, 0.98])) == UNREACHABLE_LIMIT
    unknown = np.full(30, np.nan)
    assert choose_trust_limit(unknown, unknown > 0, unknown) == UNREACHABLE_LIMIT
    empty = np.zeros(0)
    trust = record_trust(UNREACHABLE_LIMIT, empty, empty > 0, empty)
    assert np.isnan([trust.precision, trust.recall, trust.expected_precision]).all()
    assert trust.precision_bound == 0


def test_a_better_detector_and_floor_are_chosen():
    rng = np.random.default_rng(0)
    skill = rng.uniform(0, 0.2, 30)
    f1 = {("log", 0.1): 0.3 + skill, ("log", 0.5): 0.4 + skill, ("net", 0.1): 0.6 + skill, ("net", 0.5): 0.7 + skill}
    choice = choose_detection(f1, 0.1)
    assert (choice.detector, choice.score_floor) == ("net", 0.5)
    assert choice.table["is_chosen"].tolist() == [False, False, False, True]
    assert choice.select_row("net", 0.5)["probability"] == 1
    assert choice.select_row("log", 0.1)["probability"] == 0.5


def test_differences_by_chance_change_nothing():
    """A floor that is better by 0.01 with a noise of 0.2 on 20 images is not better."""
    rng = np.random.default_rng(1)
    values = rng.uniform(0.4, 0.6, 20)
    noise = rng.normal(0, 0.2, 20)
    other = values + noise - noise.mean() + 0.01
    choice = choose_detection({("log", 0.1): values, ("log", 0.3): other, ("net", 0.1): other}, 0.1)
    assert (choice.detector, choice.score_floor) == ("log", 0.1)
    assert 0.5 < choice.select_row("log", 0.3)["probability"] < 0.9


def test_images_of_a_group_are_resampled_together():
    """Of 20 copies of 2 images, one is better and one is worse: nothing is certain."""
    gain = np.repeat([0.3, -0.1], 10)
    f1 = {("log", 0.1): np.full(20, 0.5), ("net", 0.1): 0.5 + gain}
    assert choose_detection(f1, 0.1).detector == "net"
    assert choose_detection(f1, 0.1, np.repeat(["a", "b"], 10)).detector == "log"


def test_images_without_objects_and_detections_count_as_right():
    f1 = {("log", 0.1): np.full(10, 0.5), ("net", 0.1): np.full(10, np.nan)}
    choice = choose_detection(f1, 0.1)
    assert choice.detector == "net"
    assert choice.select_row("net", 0.1)["mean_f1"] == 1


def test_few_residuals_have_the_quantiles_of_a_student_distribution():
    """200 residuals of scale 0.5: the quantiles are those of the normal distribution, in units of spread + 0.1."""
    rng = np.random.default_rng(2)
    spread = rng.uniform(0.05, 0.2, 200)
    mean = np.full(200, 0.5)
    true = mean + 0.5 * (spread + 0.1) * rng.normal(size=200)
    quantiles = dict(zip(F1_LEVELS, compute_student_quantiles(mean, spread, true, np.arange(200))))
    assert quantiles[0.5] == pytest.approx(0, abs=0.07)
    assert quantiles[0.95] == pytest.approx(0.5 * 1.645, rel=0.12)
    assert (np.diff(list(quantiles.values())) > 0).all()
    few = compute_student_quantiles(mean[:8], spread[:8], true[:8], np.arange(8))
    assert few[-1] - few[0] > quantiles[0.99] - quantiles[0.01]
    with pytest.raises(ValueError, match="no row"):
        compute_student_quantiles(mean[:0], spread[:0], true[:0], [])
