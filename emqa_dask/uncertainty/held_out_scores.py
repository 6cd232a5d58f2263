"""Scores of a classifier on held-out rows: accuracy, likelihood, calibration, referral by entropy."""

import numpy as np
from numpy.typing import NDArray

from emqa_dask.uncertainty import entropy, referral, reliability

COVERAGE = 0.9  # at which the error of the rows that are kept is stated


def compute_held_out_scores(p: NDArray, y: NDArray) -> dict:
    """Scores of probabilities p (members, n, classes) of rows with classes y (n,), rounded, as a card has them.

    `error_at_90_percent_coverage` is the error of the 90 % of rows with the lowest entropy, `confidence` the mean
    largest probability, `reliability_*` the reliability diagram as lists. Where all rows are right, or all wrong,
    there is no `auroc_wrong_by_entropy`.
    """
    mean = p.mean(axis=0, dtype=float)
    is_wrong = mean.argmax(axis=1) != y
    entropy_nats = entropy.predictive_entropy(p)
    diagram = reliability.reliability_table(mean, y)
    curve = referral.risk_coverage(entropy_nats, is_wrong)
    scores = {
        "n": len(y),
        "accuracy": round(float(1 - is_wrong.mean()), 4),
        "confidence": round(float(mean.max(axis=1).mean()), 4),
        "nll": round(reliability.negative_log_likelihood(mean, y), 4),
        "ece": round(reliability.expected_calibration_error(mean, y), 4),
        "ece_equal_mass": round(reliability.expected_calibration_error(mean, y, binning="mass"), 4),
        "risk_coverage_area": round(curve.area, 5),
        "error_at_90_percent_coverage": round(float(curve.risk[int(np.ceil(COVERAGE * len(y) - 1e-9)) - 1]), 4),
        "temperature": round(reliability.fit_temperature(mean, y), 4),
    }
    if 0 < is_wrong.sum() < len(y):
        scores["auroc_wrong_by_entropy"] = round(referral.auroc(entropy_nats, is_wrong), 4)
    bins = {f"reliability_{name}": diagram[name].round(4).tolist() for name in ("confidence", "accuracy", "n")}
    return scores | bins
