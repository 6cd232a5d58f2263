"""Risk against coverage, thresholds for referral, and the area under the ROC curve."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from emqa_dask import risk_coverage
from emqa_dask.uncertainty.referral import auroc, find_budget_threshold, find_risk_threshold


def answers(seed: int = 0, n: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Uncertainties, and errors that are the likelier the larger they are."""
    rng = np.random.default_rng(seed)
    uncertainty = rng.random(n)
    return uncertainty, (rng.random(n) < 0.5 * uncertainty**2).astype(float)


def test_full_coverage_has_the_mean_error_and_certainty_pays():
    uncertainty, error = answers()
    coverage, risk, area, _ = risk_coverage(uncertainty, error)
    assert risk[-1] == pytest.approx(error.mean())
    assert coverage[-1] == 1
    assert np.all(np.diff(coverage) > 0)
    assert risk[250] < risk[-1]
    best = risk_coverage(error, error).area
    worst = risk_coverage(-error, error).area
    assert best < area < error.mean() < worst
    share = error.mean()  # known for perfect ranking: Geifman et al., ICLR 2019
    assert best == pytest.approx(share + (1 - share) * np.log(1 - share), abs=2e-3)


def test_rows_of_equal_uncertainty_may_come_in_any_order():
    uncertainty, error = answers()
    uncertainty = np.round(uncertainty, 1)
    shuffled = np.random.default_rng(5).permutation(len(error))
    one = risk_coverage(uncertainty, error)
    other = risk_coverage(uncertainty[shuffled], error[shuffled])
    np.testing.assert_allclose(one.risk, other.risk)
    assert risk_coverage(np.zeros(len(error)), error).area == pytest.approx(error.mean())


@pytest.mark.parametrize("target", [0.01, 0.05, 0.1])
def test_the_threshold_is_the_largest_with_the_target_risk(target):
    uncertainty, error = answers(2)
    threshold, coverage = find_risk_threshold(uncertainty, error, target)
    kept = uncertainty <= threshold
    assert error[kept].mean() <= target
    assert kept.mean() == pytest.approx(coverage)
    for larger in np.sort(uncertainty[~kept]):
        assert error[uncertainty <= larger].mean() > target


def test_a_target_out_of_reach_refers_everything():
    assert find_risk_threshold([0.1, 0.2], [1, 1], 0.5) == (-np.inf, 0.0)
    assert find_risk_threshold([0.1, 0.1, 0.2], [0, 1, 0], 0.4) == (0.2, 1.0)
    assert find_risk_threshold([0.1, 0.1, 0.2], [0, 1, 1], 0.4) == (-np.inf, 0.0)  # equals stay together


@pytest.mark.parametrize("share", [0.0, 0.1, 0.33, 1.0])
def test_the_budget_is_not_exceeded_and_is_used(share):
    uncertainty, _ = answers(3)
    threshold, coverage = find_budget_threshold(uncertainty, share)
    referred = (uncertainty > threshold).mean()
    assert share - 1 / len(uncertainty) < referred <= share + 1e-12
    assert coverage == pytest.approx(1 - referred)
    assert find_budget_threshold([1, 1, 1, 2], 0.6) == (1.0, 0.75)


def test_the_roc_area_equals_that_of_scikit_learn():
    rng = np.random.default_rng(9)
    for decimals in (1, 8):
        score = np.round(rng.random(300), decimals)
        positive = rng.random(300) < 0.3
        assert auroc(score, positive) == pytest.approx(roc_auc_score(positive, score), abs=1e-12)
    assert np.isnan(auroc([0.1, 0.2], [True, True]))


@pytest.mark.parametrize(
    ("uncertainty", "error", "said"),
    [
        ([], [], "n above 0"),
        ([1, 2], [0], "n above 0"),
        ([1, np.nan], [0, 1], "uncertainty of row 1 is NaN"),
        ([1, 2], [0, -1], "row 1 is negative"),
    ],
)
def test_what_cannot_be_ranked_is_refused(uncertainty, error, said):
    with pytest.raises(ValueError, match=said):
        risk_coverage(uncertainty, error)
