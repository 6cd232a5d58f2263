"""Labelled images of a quality model: those nearest to an image, by hand, and their file."""

import numpy as np
import pytest

from emqa_dask.predict.labelled_images import (
    LabelledImages,
    find_nearest,
    read_labelled_images,
    write_labelled_images,
)

IMAGES = LabelledImages(
    ["a", "b", "c"],
    ["a.tif", "b\udcff.tif", "c.tif"],
    [0, 3, 0],
    np.array([0.9, 0.1, 0.5]),
    ["mean_score", "mean_size"],
    np.array([[0.5, 10.0], [0.7, 10.0], [0.5, 50.0]]),
    np.array([0.1, 20.0]),
)


def test_distances_are_in_interquartile_ranges():
    # from (0.6, 10): a is 1 range away in one of two features, b as well, c also 2 ranges in the other
    nearest = find_nearest(IMAGES, np.array([0.6, 10.0]), "z", 3)
    assert [k for k, _ in nearest] == [0, 1, 2]
    assert [distance for _, distance in nearest] == pytest.approx([0.5**0.5, 0.5**0.5, 2.5**0.5])


def test_an_image_is_not_its_own_neighbour():
    assert find_nearest(IMAGES, IMAGES.values[0], "a", 1) == [(1, pytest.approx(2**0.5))]


def test_an_image_without_a_feature_has_no_neighbour():
    assert find_nearest(IMAGES, np.array([np.nan, 10.0]), "z", 3) == []


def test_file_keeps_all_values(tmp_path):
    write_labelled_images(IMAGES, tmp_path)
    found = read_labelled_images(tmp_path, "a digest")
    for name, expected in IMAGES._asdict().items():
        np.testing.assert_array_equal(getattr(found, name), expected)
    assert read_labelled_images(tmp_path / "none", "a digest") is None
