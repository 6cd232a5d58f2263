"""Kinds of objects: drawn micrographs that no fit saw, real ones without a licence to train on, blank ones."""

import numpy as np
import pytest

from benchmarks.studies.real_sets import DATA, read_cavity_counts
from emqa_dask import models
from emqa_dask.classify.object_kinds import VIEW_PX, estimate_object_kinds, make_view
from emqa_dask.synthetic import cavities, lattices, textures
from emqa_dask.tables import OBJECT_KIND_NAMES
from emqa_dask.train.detector_data import read_grey_image

DRAWERS = {"cavity": cavities.draw_cavities, "lattice": lattices.draw_lattice, "texture": textures.draw_texture}


@pytest.mark.parametrize("kind", list(DRAWERS))
def test_drawn_micrographs_are_recognised(kind):
    images = [DRAWERS[kind](np.random.default_rng([6, k]), (256, 256)).image for k in range(10)]
    probabilities = np.stack([estimate_object_kinds(image) for image in images])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert np.mean(probabilities.argmax(axis=1) == OBJECT_KIND_NAMES.index(kind)) >= 0.8


@pytest.mark.skipif(not DATA.is_dir(), reason="the real micrographs are not here")
def test_real_cavities_are_no_other_objects():
    images = [read_grey_image(row.path) for row in read_cavity_counts()[::14]]
    probabilities = np.stack([estimate_object_kinds(image) for image in images])
    assert np.mean(probabilities[:, OBJECT_KIND_NAMES.index("cavity")] > 0.5) >= 0.9


def test_gain_does_not_count_and_blank_images_have_none():
    image = cavities.draw_cavities(np.random.default_rng(7), (200, 256)).image.astype(np.float64)
    np.testing.assert_allclose(estimate_object_kinds(20 * image + 1000), estimate_object_kinds(image), atol=1e-4)
    for blank in (np.ones((64, 64)), np.zeros((0, 0)), np.full((64, 64), np.nan)):
        assert estimate_object_kinds(blank).shape == (0,)


def test_view_is_the_middle_square_without_invalid_pixels():
    image = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (32, 1))
    image[3, 20] = np.nan
    view = make_view(image)
    assert view.shape == (VIEW_PX, VIEW_PX)
    assert np.isfinite(view).all()
    np.testing.assert_allclose(view[-1, [0, -1]], image[31, [16, 47]], atol=0.02)


def test_it_is_small_and_built_on_the_network_that_ships():
    card = models.load_model_card(models.OBJECT_MODEL)
    assert card["kinds"] == list(OBJECT_KIND_NAMES)
    assert card["backbone"] == models.digest_model_card(models.PICTURE_MODEL)
    assert sum(path.stat().st_size for path in models.OBJECT_MODEL.iterdir()) < 100_000
