"""Distances of embeddings: they grow with the distance, ask for no units, and are those of the data's covariance."""

import numpy as np
import pytest

from emqa_dask.uncertainty import embedding_distances


def clusters(rng, n=400, d=20):
    y = rng.integers(0, 3, n)
    centres = np.eye(3, d) * 12
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0] * np.geomspace(0.1, 2, d)
    return centres[y] + 5 + rng.normal(size=(n, d)) @ turn, y, turn


def far(x, y, some):
    """Mahalanobis distances, distances to the nearest rows, and relative ones of `some`, each (m,)."""
    member, background = embedding_distances.fit_member_reference(x, y, np.arange(len(x)))
    return embedding_distances.compute_distances([member], [background], np.asarray(some)[None])[:, 0]


def test_distances_grow_with_separation_and_ignore_units():
    rng = np.random.default_rng(0)
    x, y, _ = clusters(rng)
    steps = x.mean(axis=0) + np.linspace(5, 60, 12)[:, None] * rng.normal(size=20)
    found = far(x, y, steps)
    assert (np.diff(found[:2]) > 0).all()
    np.testing.assert_allclose(far(7 * x, y, 7 * steps), found, rtol=1e-4)


def test_mahalanobis_is_that_of_the_covariance_that_made_the_data():
    rng = np.random.default_rng(1)
    x, y, turn = clusters(rng, n=20_000, d=6)
    some = rng.normal(size=(50, 6)) * 5
    inverse = np.linalg.inv(turn.T @ turn)
    gaps = some[:, None] - (np.eye(3, 6) * 12 + 5)
    exact = np.sqrt(np.einsum("nci,ij,ncj->nc", gaps, inverse, gaps).min(axis=1))
    np.testing.assert_allclose(far(x, y, some)[0], exact, rtol=0.05)


def test_a_new_cluster_is_far_from_all_the_others():
    rng = np.random.default_rng(3)
    x, y, _ = clusters(rng)
    is_new = y == 2
    found = far(x[~is_new], y[~is_new], x)[:2]
    assert (found[:, is_new].min(axis=1) > np.percentile(found[:, ~is_new], 95, axis=1)).all()


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(ValueError, match="two rows a class"):
        embedding_distances.fit_embedding_reference(np.zeros((3, 2)), [0, 1, 2])
    with pytest.raises(ValueError, match="1 embeddings are not finite"):
        embedding_distances.fit_embedding_reference([[0, 1], [1, 2], [3, np.nan], [1, 1]], [0, 0, 1, 1])
