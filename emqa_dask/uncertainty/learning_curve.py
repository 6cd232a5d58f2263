"""Learning curves: a power law of accuracy against number of labels, and the labels needed for an accuracy."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar, nnls

EXPONENT_RANGE = (0.05, 2.0)  # below, the law is as good as flat; above, it has reached its ceiling


class LearningCurve(NamedTuple):
    """`accuracy = 1 - floor - loss * n ** -exponent`: error falls as a power law to a floor (all fields from 0 up)."""

    floor: float  # error that no number of labels removes
    loss: float
    exponent: float


def fit_learning_curve(n_labels: ArrayLike, accuracy: ArrayLike) -> LearningCurve:
    """The least-squares power law of accuracies (m,) in [0, 1] that trainings with `n_labels` (m,) labels reached.

    The accuracies may be those on labelled data, or the mean largest probability on unlabelled data that stands in for
    them (paper D, case study 1); it does so only as well as the classifier is calibrated. Law: Cortes et al., NIPS
    1993. A curve that does not rise gives `loss` 0. Raises ValueError for fewer than three different numbers of labels,
    and for values outside.
    """
    n = np.asarray(n_labels, float)
    error = 1 - np.asarray(accuracy, float)
    if n.ndim != 1 or n.shape != error.shape or len(np.unique(n)) < 3:
        raise ValueError(
            f"numbers of labels {n.shape} and accuracies {error.shape}: give (m,) each, with three different numbers "
            "of labels at least; a power law has three unknowns"
        )
    for name, values, is_invalid in (
        ("number of labels", n, ~(n > 0) | np.isinf(n)),
        ("accuracy", 1 - error, ~((error >= 0) & (error <= 1))),
    ):
        if is_invalid.any():
            raise ValueError(
                f"{name} {values[is_invalid][0]:g} at place {np.flatnonzero(is_invalid)[0]} is outside of its range"
            )

    def fit(exponent: float) -> tuple[NDArray, float]:
        return nnls(np.stack([np.ones_like(n), (n / n.max()) ** -exponent], axis=1), error)

    grid = np.linspace(*EXPONENT_RANGE, 79)
    best_index = int(np.argmin([fit(exponent)[1] for exponent in grid]))
    bounds = grid[max(best_index - 1, 0)], grid[min(best_index + 1, len(grid) - 1)]
    exponent = float(minimize_scalar(lambda e: fit(e)[1], bounds=bounds, method="bounded", options={"xatol": 1e-9}).x)
    (floor, loss), _ = fit(exponent)
    return LearningCurve(float(floor), float(loss * n.max() ** exponent), exponent)


def predict_accuracy(curve: LearningCurve, n_labels: ArrayLike) -> NDArray:
    """Accuracy of the law for `n_labels` labels (any shape); not below 0."""
    return np.maximum(0, 1 - curve.floor - curve.loss * np.asarray(n_labels, float) ** -curve.exponent)


def compute_labels_needed(curve: LearningCurve, target: float) -> float:
    """Number of labels from which the law reaches the accuracy `target`; inf where its floor prevents it.

    Far outside the numbers of labels that the curve was fitted to it is a guess. Raises ValueError for a target
    outside of (0, 1).
    """
    if not 0 < target < 1:
        raise ValueError(f"target accuracy {target:g} is not between 0 and 1")
    reducible_error = 1 - target - curve.floor
    if curve.loss == 0:
        return 1.0 if reducible_error >= 0 else np.inf
    if reducible_error <= 1e-12:  # rounding: no number of labels would do
        return np.inf
    with np.errstate(over="ignore"):
        return float(max(1.0, np.float64(curve.loss / reducible_error) ** (1 / curve.exponent)))
