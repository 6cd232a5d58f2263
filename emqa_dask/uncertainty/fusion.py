"""Fusion of scores of different kinds into one, and the limit above which an image is flagged.

Entropy alone is no safe flag: networks are certain of much that they were not trained on. Distances complement it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class FusionScale(NamedTuple):
    """Scale and limit of scores of different kinds, from in-domain images held out of training."""

    names: tuple[str, ...]
    medians: NDArray[np.float64]  # (k,)
    steps: NDArray[np.float64]  # (k,), from the median to the value at which a score counts 1
    limit: float  # fused scores above it are flagged


def fit_scale(
    held_out: Mapping[str, ArrayLike], false_flags: float = 0.05, percentiles: Mapping[str, float] | None = None
) -> FusionScale:
    """The scale of scores (n,) by name, so that about `false_flags` of in-domain images are flagged.

    A score counts 1 at its 95th percentile, or at its percentile of `percentiles` where that is higher. The limit is
    the split-conformal quantile: of new images like the held-out ones, at most `false_flags` are above it on average,
    whatever the scores. Raises ValueError for fewer images than that needs.
    """
    scores = _stack_scores(held_out, tuple(held_out))
    n = len(scores)
    rank = int(np.ceil((n + 1) * (1 - false_flags)))
    if not 0 < false_flags < 1 or rank > n:
        raise ValueError(f"{n} held-out images cannot hold false flags to {false_flags:g}: more are needed")
    medians, high = np.percentile(scores, [50, 95], axis=0)
    steps = np.where(high > medians, high - medians, np.maximum(scores.std(axis=0), 1e-12))
    tops = [np.percentile(column, (percentiles or {}).get(name, 95)) for name, column in zip(held_out, scores.T)]
    scale = FusionScale(tuple(held_out), medians, np.maximum(tops - medians, steps), np.nan)
    return scale._replace(limit=float(np.sort(fuse_scores(scale, held_out))[rank - 1]))


def fuse_scores(scale: FusionScale, scores: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
    """The fused score (m,): the largest of the scores, each less its median and divided by its step."""
    return ((_stack_scores(scores, scale.names) - scale.medians) / scale.steps).max(axis=1)


def _stack_scores(scores: Mapping[str, ArrayLike], names: Sequence[str]) -> NDArray[np.float64]:
    """Scores (m, k) of k names; ValueError for missing ones."""
    missing_names = [name for name in names if name not in scores]
    if missing_names or not names:
        raise ValueError(f"scores {', '.join(missing_names) or 'of any kind'} are missing; given: {', '.join(scores)}")
    return np.stack([np.asarray(scores[name], float) for name in names], axis=1)
