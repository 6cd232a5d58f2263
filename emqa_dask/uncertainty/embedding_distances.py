"""How far images lie from those that an ensemble was trained on, by its members' embeddings: three distances."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist
from sklearn.covariance import ledoit_wolf

from emqa_dask import domain_distance


class EmbeddingReference(NamedTuple):
    """Training embeddings of one member."""

    means: NDArray[np.float64]  # (classes, r), whitened
    whiten: NDArray[np.float64]  # (d, r)
    rows: NDArray[np.float32]  # (n, r), whitened; none of a background


def fit_embedding_reference(embeddings: ArrayLike, y: ArrayLike) -> EmbeddingReference:
    """The classes' means under one Ledoit-Wolf covariance (Lee et al., NeurIPS 2018), without rows.

    `embeddings` (n, d) and classes `y` (n,) of training images. Raises ValueError for fewer rows than twice the
    classes, and for values that are not finite.
    """
    values = np.asarray(embeddings, float)
    y = np.asarray(y)
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
    # In the order in which it is saved: sums differ in their last bits with the order of the memory.
    return EmbeddingReference(means @ whiten, np.ascontiguousarray(whiten), np.zeros((0, whiten.shape[1]), np.float32))


def fit_member_reference(values: NDArray, y: NDArray, keep: NDArray) -> tuple[EmbeddingReference, EmbeddingReference]:
    """A member's training embeddings about their classes' means, with the rows to keep, and about their mean."""
    values = np.asarray(values, float)
    known = fit_embedding_reference(values, y)
    background = fit_embedding_reference(values, np.zeros(len(y)))
    return known._replace(rows=np.ascontiguousarray(values[keep] @ known.whiten, np.float32)), background


def compute_distances(
    members: Sequence[EmbeddingReference], backgrounds: Sequence[EmbeddingReference], seen: NDArray
) -> NDArray[np.float64]:
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
        relative = own**2 - cdist(all_in_one, background.means)[:, 0] ** 2
        found.append((own, domain_distance.compute_neighbour_distances(points, member.rows), relative))
    return np.array(found).transpose(1, 0, 2)


def fit_content_reference(values: NDArray, keep: NDArray) -> EmbeddingReference:
    """Training embeddings (n, d) about their one mean, whatever the classes, with the rows to keep."""
    values = np.asarray(values, float)
    known = fit_embedding_reference(values, np.zeros(len(values)))
    return known._replace(rows=np.ascontiguousarray(values[keep] @ known.whiten, np.float32))


def compute_content_distances(known: EmbeddingReference, values: NDArray) -> NDArray[np.float64]:
    """Mean distance (n,) of embeddings (n, d) to the nearest rows: see ood.nearest."""
    return domain_distance.compute_neighbour_distances(
        np.einsum("nd,dr->nr", np.asarray(values, float), known.whiten), known.rows
    )
