"""Fused scores: false flags are held to their share, any score can flag."""

import numpy as np
import pytest

from emqa_dask.uncertainty import fusion


def test_false_flags_keep_their_share_and_any_score_flags():
    rng = np.random.default_rng(2)
    shares = []
    for _ in range(200):
        held = {"a": rng.gamma(2, size=100), "b": rng.normal(size=100)}
        scale = fusion.fit_scale(held, 0.05)
        new = {"a": rng.gamma(2, size=200), "b": rng.normal(size=200)}
        shares.append((fusion.fuse_scores(scale, new) > scale.limit).mean())
    assert np.mean(shares) == pytest.approx(0.05, abs=0.01)
    assert fusion.fuse_scores(scale, {"a": [100, 1], "b": [0, 100]}).min() > scale.limit
    swapped = fusion.fuse_scores(scale, {"b": [0.0, 100.0], "a": [100.0, 1.0]})
    np.testing.assert_array_equal(swapped, fusion.fuse_scores(scale, {"a": [100, 1], "b": [0, 100]}))


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(ValueError, match="10 held-out images cannot hold false flags"):
        fusion.fit_scale({"a": np.arange(10)})
    scale = fusion.fit_scale({"a": np.arange(50), "b": np.arange(50)})
    with pytest.raises(ValueError, match="scores b are missing"):
        fusion.fuse_scores(scale, {"a": [1]})
