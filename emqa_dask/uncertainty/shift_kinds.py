"""Logistic regressions of shifts: log odds of a shift, and probabilities of its kinds; as plain arrays."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp
from sklearn.linear_model import LogisticRegression

INVERSE_PENALTY = 0.05  # scikit-learn's C: the inverse of the penalty on the weights


@dataclass(frozen=True)
class LogisticModel:
    """A multinomial logistic regression on features (n, f)."""

    weights: NDArray[np.float64]  # (classes, f)
    bias: NDArray[np.float64]  # (classes,)


def fit_logistic_model(features: NDArray, labels: NDArray) -> LogisticModel:
    """The regression of features (n, f) on classes `labels` (n,), 0 and above; every class has the same weight.

    Linear, so that an image farther out than any example is no less of a shift. A single class has probability 1.
    """
    if not labels.any():
        return LogisticModel(np.zeros((1, features.shape[1])), np.zeros(1))
    regression = LogisticRegression(C=INVERSE_PENALTY, class_weight="balanced", max_iter=3000).fit(features, labels)
    if len(regression.classes_) == 2:  # scikit-learn keeps the weights of the second class alone
        weights = np.stack([-regression.coef_[0], regression.coef_[0]]) / 2
        return LogisticModel(weights, np.array([-0.5, 0.5]) * regression.intercept_[0])
    return LogisticModel(np.ascontiguousarray(regression.coef_), regression.intercept_)


def compute_shift_log_odds(model: LogisticModel, features: NDArray) -> NDArray[np.float64]:
    """Log odds (n,) of any other class against class 0, which is no shift."""
    logits = _compute_logits(model, features)
    return logsumexp(logits[:, 1:], axis=1) - logits[:, 0]


def compute_log_probabilities(model: LogisticModel, features: NDArray) -> NDArray[np.float64]:
    """Log probability (n, classes) of each class."""
    return log_softmax(_compute_logits(model, features), axis=1)


def _compute_logits(model: LogisticModel, features: NDArray) -> NDArray[np.float64]:
    # Not by BLAS: its last bits depend on how many rows there are.
    return np.einsum("nf,kf->nk", features, model.weights) + model.bias
