"""How good, and how honest, a classifier's probabilities of held-out rows are."""

import numpy as np
from numpy.typing import NDArray

from emqa_dask.uncertainty import entropy, referral, reliability

COVERAGE = 0.9


def figures(p: NDArray, y: NDArray) -> dict:
    """Accuracy, NLL, ECE, referral by entropy, and AUROC of entropy for wrong against right; p (members, n, classes).

    `error_at_90_coverage` is the error of the 90 % of rows with the lowest entropy.
    """
    mean = p.mean(axis=0, dtype=float)
    is_wrong = mean.argmax(axis=1) != y
    doubt = entropy.predictive_entropy(p)
    curve = referral.risk_coverage(doubt, is_wrong)
    results = {
        "accuracy": float(1 - is_wrong.mean()),
        "confidence": float(mean.max(axis=1).mean()),
        "nll": reliability.negative_log_likelihood(mean, y),
        "ece": reliability.expected_calibration_error(mean, y),
        "ece_equal_mass": reliability.expected_calibration_error(mean, y, binning="mass"),
        "risk_coverage_area": curve.area,
        "error_at_90_coverage": float(curve.risk[np.searchsorted(curve.coverage, COVERAGE - 1e-9)]),
        "wrong": int(is_wrong.sum()),
        "n": len(y),
    }
    if 0 < is_wrong.sum() < len(y):
        results["auroc_wrong_by_entropy"] = referral.auroc(doubt, is_wrong)
    return {key: round(value, 4) for key, value in results.items()}
