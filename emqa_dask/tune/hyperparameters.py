"""Hyperparameters of a classifier that a search tries next: Bayesian optimisation of one loss by scikit-optimize."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from skopt import Optimizer
from skopt.space import Categorical, Integer, Real

LEARNING_RATE = (1e-4, 1e-2)
WEIGHT_DECAY = (1e-6, 1e-2)
WIDEN = (1, 4)  # of the wide ResNet
N_INITIAL = 6  # trials of a Latin hypercube before the Gaussian process chooses


def propose_hyperparameters(
    trials: Sequence[Mapping[str, Any]], losses: Sequence[float], n: int, *, has_width: bool, seed: int = 0
) -> list[dict[str, Any]]:
    """`n` sets of hyperparameters to try next, from `trials` and their `losses`: the same arguments, the same sets.

    A set has learning_rate, weight_decay, flip (left and right mirrored at random) and, with `has_width`, widen. Loss:
    the lower the better; one that is not finite counts as the worst finite one. Several sets of one call are apart by
    the constant liar (Ginsbourger et al., 2010). This is skopt's Optimizer, which minimises one loss; `tune.bayes` has
    several objectives and uses its Gaussian process only.
    """
    names, dimensions = _make_space(has_width)
    optimiser = Optimizer(
        dimensions,
        "GP",
        n_initial_points=N_INITIAL,
        initial_point_generator="lhs",
        acq_func="EI",
        acq_optimizer="sampling",
        random_state=seed,
    )
    values = np.asarray(losses, float)
    is_finite = np.isfinite(values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a set may be tried again; a parameter of the fit may be at its bound
        if is_finite.any():
            values = np.where(is_finite, values, values[is_finite].max())
            optimiser.tell([[trial[name] for name in names] for trial in trials], values.tolist())
        points = optimiser.ask(n_points=n, strategy="cl_min")
    return [{name: _to_plain(value) for name, value in zip(names, point)} for point in points]


def _make_space(has_width: bool) -> tuple[list[str], list]:
    """Names and skopt's dimensions of the hyperparameters."""
    space = {
        "learning_rate": Real(*LEARNING_RATE, prior="log-uniform"),
        "weight_decay": Real(*WEIGHT_DECAY, prior="log-uniform"),
        "flip": Categorical([False, True]),
    }
    if has_width:
        space["widen"] = Integer(*WIDEN)
    return list(space), list(space.values())


def _to_plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
