"""Distances of images to an ensemble's training images, by its members' embeddings: three distances per member."""

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
    residuals = values - means[np.searchsorted(names, y)]
    eigenvalues, vectors = np.linalg.eigh(ledoit_wolf(residuals, assume_centered=True)[0])
    is_kept = eigenvalues > 1e-12 * max(eigenvalues[-1], 1e-300)
    whiten = vectors[:, is_kept] / np.sqrt(eigenvalues[is_kept])
    # In the memory order of a saved array: sums differ in their last bits with it.
    return EmbeddingReference(means @ whiten, np.ascontiguousarray(whiten), np.zeros((0, whiten.shape[1]), np.float32))


def fit_member_reference(
    values: NDArray, y: NDArray, positions: NDArray
) -> tuple[EmbeddingReference, EmbeddingReference]:
    """A member's training embeddings (n, d) about class means, with the rows at `positions`, and about one mean."""
    reference = fit_embedding_reference(values, y)
    background = fit_embedding_reference(values, np.zeros(len(y)))
    return _add_rows(reference, values, positions), background


def fit_content_reference(values: NDArray, positions: NDArray) -> EmbeddingReference:
    """Training embeddings (n, d) about one mean, whatever the classes, with the rows at `positions`."""
    return _add_rows(fit_embedding_reference(values, np.zeros(len(values))), values, positions)


def _add_rows(reference: EmbeddingReference, values: NDArray, positions: NDArray) -> EmbeddingReference:
    """The reference with the whitened rows at `positions` of embeddings (n, d)."""
    rows = np.asarray(values, float)[positions] @ reference.whiten
    return reference._replace(rows=np.ascontiguousarray(rows, np.float32))


def compute_distances(
    members: Sequence[EmbeddingReference], backgrounds: Sequence[EmbeddingReference], embeddings: NDArray
) -> NDArray[np.float64]:
    """Distances (3, k, n) of k members' embeddings (k, n, d): Mahalanobis, to the nearest training rows, relative.

    Mahalanobis: to the nearest class mean (Lee et al., NeurIPS 2018). Relative: its square less that to the mean of
    all classes under their common covariance (Ren et al., arXiv 2106.09022), which removes what all classes share.

    Neighbours are taken where the classes' common covariance is 1, not on the sphere of Sun et al. (ICML 2022): there
    the directions that separate classes are lost among the others.
    """
    distances = []
    for member, background, values in zip(members, backgrounds, embeddings):
        points = _whiten_rows(values, member)
        mahalanobis = cdist(points, member.means).min(axis=1)
        to_mean = cdist(_whiten_rows(values, background), background.means)[:, 0]
        nearest = domain_distance.compute_neighbour_distances(points, member.rows)
        distances.append((mahalanobis, nearest, mahalanobis**2 - to_mean**2))
    return np.array(distances).transpose(1, 0, 2)


def compute_content_distances(reference: EmbeddingReference, values: NDArray) -> NDArray[np.float64]:
    """Mean distance (n,) of embeddings (n, d) to the nearest rows: domain_distance.compute_neighbour_distances()."""
    return domain_distance.compute_neighbour_distances(_whiten_rows(values, reference), reference.rows)


def _whiten_rows(values: NDArray, reference: EmbeddingReference) -> NDArray[np.float64]:
    # Not by BLAS, whose last bits depend on how many rows there are: an image's distance is its own.
    return np.einsum("nd,dr->nr", np.asarray(values, float), reference.whiten)
