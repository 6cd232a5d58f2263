"""Domain by content: distances by numpy's covariance, false alarms of unseen images, files."""

import numpy as np
import pandas as pd
import pytest

from emqa_dask import models
from emqa_dask.content_domain import (
    ObjectKinds,
    compute_content_distances,
    compute_kind_distances,
    fit_content_domain,
    read_content_domain,
    read_object_kinds,
    write_content_domain,
)
from emqa_dask.predict.content_distances import add_content_distances
from emqa_dask.tables import OBJECT_KIND_NAMES

D = 6


def draw_own(rng, n):
    """Embeddings of training images: correlated channels of different scales."""
    return rng.normal(size=(n, D)) @ np.diag([5, 3, 2, 1, 0.5, 0.2]) + 10


@pytest.fixture(scope="module")
def domain():
    rng = np.random.default_rng(0)
    return fit_content_domain(draw_own(rng, 400), np.repeat(np.arange(20), 20))


def test_distance_is_mahalanobis_in_units_of_the_limit(domain):
    rng = np.random.default_rng(0)
    own = draw_own(rng, 400)
    points = draw_own(rng, 50)
    steps = points - own.mean(axis=0)
    expected = np.sqrt(np.einsum("ni,ij,nj->n", steps, np.linalg.inv(np.cov(own.T)), steps))
    found = compute_content_distances(domain, list(points)) * domain.limit
    np.testing.assert_allclose(found, expected, rtol=0.05)


def test_few_unseen_images_are_beyond_the_limit(domain):
    unseen = draw_own(np.random.default_rng(1), 2000)
    assert 0.02 < np.mean(compute_content_distances(domain, list(unseen)) > 1) < 0.08
    assert compute_content_distances(domain, [np.full(D, 1000.0)])[0] > 10


def test_missing_embeddings_have_no_distance(domain):
    found = compute_content_distances(domain, [None, np.zeros(0), np.full(D, 10.0)])
    assert np.isnan(found[:2]).all()
    assert found[2] < 1
    assert np.isnan(compute_content_distances(domain, [None])).all()
    with pytest.raises(ValueError, match="embeddings have 3 numbers, those of the domain 6"):
        compute_content_distances(domain, [np.zeros(3)])


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="19 images are too few"):
        fit_content_domain(np.zeros((19, D)), np.arange(19))


def test_images_of_one_source_are_held_out_one_by_one():
    own = draw_own(np.random.default_rng(3), 60)
    domain = fit_content_domain(own, ["a"] * 60)
    assert np.mean(compute_content_distances(domain, list(own)) > 1) < 0.1


@pytest.fixture
def model(domain, tmp_path):
    """A model directory that has a domain by content."""
    folder = tmp_path / "model"
    folder.mkdir()
    models.write_model_card(folder, {"name": "voids", **write_content_domain(domain, folder)})
    return folder


def test_written_domain_is_read_unchanged(domain, model):
    points = list(draw_own(np.random.default_rng(4), 20))
    found = compute_content_distances(read_content_domain(model), points)
    np.testing.assert_array_equal(found, compute_content_distances(domain, points))


def test_model_without_content_domain_has_none(tmp_path):
    models.write_model_card(tmp_path, {"name": "voids"})
    assert read_content_domain(tmp_path) is None


def test_domain_of_another_content_network_is_refused(model):
    card = models.read_model_card(model)
    card["content_domain"]["network"] = "0" * 64
    models.write_model_card(model, card)
    with pytest.raises(ValueError, match="of another content network"):
        read_content_domain(model)


def test_damaged_content_domain_is_named(model):
    (model / "content_domain.safetensors").write_bytes(b"x")
    with pytest.raises(models.ModelError, match=r"content_domain\.safetensors"):
        read_content_domain(model)


def test_predictions_of_a_network_get_its_content_distance(domain, model):
    near, far = np.full(D, 10.0), np.full(D, 1000.0)
    features = pd.DataFrame(
        {"detector": ["log", "voids", "voids", "voids"], "content_embedding": [near, near, far, None]}, dtype=object
    )
    predictions = pd.DataFrame({"detector": features["detector"], "ood_distance": [0.4, 0.5, 0.6, np.nan]})
    table = add_content_distances(predictions, features, [model])
    distances = compute_content_distances(domain, [near, far])
    np.testing.assert_array_equal(table["content_distance"], [np.nan, *distances, np.nan])
    np.testing.assert_array_equal(table["ood_distance"], [0.4, max(0.5, distances[0]), distances[1], np.nan])
    assert add_content_distances(predictions, features[["detector"]], [model])["content_distance"].isna().all()


def test_distance_by_kinds_is_the_probability_of_other_kinds():
    kinds = ObjectKinds(("cavity",), 0.5)
    probabilities = [[0.8, 0.1, 0.1], [0.2, 0.2, 0.6], [0.45, 0.3, 0.25], None, []]
    distances, names = compute_kind_distances(kinds, probabilities, ("cavity", "particle", "loop"))
    np.testing.assert_allclose(distances, [0.4, 1.6, 1.1, np.nan, np.nan])
    assert names.tolist() == [None, "loop", "particle", None, None]
    both = ObjectKinds(("cavity", "loop"), 0.4)
    np.testing.assert_allclose(
        compute_kind_distances(both, probabilities[:2], ("cavity", "particle", "loop"))[0], [0.25, 0.5]
    )


def test_faulty_kinds_of_a_card_are_refused():
    assert read_object_kinds({"name": "voids"}, OBJECT_KIND_NAMES) is None
    card = {"object_kinds": {"own": ["cavity"], "limit": 0.5}}
    assert read_object_kinds(card, OBJECT_KIND_NAMES) == ObjectKinds(("cavity",), 0.5)
    with pytest.raises(ValueError, match="has voids; the kinds are cavity, particle"):
        read_object_kinds({"object_kinds": {"own": ["voids"], "limit": 0.5}}, OBJECT_KIND_NAMES)
    with pytest.raises(ValueError, match="limit is 1: it has to be between 0 and 1"):
        read_object_kinds({"object_kinds": {"own": ["cavity"], "limit": 1}}, OBJECT_KIND_NAMES)


def test_larger_distance_counts_and_the_other_kind_is_named(domain, model):
    card = models.read_model_card(model)
    models.write_model_card(model, {**card, "object_kinds": {"own": ["cavity"], "limit": 0.5}})
    near, far = np.full(D, 10.0), np.full(D, 1000.0)
    loops, cavities = [0.1, 0.1, 0.7, 0.05, 0.05], [0.9, 0.1, 0.0, 0.0, 0.0]
    features = pd.DataFrame(
        {"content_embedding": [near, far, far], "kind_probabilities": [loops, cavities, None]}, dtype=object
    )
    predictions = pd.DataFrame({"detector": ["voids"] * 3, "ood_distance": [0.5, np.nan, 0.6]})
    table = add_content_distances(predictions, features, [model])
    distance = compute_content_distances(domain, [far])[0]
    np.testing.assert_allclose(table["content_distance"], [1.8, distance, distance])
    np.testing.assert_allclose(table["ood_distance"], [1.8, distance, distance])
    assert table["other_kind"].dropna().to_dict() == {0: "loop"}
