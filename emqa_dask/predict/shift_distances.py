"""How far images lie from those that an ensemble was trained on, by its members' embeddings: three distances."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from emqa_dask.predict.embeddings import N_NEIGHBOURS, Known, fit

_BATCH = 2000


def of_member(values: NDArray, y: NDArray, keep: NDArray) -> tuple[Known, Known]:
    """A member's training embeddings about their classes' means, with the rows to keep, and about their mean."""
    values = np.asarray(values, float)
    known, background = fit(values, y), fit(values, np.zeros(len(y)))
    # In the order in which they are saved: sums differ in their last bits with the order of the memory.
    whiten = np.ascontiguousarray(known.whiten)
    rows = np.ascontiguousarray(values[keep] @ whiten, np.float32)
    none = np.zeros((0, background.means.shape[1]), np.float32)
    background = background._replace(rows=none, whiten=np.ascontiguousarray(background.whiten))
    return known._replace(rows=rows, whiten=whiten), background


def distances(members: Sequence[Known], backgrounds: Sequence[Known], seen: NDArray) -> NDArray[np.float64]:
    """Distances (3, k, n) of k members' embeddings (k, n, d): Mahalanobis, to the nearest training rows, relative.

    Mahalanobis: to the nearest class mean (Lee et al., NeurIPS 2018). Relative: its square less that to the mean of
    all classes under their common covariance (Ren et al., arXiv 2106.09022): it sees past what all classes share.

    Neighbours are sought where the classes' common covariance is 1, not on the sphere of Sun et al. (ICML 2022): there
    the directions that tell classes apart drown in the others.
    """
    found = []
    for member, background, values in zip(members, backgrounds, seen):
        values = np.asarray(values, float)
        # Not by BLAS, whose last bits depend on how many rows there are: an image's score is its own.
        points, all_in_one = (np.einsum("nd,dr->nr", values, kind.whiten) for kind in (member, background))
        own = cdist(points, member.means).min(axis=1)
        k = min(N_NEIGHBOURS, len(member.rows))
        near = [np.zeros(0)]
        for start in range(0, len(points), _BATCH):
            apart = cdist(points[start : start + _BATCH], member.rows)
            near.append(np.partition(apart, k - 1, axis=1)[:, :k].mean(axis=1))
        relative = own**2 - cdist(all_in_one, background.means)[:, 0] ** 2
        found.append((own, np.concatenate(near), relative))
    return np.array(found).transpose(1, 0, 2)
