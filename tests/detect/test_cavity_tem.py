"""The bundled detector finds cavities that no training saw, and none where there are none."""

import numpy as np
import pytest

from emqa_dask import content_domain, load_detector, models
from emqa_dask.boxes import match_boxes
from emqa_dask.classify.content import embed_image
from emqa_dask.models import locate_model
from emqa_dask.synthetic import cavities, lattices, textures


@pytest.fixture(scope="module")
def detector():
    return load_detector("cavity-tem")


def boxes_of(table, least=0.5):
    return table.loc[table["score"] >= least, ["y0", "x0", "y1", "x1"]].to_numpy()


@pytest.mark.parametrize("defocus", ["over", "under"])
def test_it_finds_clear_cavities(detector, defocus):
    rng = np.random.default_rng(["over", "under"].index(defocus) + 4000)
    sample = cavities.draw_cavities(
        rng, (384, 384), defocus=defocus, n=20, median_radius_px=12, fringe_px=4, contrast=0.8, background=0.3
    )
    table = detector.detect([sample.image], nm_per_pixel=0.5)[0]
    match = match_boxes(boxes_of(table), sample.boxes, 0.5)
    assert match.f1 > 0.7
    assert (table["circularity"].dropna() >= 1 - 1e-6).all()
    np.testing.assert_allclose(table["diameter_nm"], 0.5 * table["diameter_px"])
    assert set(table["detector"]) == {"cavity-tem"}


def test_it_finds_next_to_nothing_in_an_empty_foil(detector):
    sample = cavities.draw_cavities(np.random.default_rng(4100), (384, 384), n=0, background=0.5)
    assert len(boxes_of(detector.detect([sample.image])[0])) <= 3


def test_it_is_small_enough_to_ship():
    assert sum(path.stat().st_size for path in locate_model("cavity-tem").iterdir()) < 30e6


def test_lattices_and_powders_are_out_of_its_domain():
    domain = content_domain.read_content_domain(models.locate_model("cavity-tem"))
    own, *others = (
        [embed_image(draw(np.random.default_rng([5, k]), (256, 256)).image) for k in range(10)]
        for draw in (cavities.draw_cavities, lattices.draw_lattice, textures.draw_texture)
    )
    assert np.mean(content_domain.compute_content_distances(domain, own) > 1) <= 0.2
    for embeddings in others:
        assert np.mean(content_domain.compute_content_distances(domain, embeddings) > 1) >= 0.8
