import numpy as np
import pytest

from emqa_dask.predict import embeddings


def clusters(rng, n=400, d=20):
    y = rng.integers(0, 3, n)
    centres = np.eye(3, d) * 12
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0] * np.geomspace(0.1, 2, d)
    return centres[y] + 5 + rng.normal(size=(n, d)) @ turn, y, turn


def test_distances_grow_with_the_distance_and_do_not_ask_for_units():
    rng = np.random.default_rng(0)
    x, y, _ = clusters(rng)
    known = embeddings.fit(x, y)
    way = rng.normal(size=20)
    steps = x.mean(axis=0) + np.linspace(5, 60, 12)[:, None] * way
    assert (np.diff(embeddings.mahalanobis(known, steps)) > 0).all()
    scaled = embeddings.fit(7 * x, y)
    np.testing.assert_allclose(
        embeddings.mahalanobis(scaled, 7 * steps), embeddings.mahalanobis(known, steps), rtol=1e-6
    )
    np.testing.assert_allclose(embeddings.nearest(scaled, 7 * steps), embeddings.nearest(known, steps), atol=1e-5)
    assert embeddings.nearest(known, x, 1).max() < 1e-5  # each is its own neighbour


def test_mahalanobis_is_that_of_the_covariance_that_made_the_data():
    rng = np.random.default_rng(1)
    x, y, turn = clusters(rng, n=20_000, d=6)
    known = embeddings.fit(x, y)
    some = rng.normal(size=(50, 6)) * 5
    inverse = np.linalg.inv(turn.T @ turn)
    gaps = some[:, None] - (np.eye(3, 6) * 12 + 5)
    exact = np.sqrt(np.einsum("nci,ij,ncj->nc", gaps, inverse, gaps).min(axis=1))
    np.testing.assert_allclose(embeddings.mahalanobis(known, some), exact, rtol=0.05)


def test_false_flags_are_held_to_their_share_and_any_score_can_flag():
    rng = np.random.default_rng(2)
    shares = []
    for _ in range(200):
        held = {"a": rng.gamma(2, size=100), "b": rng.normal(size=100)}
        scale = embeddings.calibrate(held, 0.05)
        new = {"a": rng.gamma(2, size=200), "b": rng.normal(size=200)}
        shares.append((embeddings.fuse(scale, new) > scale.limit).mean())
    assert np.mean(shares) == pytest.approx(0.05, abs=0.01)
    assert embeddings.fuse(scale, {"a": [100, 1], "b": [0, 100]}).min() > scale.limit
    swapped = embeddings.fuse(scale, {"b": [0.0, 100.0], "a": [100.0, 1.0]})
    np.testing.assert_array_equal(swapped, embeddings.fuse(scale, {"a": [100, 1], "b": [0, 100]}))


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(ValueError, match="two rows a class"):
        embeddings.fit(np.zeros((3, 2)), [0, 1, 2])
    with pytest.raises(ValueError, match="1 embeddings are not finite"):
        embeddings.fit([[0, 1], [1, 2], [3, np.nan], [1, 1]], [0, 0, 1, 1])
    with pytest.raises(ValueError, match="10 held-out images cannot hold false flags"):
        embeddings.calibrate({"a": np.arange(10)})
    scale = embeddings.calibrate({"a": np.arange(50), "b": np.arange(50)})
    with pytest.raises(ValueError, match="scores b are missing"):
        embeddings.fuse(scale, {"a": [1]})
