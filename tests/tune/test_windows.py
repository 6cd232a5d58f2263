"""Windows cover the image, and each point lies in one of them."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emqa_dask.tune.tiles import Tile, select_points, split_image

sides = st.integers(1, 60)


@settings(deadline=None)
@given(st.tuples(sides, sides), sides)
def test_windows_cover_every_pixel_once_and_are_alike(shape, size):
    parts = split_image(shape, size)
    covered = np.zeros(shape, int)
    for y0, x0, y1, x1 in parts:
        covered[y0:y1, x0:x1] += 1
    assert (covered == 1).all()
    for first, last in (("y0", "y1"), ("x0", "x1")):
        lengths = {getattr(part, last) - getattr(part, first) for part in parts}
        assert max(lengths) - min(lengths) <= 1
        assert max(lengths) <= max(1.5 * size, 1) + 1


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(8, 40))
def test_every_point_lies_in_one_window(seed, size):
    shape = (50, 70)
    yx = np.random.default_rng(seed).uniform([-0.5, -0.5], [49.49, 69.49], (30, 2))
    points = pd.DataFrame(yx, columns=["y_px", "x_px"])
    found = pd.concat([select_points(points, part) for part in split_image(shape, size)])
    assert sorted(found.index) == list(range(30))
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


def test_windows_without_pixels_are_refused():
    assert split_image((0, 10), 5) == []
    with pytest.raises(ValueError, match="size_px is 0"):
        split_image((100, 100), 0)
