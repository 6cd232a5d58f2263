"""Particles: their sign in the two modes, their support, their number."""

import numpy as np
import pytest

from emqa_dask.synthetic import particles


@pytest.mark.parametrize(("mode", "sign"), [("haadf", 1), ("bf", -1)])
@pytest.mark.parametrize("support", ["oxide", "carbon"])
def test_particle_contrast_follows_dark_or_bright_field(mode, sign, support):
    clean = {"dose_e_per_px": np.inf, "mtf_sigma_px": 0.0}
    sample = particles.draw_particles(
        np.random.default_rng(7), (256, 256), mode=mode, support=support, n=12, median_radius_px=7, sigma_log=0.1,
        contrast=3.0, blur_px=0.5, dtype="float32", exposure=clean,
    )  # fmt: skip
    contrasts = []
    for y0, x0, crop in sample.masks:
        patch = sample.image[max(0, y0 - 4) : y0 + crop.shape[0] + 4, max(0, x0 - 4) : x0 + crop.shape[1] + 4]
        centre = sample.image[y0 : y0 + crop.shape[0], x0 : x0 + crop.shape[1]][crop]
        contrasts.append(sign * (np.median(centre) - np.median(patch)))
    assert len(contrasts) > 3
    assert np.mean(np.array(contrasts) > 0) > 0.8


@pytest.mark.parametrize("support", ["oxide", "carbon"])
def test_at_most_n_particles_are_drawn(support):
    sample = particles.draw_particles(np.random.default_rng(3), (400, 400), support=support, n=60, median_radius_px=5)
    assert 40 <= len(sample.boxes) <= 60


def test_particles_sit_on_the_support():
    clean = {"dose_e_per_px": np.inf, "mtf_sigma_px": 0.0}
    for seed in range(4):
        rng = np.random.default_rng(seed)
        other = np.random.default_rng(seed)
        choices = {"mode": "haadf", "support": "oxide", "n": 40, "median_radius_px": 4, "sigma_log": 0.1}
        choices |= {"blur_px": 0.5, "dtype": "float32", "exposure": clean, "nm_per_pixel": 0.2}
        sample = particles.draw_particles(rng, (300, 300), contrast=1.0, **choices)
        bare = particles.draw_particles(other, (300, 300), contrast=0.0, **choices).image
        y0, x0, y1, x1 = sample.boxes.T
        y, x = ((y0 + y1) // 2).astype(int), ((x0 + x1) // 2).astype(int)
        inner = (y0 > 0) & (x0 > 0) & (y1 < 300) & (x1 < 300)
        assert (bare[y, x][inner] > 1.02 * bare.min()).mean() > 0.95


def test_bad_choices_are_refused():
    with pytest.raises(ValueError, match="'sem'"):
        particles.draw_particles(np.random.default_rng(0), (64, 64), mode="sem")
    with pytest.raises(ValueError, match="'wood'"):
        particles.draw_particles(np.random.default_rng(0), (64, 64), support="wood")
