"""Windows cover the image; each gets the setting that is best in it; overlapping ones share nothing."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emqa_dask.tune.tiles import Tile, find_nearest_tile, place_tiles, select_points, tune_tiles

sides = st.integers(1, 60)
CANDIDATES = [{"threshold": t, "overlap": 0.5} for t in (0.1, 0.2, 0.4)]
OBJECTIVES = ("a", "b")


@settings(deadline=None)
@given(st.tuples(sides, sides), sides, st.data())
def test_windows_cover_every_pixel_and_stay_inside(shape, size, data):
    step = data.draw(st.integers(1, size))
    parts = place_tiles(shape, size, step)
    covered = np.zeros(shape, int)
    for y0, x0, y1, x1 in parts:
        assert 0 <= y0 < y1 <= shape[0]
        assert 0 <= x0 < x1 <= shape[1]
        assert (y1 - y0, x1 - x0) == (min(size, shape[0]), min(size, shape[1]))
        covered[y0:y1, x0:x1] += 1
    assert covered.min() >= 1
    assert len(set(parts)) == len(parts)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(8, 40))
def test_without_overlap_every_point_lies_in_one_window(seed, size):
    shape = (50, 70)
    yx = np.random.default_rng(seed).uniform([-0.5, -0.5], [49.49, 69.49], (30, 2))
    points = pd.DataFrame(yx, columns=["y_px", "x_px"])
    parts = place_tiles((50 // size * size or 50, 70 // size * size or 70), min(size, 50), min(size, 50))
    found = pd.concat([select_points(points, part) for part in parts])
    assert found.index.is_unique
    assert len(select_points(points, Tile(0, 0, *shape))) == len(points)


def test_a_windows_points_lie_in_the_windows_own_image():
    yx = np.random.default_rng(3).uniform(0, 80, (200, 2))
    points = pd.DataFrame(yx, columns=["y_px", "x_px"]).assign(y0=lambda t: t["y_px"] - 2, x1=lambda t: t["x_px"] + 3)
    found = select_points(points, Tile(10, 20, 40, 70))
    assert 0 < len(found) < len(points)
    assert found["y_px"].between(-0.5, 29.5).all()
    assert found["x_px"].between(-0.5, 49.5).all()
    back = found + {"y_px": 10, "x_px": 20, "y0": 10, "x1": 20}
    pd.testing.assert_frame_equal(back, points.loc[found.index])


def test_each_window_gets_what_is_best_in_it():
    parts = place_tiles((40, 80), 40, 40)

    def evaluate(window, candidates):
        best = 0.1 if window.x0 == 0 else 0.4
        return [[abs(c["threshold"] - best), 0.0] for c in candidates]

    table = tune_tiles(parts, CANDIDATES, evaluate, OBJECTIVES)
    assert table["threshold"].tolist() == [0.1, 0.4]
    assert table[["y0", "x0", "y1", "x1"]].values.tolist() == [[0, 0, 40, 40], [0, 40, 40, 80]]
    assert (table[list(OBJECTIVES)] == 0).all(axis=None)


def test_a_window_without_finite_objectives_has_no_settings():
    def evaluate(window, candidates):
        return np.full((3, 2), np.nan if window.x0 else 0.5)

    table = tune_tiles(place_tiles((40, 80), 40, 40), CANDIDATES, evaluate, OBJECTIVES)
    assert table["threshold"].isna().tolist() == [False, True]
    assert table["a"].isna().tolist() == [False, True]


def test_no_window_gives_all_columns():
    table = tune_tiles(place_tiles((0, 10), 5, 5), CANDIDATES, lambda *_: [], OBJECTIVES)
    assert len(table) == 0
    assert list(table.columns) == ["y0", "x0", "y1", "x1", "threshold", "overlap", "a", "b"]
    assert find_nearest_tile(table, [1.0, 2.0], [1.0, 2.0]).tolist() == [-1, -1]


def test_places_belong_to_the_nearest_centre():
    table = pd.DataFrame(place_tiles((40, 80), 40, 20))
    assert table["x0"].tolist() == [0, 20, 40]
    assert find_nearest_tile(table, [5.0] * 4, [0.0, 28.0, 41.0, 79.0]).tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize(("size", "step"), [(10, 11), (10, 0), (0, 0)])
def test_steps_that_leave_gaps_are_refused(size, step):
    with pytest.raises(ValueError, match="step_px"):
        place_tiles((100, 100), size, step)
