"""Scores of different kinds as one, and the limit above which an image is flagged.

Entropy alone is not a safe flag: networks are sure of much that they have never seen. Distances stand beside it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class FusionScale(NamedTuple):
    """What makes scores of different kinds comparable, and when to flag; from in-domain images held out of training."""

    names: tuple[str, ...]
    middle: NDArray[np.float64]  # medians
    span: NDArray[np.float64]  # from the median to where a score counts 1
    limit: float  # fused scores above it are flagged


def fit_scale(
    held_out: Mapping[str, ArrayLike], false_flags: float = 0.05, bars: Mapping[str, float] | None = None
) -> FusionScale:
    """The scale of scores (n,) by name, so that about `false_flags` of in-domain images are flagged.

    A score counts 1 at its 95th percentile, or at that of `bars` where it has one and that is higher.

    The limit is the split-conformal quantile: of new images like the held-out ones, at most `false_flags` are above it
    on average, whatever the scores. Raises ValueError for fewer images than that needs.
    """
    scores = _stack_scores(held_out, tuple(held_out))
    n = len(scores)
    rank = int(np.ceil((n + 1) * (1 - false_flags)))
    if not 0 < false_flags < 1 or rank > n:
        raise ValueError(f"{n} held-out images cannot hold false flags to {false_flags:g}: more are needed")
    middle, high = np.percentile(scores, [50, 95], axis=0)
    span = np.where(high > middle, high - middle, np.maximum(scores.std(axis=0), 1e-12))
    at = [np.percentile(column, (bars or {}).get(name, 95)) for name, column in zip(held_out, scores.T)]
    scale = FusionScale(tuple(held_out), middle, np.maximum(at - middle, span), np.nan)
    return scale._replace(limit=float(np.sort(fuse_scores(scale, held_out))[rank - 1]))


def fuse_scores(scale: FusionScale, scores: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
    """One score (m,): the largest excess of any over its in-domain median, 1 at that score's 95th percentile."""
    return ((_stack_scores(scores, scale.names) - scale.middle) / scale.span).max(axis=1)


def _stack_scores(scores: Mapping[str, ArrayLike], names: Sequence[str]) -> NDArray[np.float64]:
    missing = [name for name in names if name not in scores]
    if missing or not names:
        raise ValueError(f"scores {', '.join(missing) or 'of any kind'} are missing; given: {', '.join(scores)}")
    return np.stack([np.asarray(scores[name], float) for name in names], axis=1)
