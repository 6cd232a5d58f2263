"""Laws of the out-of-domain distance: scale, units, order, unknown features, files; and the bundled model's."""

import numpy as np
import pandas as pd
import pytest

from emqa_dask import domain_distance, models
from emqa_dask.domain_distance import compute_domain_distances, extend_domain, fit_domain
from emqa_dask.featurise.images import image_statistics
from emqa_dask.synthetic import faults, profiles

COLUMNS = ("sharpness", "noise", "contrast", "entropy")


def images(n, seed, shift=0.0):
    """Two kinds of images whose features are correlated and heavy tailed."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 2, n)[:, None]
    latent = rng.normal(size=(n, 2)) + 3 * kind
    values = np.exp(latent @ np.array([[1, 0.5, -0.3, 0.1], [0, 0.4, 0.8, -1]]) * 0.4 + shift)
    return pd.DataFrame(values + 0.01 * rng.normal(size=values.shape), columns=COLUMNS)


@pytest.fixture(scope="module")
def domain():
    return domain_distance.fit_domain(images(600, 0), np.arange(600), columns=COLUMNS)


def test_distance_1_is_the_99th_percentile_in_the_domain(domain):
    far = domain_distance.compute_domain_distances(domain, images(3000, 1))
    assert 0.95 <= np.mean(far <= 1) <= 0.999
    assert (far >= 0).all()


def test_images_of_another_kind_are_beyond_one(domain):
    assert np.mean(domain_distance.compute_domain_distances(domain, images(200, 2, shift=2.5)) > 1) > 0.95
    between = images(200, 3)[list(COLUMNS[::-1])].set_axis(COLUMNS, axis=1)  # known values, unknown together
    assert np.median(domain_distance.compute_domain_distances(domain, between)) > 1


def test_units_do_not_matter():
    train = images(300, 4)
    new = images(50, 5, shift=0.5)
    units = np.array([1e-9, 1e3, 7.0, 1e6])
    a = domain_distance.compute_domain_distances(
        domain_distance.fit_domain(train, np.arange(300), columns=COLUMNS), new
    )
    b = domain_distance.compute_domain_distances(
        domain_distance.fit_domain(train * units, np.arange(300), columns=COLUMNS), new * units
    )
    np.testing.assert_allclose(a, b, rtol=1e-4)


def test_each_row_by_itself(domain, monkeypatch):
    table = images(50, 6)
    whole = domain_distance.compute_domain_distances(domain, table)
    np.testing.assert_allclose(domain_distance.compute_domain_distances(domain, table[::-1])[::-1], whole)
    monkeypatch.setattr(domain_distance, "_BATCH_ROWS", 7)
    np.testing.assert_allclose(domain_distance.compute_domain_distances(domain, table), whole)
    assert domain_distance.compute_domain_distances(domain, table.iloc[:0]).shape == (0,)


def test_unknown_and_infinite_features(domain):
    table = images(4, 7)
    table.loc[1, "noise"] = np.nan
    table.loc[2, :] = np.nan
    table.loc[3, "noise"] = np.inf
    far = domain_distance.compute_domain_distances(domain, table)
    assert np.isfinite(far[[0, 1]]).all()
    assert np.isnan(far[2])
    assert far[3] > 10


def test_training_images_held_out_by_group_set_the_scale():
    table = images(200, 8)
    copies = pd.concat([table] * 6)  # were copies not held out together, a distance of 0 would set the scale
    apart = domain_distance.fit_domain(copies, np.tile(np.arange(200), 6), columns=COLUMNS)
    assert np.mean(domain_distance.compute_domain_distances(apart, images(2000, 9)) <= 1) > 0.9


def test_a_saved_domain_measures_the_same(domain, tmp_path):
    models.write_model_card(tmp_path, domain_distance.write_domain(domain, tmp_path))
    table = images(30, 10, shift=1)
    np.testing.assert_array_equal(
        domain_distance.compute_domain_distances(domain_distance.read_domain(tmp_path), table),
        domain_distance.compute_domain_distances(domain, table),
    )
    assert (tmp_path / domain_distance.DOMAIN_FILE).stat().st_size < 200_000
    content = bytearray((tmp_path / domain_distance.DOMAIN_FILE).read_bytes())
    content[-1] ^= 1
    (tmp_path / domain_distance.DOMAIN_FILE).write_bytes(content)
    with pytest.raises(ValueError, match="SHA-256"):
        domain_distance.read_domain(tmp_path)


def test_a_model_without_domain_has_none(tmp_path):
    models.write_model_card(tmp_path, {"name": "a forest alone"})
    assert domain_distance.read_domain(tmp_path) is None


def test_refusals(domain):
    with pytest.raises(ValueError, match="lack noise"):
        domain_distance.compute_domain_distances(domain, images(3, 0).drop(columns="noise"))
    with pytest.raises(ValueError, match=r"never vary in training.*noise"):
        domain_distance.fit_domain(images(50, 0).assign(noise=1.0), np.arange(50), columns=COLUMNS)
    with pytest.raises(ValueError, match="19 images are too few"):
        domain_distance.fit_domain(images(19, 0), np.arange(19), columns=COLUMNS)


def bundled_distances(pictures):
    domain = domain_distance.read_domain(models.locate_model("log-synthetic"))
    return domain_distance.compute_domain_distances(
        domain, pd.DataFrame([image_statistics(picture) for picture in pictures])
    )


@pytest.mark.parametrize("family", list(profiles.FAMILIES))
def test_new_micrographs_are_within_the_bundled_domain(family):
    far = bundled_distances(
        profiles.make_sample(family, np.random.default_rng([9, i]), (512, 512)).image for i in range(6)
    )
    assert np.mean(far <= 1) >= 5 / 6
    assert np.median(far) < 0.8


@pytest.mark.parametrize(
    ("kind", "least"), [("plot", 1.5), ("eds_map", 0.85), ("diffraction", 0.85), ("photograph", 0.85)]
)
def test_pictures_that_are_no_micrographs_are_far(kind, least):
    """Half of the photographs lie within 1: the distance stands beside other marks of non-micrographs, not alone."""
    page = np.zeros((512, 512), np.uint8)
    far = bundled_distances(faults.apply_fault(kind, page, np.random.default_rng([9, i])) for i in range(6))
    assert np.median(far) > least


def test_gain_and_offset_do_not_move_an_image():
    image = profiles.make_sample("nanoparticle-tem", np.random.default_rng(3), (512, 512), dtype="uint8").image
    far = bundled_distances([image, 200 + 7 * image.astype(np.uint16), image.astype(np.float32) / 255])
    np.testing.assert_allclose(far, far[0], rtol=0.05)


def test_labelled_images_belong_to_the_domain():
    rng = np.random.default_rng(0)
    columns = ["a", "b", "c"]
    domain = fit_domain(pd.DataFrame(rng.normal(size=(200, 3)), columns=columns), np.arange(200), columns=columns)
    archive = pd.DataFrame(rng.normal([12, -9, 7], 0.5, (90, 3)), columns=columns)
    assert (compute_domain_distances(domain, archive) > 1).all()
    extended = extend_domain(domain, archive[:30], np.arange(30))
    assert (compute_domain_distances(extended, archive[30:]) <= 1).mean() >= 0.9
    near = pd.DataFrame(rng.normal(size=(200, 3)), columns=columns)
    assert (compute_domain_distances(extended, near) <= compute_domain_distances(domain, near) + 1e-6).all()
    far = pd.DataFrame([[-40.0, 30.0, 40.0]], columns=columns)
    assert compute_domain_distances(extended, far)[0] > 1


def test_one_group_of_labelled_images_is_no_neighbour_of_itself():
    """Thirty copies of one image: all their neighbours are training images, so the limit rises to their distance."""
    rng = np.random.default_rng(1)
    columns = ["a", "b"]
    domain = fit_domain(pd.DataFrame(rng.normal(size=(100, 2)), columns=columns), np.arange(100), columns=columns)
    copies = pd.DataFrame(np.tile([[6.0, 6.0]], (30, 1)), columns=columns)
    extended = extend_domain(domain, copies, np.zeros(30))
    ratio = extended.limit / domain.limit
    assert ratio == pytest.approx(compute_domain_distances(domain, copies)[0], rel=1e-6)
    unknown = pd.DataFrame(np.full((3, 2), np.nan), columns=columns)
    assert extend_domain(domain, unknown, np.arange(3)) is domain
