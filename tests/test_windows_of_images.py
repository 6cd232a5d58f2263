"""Windows of images: laws of their grid."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emqa_dask.windows import WindowSettings, compute_corners

SIDES = st.integers(16, 400)


@given(SIDES, SIDES, st.integers(1, 60), st.integers(0, 16))
def test_windows_lie_inside_and_there_are_not_too_many(height, width, most, stride):
    view = WindowSettings(16, stride_px=stride, max_windows=most)
    grid = compute_corners((height, width), view)
    assert 1 <= grid.shape[0] * grid.shape[1] <= max(most, 1)
    assert grid.min() >= 0
    assert grid[..., 0].max() <= height - 16
    assert grid[..., 1].max() <= width - 16
    assert (np.diff(grid[:, 0, 0]) > 0).all()
    assert (np.diff(grid[0, :, 1]) > 0).all()


@given(SIDES, SIDES)
def test_without_a_limit_every_pixel_is_seen(height, width):
    grid = compute_corners((height, width), WindowSettings(16, max_windows=10**6))
    for axis, n in enumerate((height, width)):
        starts = np.unique(grid[..., axis])
        assert starts[0] == 0
        assert starts[-1] == n - 16
        assert np.diff(starts).max(initial=0) <= 16


@given(SIDES, SIDES, st.integers(4, 60))
def test_with_a_limit_both_edges_are_seen(height, width, most):
    whole, few = (compute_corners((height, width), WindowSettings(16, max_windows=n)) for n in (10**6, most))
    for axis in (0, 1):
        if few.shape[axis] > 1:
            assert few[..., axis].max() == whole[..., axis].max()
            assert few[..., axis].min() == 0


def test_a_limit_of_none_is_refused():
    with pytest.raises(ValueError, match="max_windows is 0"):
        WindowSettings(16, max_windows=0)
