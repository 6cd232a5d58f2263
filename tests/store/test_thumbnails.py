"""Laws of thumbnails: a readable grey JPEG of the right size for any dtype, shape and set of pixels."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emqa_dask.store.thumbnails import make_thumbnail

DTYPES = (
    "bool",
    "uint8",
    "int8",
    "uint16",
    ">u2",
    "int16",
    "uint32",
    "int64",
    "float16",
    "float32",
    ">f8",
    "complex64",
)


def decoded(jpeg):
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_UNCHANGED)


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    longest=st.integers(1, 64),
    seed=st.integers(0, 9),
)
def test_any_image_gives_a_grey_jpeg_that_fits(dtype, height, width, longest, seed):
    raw = np.random.default_rng(seed).integers(0, 256, (height, width * np.dtype(dtype).itemsize), np.uint8)
    image = (raw & 1).astype(bool) if dtype == "bool" else raw.view(dtype)
    found = decoded(make_thumbnail(image, longest))
    assert found.ndim == 2
    assert found.shape == tuple(max(1, round(n * min(1, longest / max(height, width)))) for n in (height, width))


@pytest.mark.parametrize("shape", [(1, 1), (1, 100_000), (100_000, 1), (3, 70_000)])
def test_extreme_shapes(shape):
    assert max(decoded(make_thumbnail(np.zeros(shape, np.uint16))).shape) == min(max(shape), 256)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("fill", [np.array(0), np.array(100)])
def test_a_constant_image_is_mid_grey(dtype, fill):
    assert (decoded(make_thumbnail(np.full((300, 300), fill, dtype))) == 128).all()


def test_contrast_ignores_gain_offset_and_a_hot_pixel():
    image = np.random.default_rng(0).integers(0, 200, (256, 256))
    plain = decoded(make_thumbnail(image.astype(np.uint8))).astype(int)
    scaled = decoded(make_thumbnail((image * 100 + 1000).astype(np.uint16))).astype(int)
    hot = image.astype(np.float32)
    hot[5, 5] = 1e9
    assert np.abs(plain - scaled).max() <= 2
    assert np.abs(plain - decoded(make_thumbnail(hot)).astype(int)).mean() < 1
    assert plain.min() < 10
    assert plain.max() > 245


def test_nonfinite_pixels_are_black_and_do_not_spread():
    image = np.tile(np.linspace(1, 2, 512, dtype=np.float32), (512, 1))
    whole = decoded(make_thumbnail(image)).astype(int)
    image[:256, 256:] = np.nan
    image[300, 300] = np.inf
    holed = decoded(make_thumbnail(image)).astype(int)
    assert holed[:120, 136:].max() <= 12
    assert np.abs(holed - whole)[:, :120].max() <= 12
    assert np.abs(holed - whole)[140:].max() <= 12
    assert (decoded(make_thumbnail(np.full((9, 9), np.nan))) == 0).all()


def test_a_few_bright_pixels_in_a_flat_image_are_seen():
    image = np.zeros((200, 200), np.uint16)
    image[100:103, 100:103] = 500
    assert decoded(make_thumbnail(image)).max() > 200


def test_downsampling_averages():
    image = np.indices((512, 512)).sum(0) % 2 * 200  # a chessboard of single pixels is even grey, no moiré
    found = decoded(make_thumbnail(image.astype(np.uint8)))
    assert np.ptp(found) == 0


@pytest.mark.parametrize("dtype", ["u2", "i2", "f4", "f8", "i4"])
def test_the_byte_order_does_not_matter(dtype):
    image = np.random.default_rng(0).integers(0, 3000, (300, 280)).astype(f"<{dtype}")
    assert make_thumbnail(image) == make_thumbnail(image.astype(f">{dtype}"))
