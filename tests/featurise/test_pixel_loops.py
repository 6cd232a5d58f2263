"""Loops over pixels against numpy, scipy and OpenCV, which take several passes."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from emqa_dask.featurise import pixel_loops
from emqa_dask.featurise.quantiles import compute_quantile
from emqa_dask.featurise.tones import compute_tones, count_levels, find_grey_range, rank_levels
from emqa_dask.mask_runs import find_runs

MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24))
VALUES = hnp.arrays(np.float32, st.integers(1, 300), elements=st.floats(-100, 100, width=32))


@settings(deadline=None)
@given(MASKS)
def test_runs_of_a_mask_are_connected_as_scipy_does(mask):
    runs = find_runs(mask)
    drawn = np.full(mask.shape, -1)
    for (y, start, stop), region in zip(runs, pixel_loops.connect_runs(runs), strict=True):
        assert (drawn[y, start:stop] == -1).all()
        drawn[y, start:stop] = region
    labels, n = ndimage.label(mask)
    assert ((drawn >= 0) == mask).all()
    pairs = {(int(a), int(b)) for a, b in zip(drawn[mask], labels[mask])}
    assert len(pairs) == len({a for a, _ in pairs}) == n


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 1000), st.integers(3, 30), st.integers(16, 60), st.integers(3, 12), st.sampled_from([1, -1]))
def test_runs_of_a_step_are_those_of_opencv(seed, h, w, length, sign):
    rng = np.random.default_rng(seed)
    view = np.repeat(rng.normal(0, 0.3, (h, w // 8 + 1)), 8, axis=1)[:, :w].astype(np.float32)
    rise = np.zeros_like(view)
    rise[1:-1] = view[2:] - view[:-2]
    rise = cv2.blur(rise, (7, 1))
    rise[:, [0, -1]] = 0
    expected = find_runs(sign * rise > np.float32(0.18))
    expected = expected[expected[:, 2] - expected[:, 1] >= length]
    np.testing.assert_array_equal(pixel_loops.find_step_runs(view, np.float32(0.18), length, sign), expected)
    turned = np.ascontiguousarray(view.T).T  # the same pixels, column by column
    np.testing.assert_array_equal(pixel_loops.find_step_runs(turned, np.float32(0.18), length, sign), expected)


@settings(deadline=None)
@given(VALUES, st.integers(1, 50))
def test_counts_in_bins_are_those_of_numpy(values, n):
    edges = np.linspace(-50, 60, n + 1)
    counts = np.arange(len(values))
    expected = np.histogram(values, edges, weights=counts)[0]
    np.testing.assert_array_equal(pixel_loops.count_in_bins(values, counts, edges), expected)


@settings(deadline=None)
@given(VALUES, st.floats(0, 1))
def test_a_quantile_is_that_of_numpy(values, fraction):
    assert compute_quantile(values, fraction) == np.quantile(values, fraction)


def test_pixels_of_a_bar_and_haar_coefficients_are_counted():
    view = np.random.default_rng(0).random((70, 101), np.float32)
    n_ground, n_equal = pixel_loops.count_bar_pixels(view, np.float32(0.4), np.float32(0.1), np.float32(0.05))
    np.testing.assert_array_equal(n_ground, (np.abs(view - np.float32(0.4)) < np.float32(0.1)).sum(axis=1))
    np.testing.assert_array_equal(n_equal, (np.abs(np.diff(view, axis=1)) < np.float32(0.05)).sum(axis=1))
    diagonal = (view[0:64:2, 0:96:2] - view[0:64:2, 1:96:2] - view[1:64:2, 0:96:2] + view[1:64:2, 1:96:2]) / 2
    expected = np.square(diagonal).reshape(2, 16, 3, 16).mean(axis=(1, 3))
    np.testing.assert_allclose(pixel_loops.compute_haar_power(view), expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int8, np.uint16, np.int16])
def test_counted_levels_have_the_statistics_of_sorted_pixels(dtype):
    rng = np.random.default_rng(1)
    info = None if dtype is bool else np.iinfo(dtype)
    pixels = rng.random((60, 80)) > 0.3 if dtype is bool else rng.integers(info.min, info.max, (60, 80)) // 3
    pixels = pixels.astype(dtype)
    counted = count_levels(pixels)
    ranked = rank_levels(np.sort(pixels.astype(np.float32), axis=None))
    assert counted.n == ranked.n == 4800
    for fraction in (0.0, 0.001, 0.005, 0.5, 0.995, 1.0):
        assert counted.find_quantile(fraction) == ranked.find_quantile(fraction)
    for value in (-200.0, 0.0, 0.5, 17.0, 40.3, 1e6):
        assert counted.count_below(value) == ranked.count_below(value) == (pixels < value).sum()
    low, span = find_grey_range(ranked)
    assert find_grey_range(counted) == (low, span)
    expected = compute_tones(ranked, pixels.dtype, low, span)
    assert compute_tones(counted, pixels.dtype, low, span) == pytest.approx(expected, rel=1e-6, nan_ok=True)


def test_tones_of_a_low_contrast_on_a_high_level():
    pixels = (1e6 + np.random.default_rng(0).normal(0, 1, (200, 200))).astype(np.float32)
    grey = count_levels(pixels)
    low, span = find_grey_range(grey)
    tones = compute_tones(grey, pixels.dtype, low, span)
    assert span == pytest.approx(2 * 2.576, rel=0.05)  # +-2.576 deviations hold 99 %
    assert abs(tones["skewness"]) < 0.05


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 40), st.integers(8, 70), st.integers(0, 2**32 - 1))
def test_peaks_are_those_over_a_dilated_image(h, w, seed):
    image = np.random.default_rng(seed).integers(0, 9, (h, w)).astype(np.float32)
    ring = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], np.uint8)
    excess = (image - cv2.dilate(image, ring))[2:-2, 2:-2]
    np.testing.assert_array_equal(pixel_loops.sample_excess(image, 3), excess[::3, ::3])
    positions = np.argwhere(excess > 1) + 2
    np.testing.assert_array_equal(pixel_loops.find_peaks(image, np.float32(1), 2000), positions)
    np.testing.assert_array_equal(pixel_loops.find_peaks(image, np.float32(1), 3), positions[:3])


@pytest.mark.parametrize("t", [32, 64, 256])
def test_packed_power_is_that_of_numpys_transform(t):
    tile = np.random.default_rng(t).random((t, t), np.float32)
    power = np.ones((t, t // 2 + 1), np.float32)
    pixel_loops.add_packed_power(cv2.dft(tile), power)
    np.testing.assert_allclose(power - 1, np.abs(np.fft.rfft2(tile.astype(np.float64))) ** 2, rtol=1e-3, atol=2e-3)
