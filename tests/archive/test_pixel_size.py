"""The choice of a pixel size among what a file states, and what makes it doubtful."""

import math

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emqa_dask.archive.metadata.headers import Header
from emqa_dask.archive.metadata.pixel_size import StatedSize, choose_pixel_size, has_square_pixels
from emqa_dask.archive.readers import open_source


def test_first_stated_size_counts():
    header = choose_pixel_size(Header(), [StatedSize(math.nan), StatedSize(2.0), StatedSize(2.01)], 256)
    assert (header.nm_per_pixel, header.nm_per_pixel_y, header.nm_per_pixel_source) == (2.0, 2.0, "header")
    assert header.pixel_size_problem is None
    assert has_square_pixels(header)


def test_no_size():
    assert choose_pixel_size(Header(), [], 256) == Header()
    assert choose_pixel_size(Header(), [StatedSize(0.0)], 256) == Header()
    assert has_square_pixels(Header())


def test_impossible_size_is_unknown_with_a_problem():
    header = choose_pixel_size(Header(), [StatedSize(5e8, origin="PixelSize")], 256)
    assert math.isnan(header.nm_per_pixel)
    assert header.nm_per_pixel_source == "none"
    assert "PixelSize states 5e+08 nm" in header.pixel_size_problem


def test_impossible_size_gives_way_to_a_possible_one():
    header = choose_pixel_size(Header(), [StatedSize(5e8), StatedSize(3.0)], 256)
    assert (header.nm_per_pixel, header.pixel_size_problem) == (3.0, None)


def test_contradiction_is_a_problem():
    header = choose_pixel_size(Header(), [StatedSize(2.0, origin="PixelWidth"), StatedSize(4.0, origin="HFW")], 256)
    assert header.nm_per_pixel == 2.0
    assert header.pixel_size_problem == "PixelWidth states 2 nm per pixel, HFW 4 nm"


def test_cropped_or_resized_image_is_a_problem():
    header = choose_pixel_size(Header(), [StatedSize(2.0, image_width_px=1024)], 512)
    assert "1024 px wide and this one has 512" in header.pixel_size_problem
    assert choose_pixel_size(Header(), [StatedSize(2.0, image_width_px=512)], 512).pixel_size_problem is None


@given(st.floats(1e-3, 1e5), st.floats(1e-3, 1e5), st.sampled_from([-1, 1]))
def test_signs_do_not_count(x_nm, y_nm, sign):
    header = choose_pixel_size(Header(), [StatedSize(sign * x_nm, sign * y_nm)], 64)
    assert (header.nm_per_pixel, header.nm_per_pixel_y) == (x_nm, y_nm)
    assert has_square_pixels(header) == (abs(y_nm / x_nm - 1) <= 0.01)


@pytest.mark.parametrize("nm", [5e8, 1e-5])
def test_no_reader_gives_an_impossible_size(tmp_path, nm):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = np.zeros((64, 64), np.uint16)
        file["image"].attrs["nm_per_pixel"] = nm
    header = open_source(tmp_path / "a.h5").frames[0].header
    assert math.isnan(header.nm_per_pixel)
    assert math.isnan(header.nm_per_pixel_y)
    assert "which no microscope has" in header.pixel_size_problem
