"""How far an image's embedding lies from those that a classifier was trained on, and several such scores as one.

Entropy alone is not a safe flag: networks are sure of much that they have never seen. Distances in the space of the
last layer's inputs stand beside it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist
from sklearn.covariance import ledoit_wolf

N_NEIGHBOURS = 5
_BATCH = 2000


class Known(NamedTuple):
    """Training embeddings of one member."""

    means: NDArray[np.float64]  # (classes, r), whitened
    whiten: NDArray[np.float64]  # (d, r)
    rows: NDArray[np.float32]  # (n, d), each of length 1


def fit(embeddings: ArrayLike, y: ArrayLike) -> Known:
    """The classes' means under one Ledoit-Wolf covariance (Lee et al., NeurIPS 2018), and the rows themselves.

    `embeddings` (n, d) and classes `y` (n,) of training images. Raises ValueError for fewer rows than twice the
    classes, and for values that are not finite.
    """
    values, y = np.asarray(embeddings, float), np.asarray(y)
    names = np.unique(y)
    if values.ndim != 2 or y.shape != values.shape[:1] or len(values) < 2 * max(1, len(names)):
        raise ValueError(f"embeddings {values.shape}, classes {y.shape}: (n, d) and (n,), two rows a class, are needed")
    if not np.isfinite(values).all():
        raise ValueError(f"{(~np.isfinite(values)).any(axis=1).sum()} embeddings are not finite")
    means = np.stack([values[y == name].mean(axis=0) for name in names])
    eigenvalues, vectors = np.linalg.eigh(
        ledoit_wolf(values - means[np.searchsorted(names, y)], assume_centered=True)[0]
    )
    keep = eigenvalues > 1e-12 * max(eigenvalues[-1], 1e-300)
    whiten = vectors[:, keep] / np.sqrt(eigenvalues[keep])
    return Known(means @ whiten, whiten, _unit(values))


def mahalanobis(known: Known, embeddings: ArrayLike) -> NDArray[np.float64]:
    """Mahalanobis distance (m,) of embeddings (m, d) to the nearest class mean."""
    return cdist(np.asarray(embeddings, float) @ known.whiten, known.means).min(axis=1)


def nearest(known: Known, embeddings: ArrayLike, n_neighbours: int = N_NEIGHBOURS) -> NDArray[np.float64]:
    """Mean distance (m,) to the nearest training embeddings, all scaled to length 1 (Sun et al., ICML 2022)."""
    points, k = _unit(np.asarray(embeddings, float)), min(n_neighbours, len(known.rows))
    found = [np.zeros(0)]
    for start in range(0, len(points), _BATCH):
        near = np.partition(cdist(points[start : start + _BATCH], known.rows), k - 1, axis=1)[:, :k]
        found.append(near.mean(axis=1))
    return np.concatenate(found)


class Scale(NamedTuple):
    """What makes scores of different kinds comparable, and when to flag; from in-domain images held out of training."""

    names: tuple[str, ...]
    middle: NDArray[np.float64]  # medians
    span: NDArray[np.float64]  # from the median to the 95th percentile
    limit: float  # fused scores above it are flagged


def calibrate(held_out: Mapping[str, ArrayLike], false_flags: float = 0.05) -> Scale:
    """The scale of scores (n,) by name, so that about `false_flags` of in-domain images are flagged.

    The limit is the split-conformal quantile: of new images like the held-out ones, at most `false_flags` are above it
    on average, whatever the scores. Raises ValueError for fewer images than that needs.
    """
    scores = _columns(held_out, tuple(held_out))
    n = len(scores)
    rank = int(np.ceil((n + 1) * (1 - false_flags)))
    if not 0 < false_flags < 1 or rank > n:
        raise ValueError(f"{n} held-out images cannot hold false flags to {false_flags:g}: more are needed")
    middle, high = np.percentile(scores, [50, 95], axis=0)
    span = np.where(high > middle, high - middle, np.maximum(scores.std(axis=0), 1e-12))
    scale = Scale(tuple(held_out), middle, span, np.nan)
    return scale._replace(limit=float(np.sort(fuse(scale, held_out))[rank - 1]))


def fuse(scale: Scale, scores: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
    """One score (m,): the largest excess of any over its in-domain median, 1 at that score's 95th percentile."""
    return ((_columns(scores, scale.names) - scale.middle) / scale.span).max(axis=1)


def _columns(scores: Mapping[str, ArrayLike], names: Sequence[str]) -> NDArray[np.float64]:
    missing = [name for name in names if name not in scores]
    if missing or not names:
        raise ValueError(f"scores {', '.join(missing) or 'of any kind'} are missing; given: {', '.join(scores)}")
    return np.stack([np.asarray(scores[name], float) for name in names], axis=1)


def _unit(values: NDArray) -> NDArray[np.float32]:
    return (values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)).astype(np.float32)
