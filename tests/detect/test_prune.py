"""Pruning by size has one result, by definition; the other one agrees with scikit-image's, order of visits included."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from skimage.feature.blob import _blob_overlap, _prune_blobs

from emqa_dask.detect.prune import prune_as_skimage, prune_largest_first
from emqa_dask.detect.set_order import order_as_set


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 3000), st.integers(0, 2**32))
def test_pairs_come_in_the_order_of_a_python_set(n, seed):
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(np.unique(rng.integers(0, 4 + n, (n, 2)), axis=0))
    filled = set()
    for pair in map(tuple, pairs.tolist()):
        filled.add(pair)
    assert list(map(tuple, pairs[order_as_set(pairs)].tolist())) == list(filled)


def test_pairs_have_the_order_of_a_large_python_set():
    pairs = np.random.default_rng(0).permutation(np.stack(np.triu_indices(500, 1), axis=1))
    filled = set()
    for pair in map(tuple, pairs.tolist()):
        filled.add(pair)
    assert list(map(tuple, pairs[order_as_set(pairs)].tolist())) == list(filled)


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
    keep = prune_as_skimage(*np.ascontiguousarray(blobs.T), overlap)
    np.testing.assert_array_equal(blobs[keep], _prune_blobs(blobs.copy(), overlap))


def test_no_blobs_and_one_blob():
    assert prune_as_skimage(*np.zeros((3, 0)), 0.5).shape == (0,)
    assert prune_as_skimage(*np.ones((3, 1)), 0.0).tolist() == [True]
    assert prune_largest_first(*np.zeros((3, 0)), 0.5).shape == (0,)
    assert prune_largest_first(*np.ones((3, 1)), 0.0).tolist() == [True]


def by_definition(blobs, overlap):
    """The same as largest_first(), one blob after the other, each asked of all that stay so far."""
    stay = []
    for i in sorted(range(len(blobs)), key=lambda i: (-blobs[i, 2], -i)):
        if all(_blob_overlap(blobs[i], blobs[j], sigma_dim=1) <= overlap for j in stay):
            stay.append(i)
    return np.isin(np.arange(len(blobs)), stay)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 150), st.integers(0, 2**32), st.floats(0.01, 0.99), st.sampled_from([2, 12, 80]))
def test_the_largest_stay_first(n, seed, overlap, largest):
    rng = np.random.default_rng(seed)
    sigma = rng.choice(np.geomspace(1, largest, 6), n)
    blobs = np.column_stack([rng.uniform(0, 60, (n, 2)), sigma])
    np.testing.assert_array_equal(prune_largest_first(*blobs.T, overlap), by_definition(blobs, overlap))


def test_pruning_largest_first_keeps_scikit_image_blobs_and_few_more():
    rng = np.random.default_rng(2)
    y, x = rng.uniform(0, 1000, (2, 4000))
    sigma = rng.choice(np.geomspace(2, 15, 10), 4000)
    one = prune_largest_first(y, x, sigma, 0.5)
    other = prune_as_skimage(y, x, sigma, 0.5)
    assert (one & other).sum() >= 0.99 * other.sum()
    assert other.sum() <= one.sum() <= 1.1 * other.sum()


def test_distant_blobs_take_no_memory_for_empty_space():
    y, x = np.array([0.0, 1e6, 1e6 + 1]), np.array([0.0, 1e7, 1e7 + 1])
    assert prune_largest_first(y, x, np.array([1e-3, 2.0, 1.9]), 0.5).tolist() == [True, True, False]


def test_of_equal_disks_the_later_one_stays():
    assert prune_largest_first(*np.ones((3, 4)), 0.5).tolist() == prune_as_skimage(*np.ones((3, 4)), 0.5).tolist()


@pytest.mark.parametrize("way", [prune_as_skimage, prune_largest_first])
@pytest.mark.parametrize("overlap", [0.01, 0.5])
def test_no_two_of_many_pruned_blobs_overlap(overlap, way):
    rng = np.random.default_rng(0)
    y, x = rng.integers(0, 2000, (2, 30_000)).astype(float)
    sigma = rng.choice(np.geomspace(2, 20, 10), 30_000)
    keep = way(y, x, sigma, overlap)
    assert 0 < keep.sum() < len(keep)
    left = np.column_stack([y, x, sigma])[keep]
    pairs = cKDTree(left[:, :2]).query_pairs(2 * np.sqrt(2) * 20, output_type="ndarray")
    shared = [_blob_overlap(left[i], left[j], sigma_dim=1) for i, j in pairs[:: max(1, len(pairs) // 2000)]]
    assert max(shared) <= overlap
