"""Peaks of a lattice in the spectrum: of drawn lattices, and of what only looks regular."""

import numpy as np
import pytest

from emqa_dask.featurise.lattice_peaks import measure_lattice_fraction
from emqa_dask.synthetic import cavities, lattices, particles, textures

EXPOSURE = {"dose_e_per_px": 800.0, "mtf_sigma_px": 0.6}


def test_fraction_of_a_cosine_lattice_follows_from_its_power():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:256, :256]
    lattice = np.cos(2 * np.pi * x / 8) + np.cos(2 * np.pi * y / 16)  # variance 1
    fraction = measure_lattice_fraction(lattice + rng.normal(0, 1, lattice.shape))
    # Noise: variance 1 over a unit square, of which frequencies up to 0.5 cycles/px are a disk of area pi / 4.
    assert fraction == pytest.approx(1 / (1 + np.pi / 4), rel=0.02)


def test_lines_in_one_direction_are_no_lattice():
    x = np.arange(256)
    lines = np.tile(np.cos(2 * np.pi * x / 8), (256, 1)) + np.random.default_rng(0).normal(0, 0.5, (256, 256))
    assert measure_lattice_fraction(lines) == 0
    assert measure_lattice_fraction(np.zeros((256, 256))) == 0
    assert measure_lattice_fraction(np.random.default_rng(0).normal(size=(300, 400))) == 0
    assert measure_lattice_fraction(np.ones((10, 400))) == 0


@pytest.mark.parametrize("seed", range(8))
def test_drawn_lattices_have_peaks(seed):
    sample = lattices.draw_lattice(np.random.default_rng(seed), (256, 256), disorder=False, exposure=dict(EXPOSURE))
    assert measure_lattice_fraction(sample.image) > 0.1


@pytest.mark.parametrize("draw", [cavities.draw_cavities, particles.draw_particles, textures.draw_texture])
@pytest.mark.parametrize("seed", range(4))
def test_other_drawings_have_none(draw, seed):
    assert measure_lattice_fraction(draw(np.random.default_rng(seed), (256, 256)).image) < 0.05
