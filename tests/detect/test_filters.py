"""The filters are scipy's to the last bit, for any shape, dtype and scale; so strips of an image are, too."""

import os
import subprocess
import sys

import llvmlite.binding as llvm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from emqa_dask.detect import filters


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.floats(0.2, 20),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from([1e-30, 1.0, 1e4]),
    st.integers(0, 2**32),
)
def test_the_response_is_scipys_bit_for_bit(height, width, sigma, dtype, gain, seed):
    image = (gain * np.random.default_rng(seed).standard_normal((height, width))).astype(dtype)
    sigma = dtype(sigma)
    expected = -ndimage.gaussian_laplace(image, sigma) * float(sigma**2)
    np.testing.assert_array_equal(filters.gaussian_laplace(image, sigma), expected)


def test_on_this_machine_scipy_is_reproduced_rather_than_called():
    if np.dtype(np.longdouble).itemsize == 16 and np.finfo(np.longdouble).nmant != 63:
        pytest.skip("not an x86 processor: scipy may use fused multiply-adds")
    assert filters.is_rounded_as_scipy()


def test_where_scipy_rounds_otherwise_it_is_called(monkeypatch):
    image = np.random.default_rng(0).random((40, 50), np.float32)
    monkeypatch.setattr(filters, "is_rounded_as_scipy", lambda: False)
    monkeypatch.setattr(filters, "compute_laplacian", None)
    np.testing.assert_array_equal(
        filters.gaussian_laplace(image, np.float32(2)), -4 * ndimage.gaussian_laplace(image, 2)
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_part_with_margins_equals_the_whole_bitwise(dtype):
    image = np.random.default_rng(1).random((200, 310)).astype(dtype)
    halves = [half.astype(dtype) for half in filters._make_kernel_halves(np.float64(3.0))]
    whole, part = (filters.compute_laplacian(pixels, *halves, 9.0) for pixels in (image, image[37:150]))
    np.testing.assert_array_equal(part[12:-12], whole[49:138])


def test_float32_sums_are_near_float64_ones():
    image = np.random.default_rng(2).random((80, 90), np.float32)
    halves = filters._make_kernel_halves(np.float64(6.0))
    exact = filters.compute_laplacian(image, *halves, 36.0)
    assert (
        abs(filters.compute_laplacian(image, *(half.astype(np.float32) for half in halves), 36.0) - exact).max() < 2e-6
    )


def test_read_only_and_strided_images_are_taken():
    image = np.random.default_rng(3).random((60, 80), np.float32)
    expected = filters.gaussian_laplace(np.ascontiguousarray(image[::2, ::-1]), np.float32(2))
    image.flags.writeable = False
    np.testing.assert_array_equal(filters.gaussian_laplace(image[::2, ::-1], np.float32(2)), expected)


SHOW = """
import numpy as np
from emqa_dask.detect import filters
filters.gaussian_laplace(np.random.default_rng(0).random((64, 600)), np.float64(3))
print(sum(code.count("zmm") for code in filters._filter_along_y.inspect_asm().values()))
"""


@pytest.mark.skipif(not llvm.get_host_cpu_features().get("avx512f"), reason="no 512-bit vectors on this processor")
@pytest.mark.parametrize("is_asked", [False, True])
def test_vector_width_is_the_processors_unless_set(is_asked, tmp_path):
    env = {k: v for k, v in os.environ.items() if k not in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")}
    env |= {"NUMBA_CACHE_DIR": str(tmp_path)} | ({"NUMBA_CPU_FEATURES": "+avx2,-avx512f"} if is_asked else {})
    done = subprocess.run([sys.executable, "-c", SHOW], env=env, capture_output=True, text=True, check=True)
    assert (int(done.stdout) > 0) != is_asked
