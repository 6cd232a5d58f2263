"""Tables of the study of uncertainty: known answers by hand, and laws."""

import numpy as np
import pytest

from emqa_dask.uncertainty import method_scores
from emqa_dask.uncertainty.method_scores import IN_DOMAIN, Answers


def make_answers(p, y, kind=IN_DOMAIN, cohort="test"):
    """Answers of one member whose probability of class 0 is `p`."""
    p = np.asarray(p, float)
    return Answers(kind, cohort, np.stack([p, 1 - p], axis=1)[None], np.asarray(y), np.arange(len(p)))


TEST = make_answers([0.9, 0.8, 0.6, 0.3], [0, 0, 1, 1])  # right, right, wrong, right


def test_the_drop_of_accuracy_is_of_the_same_classes():
    shifted = make_answers([0.9, 0.4, 0.4, 0.2], [0, 0, 0, -1], "acquisition", "filament")
    unknown = make_answers([0.9], [-1], "unrelated", "photographs")
    row = method_scores.tabulate_accuracy_drop({"softmax": TEST}, {"softmax": [shifted, unknown]})
    assert row.to_dict("records") == [
        {"cohort": "filament", "kind": "acquisition", "method": "softmax", "n": 3}
        | {"in_distribution": 1.0, "shifted": 0.3333, "drop": 0.6667}
    ]


def test_identical_images_are_not_told_apart():
    same = TEST._replace(kind="new_class", cohort="same")
    table = method_scores.tabulate_shifts({"softmax": TEST}, {"softmax": [same]}).set_index("cohort")
    assert table.loc["same", "auroc"] == 0.5
    assert table.loc["same", "mean_entropy_nats"] == table.loc["test", "mean_entropy_nats"]
    assert np.isnan(table.loc["test", "auroc"])
    assert method_scores.compute_shift_roc(TEST, same).area == 0.5


def test_less_certain_images_are_told_apart():
    rng = np.random.default_rng(0)
    own = make_answers(rng.uniform(0.8, 1, 200), np.zeros(200, int))
    shifted = make_answers(rng.uniform(0.45, 0.55, 200), np.full(200, -1), "unrelated", "photographs")
    row = method_scores.tabulate_shifts({"softmax": own}, {"softmax": [shifted]}).iloc[1]
    assert row["auroc"] == row["auroc_low"] == row["auroc_high"] == 1
    assert row["above_95_percent_limit"] == 1


def test_scores_of_a_test_set_by_hand():
    row = method_scores.tabulate_scores({"softmax": TEST}, {"softmax": TEST}).iloc[0]
    assert row["accuracy"] == 0.75
    assert row["nll"] == pytest.approx(-np.log([0.9, 0.8, 0.4, 0.7]).mean(), abs=1e-4)
    assert row["nll_tempered"] <= row["nll"]  # the temperature has the lowest loss on these very images
    curve = method_scores.tabulate_risk_coverage({"softmax": TEST})
    np.testing.assert_allclose(curve["risk"], [0, 0, 0, 0.25])
    assert curve["max_entropy_nats"].is_monotonic_increasing


def test_referral_of_a_calibrated_predictor_lowers_the_error():
    rng = np.random.default_rng(1)
    p = rng.uniform(0.5, 1, 20_000)
    curve = method_scores.tabulate_risk_coverage({"m": make_answers(p, (rng.random(20_000) > p).astype(int))})
    risk = [curve["risk"][int(20_000 * share) - 1] for share in (0.25, 0.5, 0.75, 1)]
    np.testing.assert_allclose(risk, [0.0625, 0.125, 0.1875, 0.25], atol=0.01)


def test_more_members_are_counted_up_to_all():
    many = TEST._replace(probabilities=np.repeat(TEST.probabilities, 5, axis=0))
    table = method_scores.tabulate_member_counts(many)
    assert table["members"].tolist() == [1, 2, 4, 5]
    assert table["accuracy"].nunique() == 1
