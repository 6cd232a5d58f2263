"""Pruning agrees with scikit-image's, whatever the order of visits does to chains of blobs, and is quick."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from skimage.feature.blob import _blob_overlap, _prune_blobs

from emqa_dask.detect.prune import prune, set_order


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 3000), st.integers(0, 2**32))
def test_pairs_come_in_the_order_of_a_python_set(n, seed):
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(np.unique(rng.integers(0, 4 + n, (n, 2)), axis=0))
    filled = set()
    for pair in map(tuple, pairs.tolist()):
        filled.add(pair)
    assert list(map(tuple, pairs[set_order(pairs)].tolist())) == list(filled)


def test_pairs_come_in_the_order_of_a_python_set_beyond_its_fast_growth():
    pairs = np.random.default_rng(0).permutation(np.stack(np.triu_indices(500, 1), axis=1))
    filled = set()
    for pair in map(tuple, pairs.tolist()):
        filled.add(pair)
    assert list(map(tuple, pairs[set_order(pairs)].tolist())) == list(filled)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 200),
    st.integers(0, 2**32),
    st.floats(0, 1),
    st.sampled_from([np.float32, np.float64]),
    st.booleans(),
)
def test_the_same_blobs_stay_as_in_scikit_image(n, seed, overlap, dtype, is_lattice):
    rng = np.random.default_rng(seed)
    place = rng.integers(0, 60, (n, 2)) * (4 if is_lattice else 1)
    sigma = rng.choice(np.geomspace(1, 12, 6), n)
    blobs = np.column_stack([place, sigma]).astype(dtype)
    keep = prune(*np.ascontiguousarray(blobs.T), overlap)
    np.testing.assert_array_equal(blobs[keep], _prune_blobs(blobs.copy(), overlap))


def test_no_blobs_and_one_blob():
    assert prune(*np.zeros((3, 0)), 0.5).shape == (0,)
    assert prune(*np.ones((3, 1)), 0.0).tolist() == [True]


@pytest.mark.parametrize("overlap", [0.01, 0.5])
def test_of_tens_of_thousands_of_blobs_no_two_that_stay_overlap(overlap):
    rng = np.random.default_rng(0)
    y, x = rng.integers(0, 2000, (2, 30_000)).astype(float)
    sigma = rng.choice(np.geomspace(2, 20, 10), 30_000)
    keep = prune(y, x, sigma, overlap)
    assert 0 < keep.sum() < len(keep)
    left = np.column_stack([y, x, sigma])[keep]
    pairs = cKDTree(left[:, :2]).query_pairs(2 * np.sqrt(2) * 20, output_type="ndarray")
    shared = [_blob_overlap(left[i], left[j], sigma_dim=1) for i, j in pairs[:: max(1, len(pairs) // 2000)]]
    assert max(shared) <= overlap
