"""What simulated shifts teach: log odds of a shift against none, and of its kinds; as plain arrays."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp
from sklearn.linear_model import LogisticRegression

INVERSE_PENALTY = 0.05  # of the weights: inverse of their penalty


@dataclass(frozen=True)
class LogisticModel:
    """A multinomial logistic regression on evidence (n, f)."""

    weights: NDArray[np.float64]  # (classes, f)
    bias: NDArray[np.float64]  # (classes,)


def fit_logistic_model(evidence: NDArray, of: NDArray) -> LogisticModel:
    """The regression of evidence (n, f) of classes `of` (n,), 0 and above; every class weighs the same.

    Linear, so that what lies farther out than any example is no less of a shift. One class alone is certain.
    """
    if not of.any():
        return LogisticModel(np.zeros((1, evidence.shape[1])), np.zeros(1))
    model = LogisticRegression(C=INVERSE_PENALTY, class_weight="balanced", max_iter=3000).fit(evidence, of)
    if len(model.classes_) == 2:  # scikit-learn keeps the second's alone
        return LogisticModel(
            np.stack([-model.coef_[0], model.coef_[0]]) / 2, np.array([-0.5, 0.5]) * model.intercept_[0]
        )
    return LogisticModel(np.ascontiguousarray(model.coef_), model.intercept_)


def compute_shift_log_odds(odds: LogisticModel, evidence: NDArray) -> NDArray[np.float64]:
    """Log odds (n,) of any other class against class 0, which is no shift."""
    logits = _compute_logits(odds, evidence)
    return logsumexp(logits[:, 1:], axis=1) - logits[:, 0]


def compute_log_probabilities(odds: LogisticModel, evidence: NDArray) -> NDArray[np.float64]:
    """Log probability (n, classes) of each class."""
    return log_softmax(_compute_logits(odds, evidence), axis=1)


def _compute_logits(odds: LogisticModel, evidence: NDArray) -> NDArray[np.float64]:
    # Not by BLAS: its last bits depend on how many rows there are.
    return np.einsum("nf,kf->nk", evidence, odds.weights) + odds.bias
