"""Tiles of the region map: places, sharpness and noise against the image's own statistics, counts by hand."""

import numpy as np
import pytest
from scipy import ndimage

from emqa_dask.featurise.detector_agreement import compute_agreement
from emqa_dask.featurise.images import image_features
from emqa_dask.featurise.region_map import TileEdges, place_map_tiles, place_windows
from emqa_dask.featurise.spectrum import compute_spectrum_statistics
from emqa_dask.featurise.tile_counts import compute_tile_agreement, count_in_tiles, find_tiles


@pytest.mark.parametrize(
    ("shape", "n_tiles", "side_px"),
    [
        ((2048, 1024), (8, 4), 128),
        ((512, 512), (4, 4), 64),
        ((4096, 4096), (8, 8), 128),
        ((10_000, 300), (8, 4), 32),
        ((128, 128), (4, 4), 32),
    ],
)
def test_tiles_cover_the_image_once(shape, n_tiles, side_px):
    edges = place_map_tiles(shape)
    for along, side, n in zip(edges, shape, n_tiles, strict=True):
        assert (along[0], along[-1], len(along)) == (0, side, n + 1)
        assert np.ptp(np.diff(along)) <= 1
    windows = place_windows(shape)
    assert windows.side_px == side_px
    for first, along in zip(windows[1:], edges, strict=True):
        assert (first >= along[:-1]).all()
        assert (first + side_px <= along[1:]).all()


@pytest.mark.parametrize("shape", [(3, 2), (1, 1), (127, 5000)])
def test_small_images_have_tiles_without_statistics(shape):
    features = image_features(np.random.default_rng(0).integers(0, 9, shape).astype(np.uint8))
    y, x = place_map_tiles(shape)
    for name in ("tile_sharpness", "tile_noise"):
        assert np.isnan(features[name]).all()
        assert len(features[name]) == (len(y) - 1) * (len(x) - 1)


def test_image_without_finite_pixels_has_no_tile_statistics():
    features = image_features(np.full((200, 200), np.nan))
    assert features["tile_noise"] is None
    assert features["tile_sharpness"] is None


def test_tiles_have_the_image_statistics_of_their_windows():
    rng = np.random.default_rng(3)
    image = rng.normal(1000, 40, (1024, 1100)) + 400 * ndimage.gaussian_filter(rng.normal(0, 9, (1024, 1100)), 4)
    image[:, 550:] = ndimage.gaussian_filter(image[:, 550:], 3)
    image = image.astype(np.float32)
    features = image_features(image)
    low, high = np.quantile(image[::3, ::3], (0.005, 0.995))
    windows = place_windows(image.shape)
    expected = []
    for y in windows.y:
        for x in windows.x:
            tile = (image[y : y + windows.side_px, x : x + windows.side_px] - low) / (high - low)
            expected.append(compute_spectrum_statistics(tile[None].clip(-0.5, 1.5).astype(np.float32)))
    # The sample of pixels that gives the grey range is another one here, which changes it by less than 1 %.
    np.testing.assert_allclose(features["tile_noise"], [row["noise_floor"] for row in expected], rtol=0.02)
    np.testing.assert_allclose(features["tile_sharpness"], [row["detail_cpp"] for row in expected], rtol=0.02)
    sharpness, noise = (np.reshape(features[name], (4, 4)) for name in ("tile_sharpness", "tile_noise"))
    assert sharpness[:, :2].min() > 1.1 * sharpness[:, 2:].max()
    assert noise[:, :2].min() > 10 * noise[:, 2:].max()
    assert features["noise_floor"] > noise[:, 2:].max()


def test_noise_of_tiles_is_the_standard_deviation_in_grey_ranges():
    image = np.random.default_rng(5).normal(0, 1, (1024, 1024))
    image[512:] *= 2
    low, high = np.quantile(image, (0.005, 0.995))
    noise = np.reshape(image_features(image)["tile_noise"], (4, 4)) * (high - low)
    assert noise[:2] == pytest.approx(1, rel=0.1)
    assert noise[2:] == pytest.approx(2, rel=0.1)


def test_centres_are_counted_in_the_tile_of_their_pixel():
    edges = TileEdges(np.array([0, 10, 20]), np.array([0, 10, 20, 30]))
    # Pixel 9 ends where pixel 10, the first one of the next tile, starts; 9.6 lies in pixel 10.
    centres = np.array([[0, 0], [9, 9], [9.6, 9], [10, 10], [19, 29], [-0.5, 35], [4, 12]])
    assert find_tiles(centres, edges).tolist() == [0, 0, 3, 4, 5, 2, 1]
    assert count_in_tiles(centres, edges).tolist() == [2, 1, 1, 1, 1, 1]
    assert count_in_tiles(np.zeros((0, 2)), edges).tolist() == [0] * 6


def test_agreement_of_tiles_is_that_of_hand_calculation():
    edges = TileEdges(np.array([0, 100]), np.array([0, 100, 200, 300]))
    centres = {
        "a": np.array([[50.0, 20], [50, 60], [50, 120]]),
        "b": np.array([[50.0, 20], [50, 121], [50, 160]]),
        "c": np.zeros((0, 2)),
    }
    boxes = {name: np.hstack([at - 10, at + 10]) for name, at in centres.items()}
    agreements = compute_tile_agreement(boxes, centres, edges)
    # Left: a has 2, b has 1, one pair: F1 = 2/3. Middle: 1 and 2, one pair: 2/3. Right: no box: 1. With c: 0, 0, 1.
    assert agreements["a"] == pytest.approx([1 / 3, 1 / 3, 1])
    assert agreements["b"] == pytest.approx([1 / 3, 1 / 3, 1])
    assert agreements["c"] == pytest.approx([0, 0, 1])
    # With as many boxes in each tile as weight, tiles give the agreement of the image.
    assert compute_agreement({"a": boxes["a"], "b": boxes["b"]})["a"] == pytest.approx((3 * 2 / 3 + 3 * 2 / 3) / 6)
    assert np.isnan(compute_tile_agreement({"a": boxes["a"]}, {"a": centres["a"]}, edges)["a"]).all()
