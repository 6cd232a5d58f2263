"""The domain by content that a trained detector gets: groups of images, and the model directory."""

from pathlib import Path

import numpy as np
import pytest

from emqa_dask import models
from emqa_dask.classify.content import embed_image
from emqa_dask.content_domain import ObjectKinds, compute_content_distances, fit_content_domain, read_content_domain
from emqa_dask.pipeline.commands.detector_domain import add_detector_domain, name_image_groups, write_detector_domain
from emqa_dask.synthetic import cavities, lattices
from tests.detect.conftest import SMALL, write_model


def draw_voids(path):
    """An image of cavities that depends on its name alone."""
    return cavities.draw_cavities(np.random.default_rng(int(path.stem)), (160, 160)).image


@pytest.fixture
def folder(tmp_path):
    write_model(tmp_path / "voids", SMALL)
    return tmp_path / "voids"


def test_trained_detector_gets_the_domain_of_its_images(folder):
    before = models.load_model_card(folder)
    paths = [Path(f"{k}.tif") for k in range(60)]
    lines = []
    add_detector_domain(folder, paths, draw_voids, "cpu", lines.append)
    after = models.load_model_card(folder)
    assert after["files"].items() >= before["files"].items()
    assert {key: after[key] for key in before if key != "files"} == {k: v for k, v in before.items() if k != "files"}
    assert lines == ["domain by content: fitted to 60 training images in 1 groups"]
    domain = read_content_domain(folder)
    own = [embed_image(draw_voids(Path(f"{k}.tif"))) for k in range(100, 130)]
    assert np.mean(compute_content_distances(domain, own) > 1) < 0.3
    columns = [lattices.draw_lattice(np.random.default_rng(k), (160, 160)).image for k in range(8)]
    assert np.mean(compute_content_distances(domain, list(map(embed_image, columns))) > 1) > 0.7


def test_few_training_images_leave_the_model_as_it_is(folder):
    before = models.digest_model_card(folder)
    lines = []
    add_detector_domain(folder, [Path(f"{k}.tif") for k in range(5)], draw_voids, "cpu", lines.append)
    assert models.digest_model_card(folder) == before
    assert "5 images are too few" in lines[-1]


def test_kinds_of_objects_are_replaced_with_the_domain(folder):
    domain = fit_content_domain(np.random.default_rng(0).normal(size=(30, 4)), range(30))
    write_detector_domain(folder, domain, ObjectKinds(("cavity", "loop"), 0.4))
    assert models.load_model_card(folder)["object_kinds"] == {"own": ["cavity", "loop"], "limit": 0.4}
    write_detector_domain(folder, domain)
    assert "object_kinds" not in models.load_model_card(folder)
    assert read_content_domain(folder).limit == domain.limit


def test_groups_are_folders_or_series():
    assert name_image_groups([Path("a/x1.tif"), Path("b/x2.tif")]) == ["a", "b"]
    assert name_image_groups([Path("a/run_1.tif"), Path("a/run_2.tif"), Path("a/map3.tif")]) == ["run_", "run_", "map"]


def test_content_embedding_ignores_gain_and_blank_images():
    image = draw_voids(Path("3.tif")).astype(np.float64)
    plain = embed_image(image)
    assert plain.shape == (128,)
    np.testing.assert_allclose(embed_image(20 * image + 1000), plain, atol=1e-3)
    assert embed_image(np.ones((64, 64))).shape == (0,)
    assert embed_image(np.zeros((0, 0))).shape == (0,)
    assert embed_image(np.full((64, 64), np.nan)).shape == (0,)
