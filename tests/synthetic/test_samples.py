"""Laws that every family of synthetic micrographs keeps."""

import numpy as np
import pytest

from emqa_dask.synthetic.profiles import FAMILIES, PROFILES, make_sample
from emqa_dask.synthetic.sample import compute_tight_boxes, merge_masks, trim_mask

FAMILIES = sorted(FAMILIES)


def fingerprint(sample):
    masks = b"".join(np.int64(m[:2]).tobytes() + m[2].tobytes() for m in sample.masks)
    return sample.image.dtype.str, sample.image.tobytes(), sample.boxes.tobytes(), masks, tuple(sample.labels)


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_seeds_give_equal_bytes_and_others_differ(family):
    first, again, other = (fingerprint(make_sample(family, np.random.default_rng(s), (150, 170))) for s in (4, 4, 5))
    assert first == again
    assert first[1] != other[1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(4))
def test_boxes_are_the_tight_boxes_of_masks_inside_the_image(family, seed):
    sample = make_sample(family, np.random.default_rng(seed), (140, 210))
    assert sample.boxes.dtype == np.float64
    assert sample.boxes.shape == (len(sample.masks), 4)
    assert len(sample.labels) == len(sample.masks) > 0
    assert sample.nm_per_pixel > 0
    for mask, (y0, x0, y1, x1) in zip(sample.masks, sample.boxes):
        assert 0 <= y0 < y1 <= 140
        assert 0 <= x0 < x1 <= 210
        rows, columns = np.nonzero(merge_masks([mask], sample.image.shape))
        assert (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1) == (y0, x0, y1, x1)


@pytest.mark.parametrize("family", FAMILIES)
def test_images_are_finite_with_requested_shape_and_dtype(family):
    for dtype in ("uint8", "uint16", "float32"):
        image = make_sample(family, np.random.default_rng(1), (64, 190), dtype=dtype).image
        assert image.shape == (64, 190)
        assert image.dtype == dtype
        assert np.isfinite(image).all()
        assert np.ptp(image) > 0


def test_drawn_shapes_are_of_the_sizes_people_have():
    shapes = {make_sample("atomic-stem", np.random.default_rng(s)).image.shape for s in range(4)}
    assert all(384 <= length <= 1024 for shape in shapes for length in shape)


def test_mixed_draws_all_of_its_families():
    families = {make_sample("mixed", np.random.default_rng(s), (64, 64)).meta["family"] for s in range(40)}
    assert families == set(PROFILES["mixed"])


def test_an_unknown_profile_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="cavity-tem, nanoparticle-tem"):
        make_sample("optical", np.random.default_rng(0))
    with pytest.raises(ValueError, match="16 px"):
        make_sample("mixed", np.random.default_rng(0), (512, 8))
    assert all(np.isclose(sum(shares.values()), 1) for shares in PROFILES.values())


def test_trim_clips_at_every_edge_and_drops_what_is_outside():
    inside = np.ones((4, 6), bool)
    assert compute_tight_boxes([trim_mask(-2, -3, inside, (10, 10)), trim_mask(8, 7, inside, (10, 10))]).tolist() == [
        [0, 0, 2, 3],
        [8, 7, 10, 10],
    ]
    assert trim_mask(20, 3, inside, (10, 10)) is None
    assert trim_mask(-9, 3, inside, (10, 10)) is None
    assert trim_mask(3, 3, np.zeros((2, 2), bool), (10, 10)) is None
    assert compute_tight_boxes([]).shape == (0, 4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", [(16, 16), (17, 200), (300, 20)])
def test_odd_shapes_are_drawn(family, shape):
    for seed in range(5):
        assert make_sample(family, np.random.default_rng(seed), shape).image.shape == shape
