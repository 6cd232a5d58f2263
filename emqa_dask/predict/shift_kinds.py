"""What simulated shifts teach: log odds against no shift at all, and which kind of shift it is; as plain arrays."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.special import log_softmax, logsumexp
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression

STRENGTH = 0.05  # of the linear regression's weights: inverse of their penalty
N_LANDMARKS = 400


@dataclass(frozen=True)
class Odds:
    """A multinomial logistic regression on evidence (n, f); class 0 is no shift."""

    weights: NDArray[np.float64]  # (classes, f)
    bias: NDArray[np.float64]  # (classes,)


@dataclass(frozen=True)
class Kinds:
    """A multinomial logistic regression on Gaussian kernels about some of the examples."""

    centre: NDArray[np.float64]  # (f,)
    spread: NDArray[np.float64]  # (f,)
    landmarks: NDArray[np.float64]  # (m, f), scaled
    weights: NDArray[np.float64]  # (m, kinds)
    bias: NDArray[np.float64]  # (kinds,)


def fit_odds(evidence: NDArray, of: NDArray) -> Odds:
    """The regression of evidence (n, f) of classes `of` (n,), 0 and above; every class weighs the same.

    Linear, so that what lies farther out than any example is no less of a shift.
    """
    return Odds(*_regression(STRENGTH, evidence, of))


def against_none(odds: Odds, evidence: NDArray) -> NDArray[np.float64]:
    """Log odds (n,) of a shift of any kind."""
    # Not by BLAS, here and below: its last bits depend on how many rows there are.
    logits = np.einsum("nf,kf->nk", evidence, odds.weights) + odds.bias
    return logsumexp(logits[:, 1:], axis=1) - logits[:, 0]


def fit_kinds(evidence: NDArray, of: NDArray, *, seed: int = 0) -> Kinds:
    """The regression of shifted examples' evidence (n, f) and kinds `of` (n,), 0 and above.

    Kernels, because a kind is no half space: acquisition may take or add noise, soften or sharpen. Williams & Seeger,
    NIPS 2000 (Nystroem's approximation, here of a kernel whose width is the square root of the evidence's length).
    """
    centre, spread = evidence.mean(axis=0), np.maximum(evidence.std(axis=0), 1e-6)
    scaled = (evidence - centre) / spread
    n_kinds = int(of.max()) + 1
    if n_kinds == 1:
        return Kinds(centre, spread, scaled[:1], np.zeros((1, 1)), np.zeros(1))
    chart = Nystroem(gamma=_width(scaled), n_components=min(N_LANDMARKS, len(scaled)), random_state=seed).fit(scaled)
    weights, bias = _regression(1.0, chart.transform(scaled), of)
    return Kinds(centre, spread, chart.components_, np.ascontiguousarray(chart.normalization_.T @ weights.T), bias)


def log_probabilities(kinds: Kinds, evidence: NDArray) -> NDArray[np.float64]:
    """Log probability (n, kinds) of each kind, given that there is a shift."""
    scaled = (evidence - kinds.centre) / kinds.spread
    near = np.exp(-_width(scaled) * cdist(scaled, kinds.landmarks, "sqeuclidean"))
    return log_softmax(np.einsum("nm,mk->nk", near, kinds.weights) + kinds.bias, axis=1)


def _width(scaled: NDArray) -> float:
    return 0.5 / scaled.shape[1]


def _regression(strength: float, x: NDArray, of: NDArray) -> tuple[NDArray, NDArray]:
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=3000).fit(x, of)
    if len(model.classes_) == 2:  # scikit-learn keeps the second's alone
        return np.stack([-model.coef_[0], model.coef_[0]]) / 2, np.array([-0.5, 0.5]) * model.intercept_[0]
    return np.ascontiguousarray(model.coef_), model.intercept_
