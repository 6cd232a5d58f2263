"""LoG with settings by window: equal settings change nothing, halves have their own, no object is lost or doubled."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest

from emqa_dask.detect import log_windows
from emqa_dask.detect.log import detect_image
from emqa_dask.detect.log_windows import detect_image_by_windows
from emqa_dask.settings import Detect
from emqa_dask.settings.detect_windows import COLUMNS, DetectWindow

BASE = Detect(
    detectors=("log",), polarity="bright", min_sigma=2.0, max_sigma=6.0, num_sigma=5, threshold=0.1, overlap=0.4
)


def make_window(corners: tuple[int, int, int, int], settings: Detect) -> DetectWindow:
    return DetectWindow(*corners, *(getattr(settings, name) for name in COLUMNS[4:]))


def draw_blobs(shape: tuple[int, int], centres: np.ndarray, sigmas: np.ndarray, heights: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.zeros(shape)
    for (row, column), sigma, height in zip(centres, sigmas, heights):
        image += height * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * sigma**2))
    return image


def draw_noisy_scene(seed: int, shape: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    n = 60
    image = draw_blobs(shape, rng.uniform(0, shape, (n, 2)), rng.uniform(2, 9, n), rng.uniform(-1, 1, n))
    return (1000 + 300 * (image + rng.normal(0, 0.1, shape))).clip(0).astype(np.uint16)


@pytest.mark.parametrize("polarity", ["bright", "both", "auto"])
@pytest.mark.parametrize("overlap", [0.05, 0.9])
def test_equal_settings_in_all_windows_change_nothing(polarity, overlap):
    shape = (151, 203)
    rows, columns = (0, 40, 97, 151), (0, 64, 65, 203)  # a window one pixel wide is one, too
    for seed in range(3):
        settings = dataclasses.replace(
            BASE, polarity=polarity, overlap=overlap, max_sigma=14.0, num_sigma=8, threshold=0.02
        )
        windows = [
            make_window((y0, x0, y1, x1), settings)
            for y0, y1 in itertools.pairwise(rows)
            for x0, x1 in itertools.pairwise(columns)
        ]
        image = draw_noisy_scene(seed, shape)
        whole = detect_image(image, settings)
        assert len(whole) > 50
        pd.testing.assert_frame_equal(detect_image_by_windows(image, settings, windows), whole)


def test_each_half_is_searched_with_its_own_settings():
    shape = (200, 400)
    grid = np.array([(y, x) for y in range(20, 200, 40) for x in range(20, 400, 40)], float)
    is_left = grid[:, 1] < 200
    image = draw_blobs(shape, grid, np.where(is_left, 2.0, 8.0), np.where(is_left, 0.2, 1.0))
    small = dataclasses.replace(BASE, min_sigma=1.5, max_sigma=3.0, threshold=0.03)
    large = dataclasses.replace(BASE, min_sigma=6.0, max_sigma=12.0, threshold=0.3)
    windows = [make_window((0, 0, 200, 200), small), make_window((0, 200, 200, 400), large)]
    rows = detect_image_by_windows(image, BASE, windows)
    distances = np.hypot(*(rows[["y_px", "x_px"]].to_numpy()[:, None] - grid).transpose(2, 0, 1))
    assert len(rows) == len(grid)
    assert distances.min(axis=0).max() < 1
    is_small = rows["x_px"] < 199.5
    assert rows["sigma_px"][is_small].between(1.5, 3).all()
    assert rows["sigma_px"][~is_small].between(6, 12).all()


def find_skewed_objects(overlap: float) -> list[tuple[float, pd.DataFrame]]:
    """Place and rows of one object near a border at x = 80, drawn so that its centre moves with the scale."""
    shape = (100, 160)
    settings = dataclasses.replace(BASE, overlap=overlap, low_percentile=0.0, high_percentile=100.0)
    fine = dataclasses.replace(settings, min_sigma=2.0, max_sigma=3.0)
    coarse = dataclasses.replace(settings, min_sigma=5.0, max_sigma=6.5)
    results = []
    for place in np.arange(77, 83.01, 0.25):
        for skew_px in (-2, 2):
            image = draw_blobs(shape, [(50, place), (50, place + skew_px)], [2.5, 5.0], [0.5, 1.0])
            for left, right in ((fine, coarse), (coarse, fine)):
                windows = [make_window((0, 0, 100, 80), left), make_window((0, 80, 100, 160), right)]
                results.append((place, detect_image_by_windows(image, settings, windows)))
    return results


@pytest.mark.parametrize("overlap", [0.1, 0.95])
def test_objects_on_a_border_count_once_whatever_the_settings(overlap):
    results = find_skewed_objects(overlap)
    assert [len(rows) for _, rows in results] == [1] * len(results)
    assert max(abs(rows["x_px"][0] - place) for place, rows in results) < 3


def test_objects_on_a_border_need_the_second_look(monkeypatch):
    monkeypatch.setattr(log_windows, "_add_orphans", lambda remaining, beyond, search: remaining)
    assert {len(rows) for _, rows in find_skewed_objects(0.95)} == {0, 1}


def test_images_of_another_size_are_refused_with_both_sizes():
    windows = [make_window((0, 0, 50, 60), BASE)]
    with pytest.raises(ValueError, match=r"50 x 60 px, and this image has 64 x 60 px.*--cohort"):
        detect_image_by_windows(np.zeros((64, 60)), BASE, windows)


def test_no_object_gives_the_columns_of_a_whole_search():
    image = np.full((50, 60), 7.0)
    windows = [make_window((0, 0, 50, 30), BASE), make_window((0, 30, 50, 60), dataclasses.replace(BASE, overlap=0.1))]
    pd.testing.assert_frame_equal(detect_image_by_windows(image, BASE, windows), detect_image(image, BASE))
