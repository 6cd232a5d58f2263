"""Axes of arrays: images, stacks, colours and detectors, by names and by shape."""

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emqa_dask.archive.axes import (
    ImageAxes,
    NoImage,
    count_planes,
    find_other_array,
    identify_axes,
    iterate_planes,
    read_plane,
)


@pytest.mark.parametrize(
    ("shape", "dtype", "axes"),
    [
        ((200, 300), "u2", ImageAxes(0, 1)),
        ((5, 200, 300), "u2", ImageAxes(1, 2, None, (0,))),
        ((500, 64, 64), "u2", ImageAxes(1, 2, None, (0,))),
        ((256, 256, 3), "u1", ImageAxes(0, 1, 2)),
        ((256, 256, 4), "u1", ImageAxes(0, 1, 2)),
        ((256, 256, 4), "f4", ImageAxes(0, 1, None, (2,))),
        ((256, 300, 2), "u2", ImageAxes(0, 1, None, (2,))),
        ((1, 1, 256, 300, 1), "u2", ImageAxes(2, 3, None, (0, 1, 4))),
        ((1, 3, 256, 300, 1), "u2", ImageAxes(2, 3, None, (0, 4, 1))),
        ((1, 300), "u2", ImageAxes(0, 1)),
        ((50, 64, 80, 3), "u1", ImageAxes(1, 2, 3, (0,))),
    ],
)
def test_shapes_without_names(shape, dtype, axes):
    assert identify_axes(shape, dtype) == axes


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((4096, 64, 64), "diffraction"),
        ((6000, 4), "signal"),
        ((500, 64, 64), None),
        ((2000, 512, 512), None),
        ((2**40, 64, 64), None),
    ],
)
def test_arrays_of_unnamed_axes_by_their_sides(shape, kind):
    other = find_other_array(shape, identify_axes(shape, "u2"))
    assert (other and other.kind) == kind


def test_angles_are_diffraction_unless_they_count_tilts():
    assert identify_axes((200, 300), "u2", ["y", "x"], ["°", "°"]).kind == "diffraction"
    assert identify_axes((200, 300), "u2", ["y", "x"], ["mrad", "mrad"]).kind == "diffraction"
    for unit in ("rad", "deg"):
        axes = identify_axes((5, 200, 300), "u2", ["tilt", "y", "x"], [unit, "nm", "nm"])
        assert axes == ImageAxes(1, 2, None, (0,))


@pytest.mark.parametrize(
    ("shape", "dtype", "kind"),
    [
        ((7,), "u2", "spectrum"),
        ((8, 8, 64, 64), "u2", "diffraction"),
        ((64, 64, 1024), "u2", "signal"),
        ((64, 64), "c8", "signal"),
        ((0, 64), "u2", "signal"),
        ((64, 64), "S4", "signal"),
        ((1, 1), "u2", "spectrum"),
    ],
)
def test_shapes_that_are_no_image(shape, dtype, kind):
    found = identify_axes(shape, dtype)
    assert isinstance(found, NoImage)
    assert found.kind == kind
    assert found.reason


def test_names_decide():
    assert identify_axes((200, 300, 4), "u2", "yxt") == ImageAxes(0, 1, None, (2,))
    assert identify_axes((3, 200, 300), "u1", "cyx") == ImageAxes(1, 2, None, (0,))
    assert identify_axes((200, 300, 3), "u1", "yxc") == ImageAxes(0, 1, 2)
    assert identify_axes((300, 200), "u1", ["X", "Y"]) == ImageAxes(1, 0)
    assert identify_axes((3, 200, 300), "u1", ["rgb", "y", "x"]) == ImageAxes(1, 2, 0)
    assert identify_axes((2, 8, 64, 64), "u1", "tzyx") == ImageAxes(2, 3, None, (0, 1))
    assert identify_axes((64, 64, 100), "u1", ["y", "x", "energy"]).kind == "spectrum"
    assert identify_axes((64, 64), "u1", ["y", "x"], ["1/nm", "1/nm"]).kind == "diffraction"


@settings(deadline=None)
@given(st.permutations("tyxc"), st.data())
def test_read_plane_is_the_transposed_array(names, data):
    sizes = {"t": 2, "y": 7, "x": 5, "c": 3}
    names = ["rgb" if name == "c" else name for name in names]
    shape = [sizes["c" if name == "rgb" else name] for name in names]
    array = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    axes = identify_axes(shape, array.dtype, names)
    expected = np.transpose(array, [names.index(name) for name in ("t", "y", "x", "rgb")])
    y0 = data.draw(st.integers(0, 6))
    planes = list(iterate_planes(shape, axes))
    assert len(planes) == count_planes(shape, axes) == 2
    for k, plane in enumerate(planes):
        for source in (array, da.from_array(array)):
            np.testing.assert_array_equal(read_plane(source, axes, plane, y0, 7), expected[k, y0:])


def test_names_of_the_other_axes_leave_the_image():
    assert identify_axes((4, 12, 9), "u2", ["time", "dim2", "dim3"]) == ImageAxes(1, 2, None, (0,))
    assert identify_axes((12, 9, 4), "u2", ["dim1", "dim2", "z"]) == ImageAxes(0, 1, None, (2,))
    assert identify_axes((4, 12, 9), "u2", ["frame", "x", ""]) == ImageAxes(2, 1, None, (0,))
    assert identify_axes((22, 30), "f4", ["R_x", "R_y"]) == ImageAxes(1, 0)
