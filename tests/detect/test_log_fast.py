"""The fast path finds what the exact path finds, up to float32."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from emqa_dask.detect import log, log_fast, scales
from emqa_dask.detect.normalise import normalise

DATA = Path(__file__).parents[3] / "shared" / "data"
TOLERANCE = 1e-4  # of the normalised intensity range


def texture(seed, shape, blur=1.0):
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.standard_normal((9, 11)).astype(np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC)
    return normalise(ndimage.gaussian_filter(rng.standard_normal(shape), blur) * 2 * blur + coarse, 1, 99)


def real_image(folder, position=0):
    images = DATA / folder / "images"
    if not images.is_dir():
        pytest.skip(f"real images absent: {images}")
    return normalise(cv2.imread(str(sorted(images.iterdir())[position]), cv2.IMREAD_GRAYSCALE), 1, 99)


def assert_same_maxima(image, sigmas, threshold=0.03):
    """Equal positions and scales for 99.9 %; the others are ties or at the threshold, within the tolerance."""
    fast = log_fast.scale_maxima(image, sigmas, threshold, "both")
    exact = log.scale_maxima(image.astype(np.float64), sigmas, threshold, "both")
    sets = [dict(zip(zip(f.y, f.x, f.scale, f.polarity), f.response)) for f in (fast, exact)]
    common = sets[0].keys() & sets[1].keys()
    assert len(exact.y) > 0
    assert max(abs(sets[0][key] - sets[1][key]) for key in common) < TOLERANCE
    odd = sets[0].keys() ^ sets[1].keys()
    assert len(odd & sets[1].keys()) <= max(1, 0.001 * len(exact.y))
    cube = np.stack([-ndimage.gaussian_laplace(image.astype(np.float64), s) * s * s for s in sigmas])
    for y, x, scale, sign in odd:
        near = sign * cube[tuple(slice(max(0, i - 1), i + 2) for i in (scale, y, x))]
        value = sign * cube[scale, y, x]
        # The threshold is as near as the tolerance, or the largest of the other 26 values is.
        rival = np.delete(near.ravel(), np.argmin(abs(near.ravel() - value))).max()
        assert min(abs(value - threshold), abs(value - rival)) < 2 * TOLERANCE
    return len(exact.y)


@pytest.mark.parametrize("shape", [(257, 300), (256, 320), (301, 200)])
def test_the_same_maxima_in_textures(shape):
    assert assert_same_maxima(texture(0, shape), scales.sigma_list(1.5, 24, 9, True)) > 100


@pytest.mark.parametrize(("folder", "position"), [("arda_stem_np", 0), ("uw_cavity", 0), ("uw_loops", 1)])
def test_the_same_maxima_in_real_images(folder, position):
    image = real_image(folder, position)[:512, :512]
    assert assert_same_maxima(image, scales.sigma_list(2, 20, 8, True)) > 50


@pytest.mark.parametrize("folder", ["arda_stem_np", "uw_cavity"])
def test_the_same_blobs_stay_after_pruning_but_for_a_few_chains(folder):
    """Pruning looks at blobs in the order of their response, so near-ties may end a chain of overlaps otherwise."""
    image, sigmas = real_image(folder)[:512, :512], scales.sigma_list(2, 20, 8, True)
    fast = log.pruned(log_fast.scale_maxima(image, sigmas, 0.03, "both"), sigmas, 0.3)
    exact = log.pruned(log.scale_maxima(image.astype(np.float64), sigmas, 0.03, "both"), sigmas, 0.3)
    sets = [set(zip(f.y, f.x, f.scale, f.polarity)) for f in (fast, exact)]
    assert len(sets[0] ^ sets[1]) <= 0.01 * len(sets[1])


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 200), st.integers(1, 200), st.floats(0.6, 24), st.integers(0, 2**32))
def test_responses_agree_for_any_shape_and_scale(height, width, sigma, seed):
    image = texture(seed, (height, width))
    (response,) = log_fast.responses(image, np.array([sigma]))
    exact = -ndimage.gaussian_laplace(image.astype(np.float64), sigma) * sigma**2
    assert response.shape == image.shape
    assert response.dtype == np.float32
    assert abs(response - exact).max() <= TOLERANCE * np.ptp(image)


@pytest.mark.parametrize("sigma", [1.0, 5.6, 11.5, 23.0, 50.0])
def test_the_offset_of_a_flat_image_is_that_of_the_truncated_kernel(sigma):
    image = np.ones((500, 410), np.float32)
    (response,) = log_fast.responses(image, np.array([sigma]))
    exact = -ndimage.gaussian_laplace(image.astype(np.float64), sigma) * sigma**2
    assert abs(exact).min() > 1e-4
    np.testing.assert_allclose(response, exact, atol=1e-5)


def test_coarse_grids_are_used_for_large_scales_of_large_images_only():
    assert [log_fast.step_px(s, (4096, 4096)) for s in (2, 5.4, 5.5, 10.9, 11, 22, 44)] == [1, 1, 2, 2, 4, 8, 16]
    assert log_fast.step_px(44, (1, 100_000)) == 1


def test_an_empty_image_gives_nothing():
    for shape in ((0, 0), (0, 7), (7, 0)):
        assert len(log_fast.scale_maxima(np.zeros(shape, np.float32), np.array([2.0]), 0.1, "both").y) == 0


@pytest.mark.parametrize("polarity", ["bright", "dark"])
def test_one_polarity_is_its_part_of_both(polarity):
    image, sigmas = texture(3, (200, 150)), scales.sigma_list(2, 12, 5, True)
    both = log_fast.scale_maxima(image, sigmas, 0.05, "both")
    one = log_fast.scale_maxima(image, sigmas, 0.05, polarity)
    part = scales.chosen(both, both.polarity == scales.signs(polarity)[0])
    assert len(one.y) > 10
    assert all(np.array_equal(a, b) for a, b in zip(one, part))
    negative = log_fast.scale_maxima(-image, sigmas, 0.05, {"bright": "dark", "dark": "bright"}[polarity])
    assert all(np.array_equal(a, b) for a, b in zip(one[:4], negative[:4]))
