"""Laws of the noise that is added to images."""

import numpy as np
import pytest

from emqa_dask.tune.noise import GaussianNoise, add_gaussian_noise

RAMP = np.tile(np.arange(256, dtype=np.uint16) * 100, (256, 1))


def test_noise_has_the_asked_share_of_the_range():
    noisy = add_gaussian_noise(RAMP, GaussianNoise(0.3, 1), "a")
    grain = noisy - RAMP
    assert noisy.dtype == np.float32
    assert grain.std() == pytest.approx(0.3 * 25500, rel=0.02)
    assert abs(grain.mean()) < 0.01 * 25500


def test_hot_pixels_do_not_change_the_noise():
    hot = RAMP.astype(np.float32)
    hot[3, 4] = 1e7
    grain = add_gaussian_noise(hot, GaussianNoise(0.3, 1), "a") - hot
    assert grain.std() == pytest.approx(0.3 * 25500, rel=0.02)


def test_noise_differs_by_image_seed_and_level_alone():
    one = add_gaussian_noise(RAMP, GaussianNoise(0.3, 1), "a")
    assert (one == add_gaussian_noise(RAMP, GaussianNoise(0.3, 1), "a")).all()
    for noise, name in ((GaussianNoise(0.3, 1), "b"), (GaussianNoise(0.3, 2), "a"), (GaussianNoise(0.6, 1), "a")):
        other = add_gaussian_noise(RAMP, noise, name)
        assert abs(np.corrcoef((one - RAMP).ravel(), (other - RAMP).ravel())[0, 1]) < 0.03


def test_level_zero_and_blank_images_stay():
    assert add_gaussian_noise(RAMP, GaussianNoise(), "a") is RAMP
    blank = np.full((4, 4), np.nan, np.float32)
    assert np.isnan(add_gaussian_noise(blank, GaussianNoise(1.0), "a")).all()
