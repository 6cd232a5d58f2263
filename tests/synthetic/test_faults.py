"""Laws of the faults: same shape and dtype, repeatable, the input untouched, and really there."""

import numpy as np
import pytest

from emqa_dask.synthetic.faults import (
    FAULTS,
    FOREIGN,
    apply_fault,
    estimate_noise_level,
    make_foreign_image,
    make_near_duplicate,
)


def micrograph(dtype=np.uint16, shape=(192, 224), seed=0):
    """Noisy grains: a field of disks with shot noise, asymmetric in both directions."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    field = np.full(shape, 90.0) + 0.2 * x
    for cy, cx, r in rng.uniform((0, 0, 3), (*shape, 9), (40, 3)):
        field += 60 * (np.hypot(y - cy, x - cx) < r)
    return (rng.poisson(field).clip(0, 255) * (1 if dtype == np.uint8 else 16)).astype(dtype)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_fault_keeps_shape_and_dtype_and_is_repeatable(fault, dtype):
    image = micrograph(dtype)
    before = image.copy()
    first, second = (apply_fault(fault, image, np.random.default_rng(3)) for _ in range(2))
    assert first.shape == image.shape
    assert first.dtype == image.dtype
    assert np.array_equal(first, second)
    assert np.array_equal(image, before)
    assert np.isfinite(first).all()
    assert np.array_equal(first, image) == (fault == "duplicate")


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_pictures_have_the_shape_and_are_8_bit(name):
    for seed, shape in enumerate([(256, 256), (200, 320), (320, 200)]):
        picture = make_foreign_image(name, np.random.default_rng(seed), shape)
        assert picture.dtype == np.uint8
        assert picture.shape in (shape, (*shape, 3))
        assert np.ptp(picture) > 50


def test_unknown_faults_are_refused():
    with pytest.raises(KeyError):
        apply_fault("smudge", micrograph(), np.random.default_rng(0))


def test_blur_spoils_the_signal_and_leaves_the_noise():
    image = micrograph()
    blurred = apply_fault("blur", image, np.random.default_rng(1))
    assert estimate_noise_level(blurred) == pytest.approx(estimate_noise_level(image), rel=0.25)
    blocks = [a[:192, :192].reshape(48, 4, 48, 4).mean((1, 3)) for a in (image, blurred)]
    steps = [np.quantile(np.abs(np.diff(b, axis=0)), 0.98) for b in blocks]
    assert steps[1] < 0.8 * steps[0]


@pytest.mark.parametrize("sigma", [0.5, 3.0, 40.0])
def test_noise_level_is_the_standard_deviation_of_white_noise(sigma):
    noise = np.random.default_rng(0).normal(100, sigma, (256, 256))
    assert estimate_noise_level(noise) == pytest.approx(sigma, rel=0.03)
    assert estimate_noise_level(np.zeros((2, 2))) == 0


def test_severity_scales_a_fault():
    image = micrograph(np.uint8)
    shares = [
        (apply_fault("saturation", image, np.random.default_rng(5), severity=s) == 255).mean() for s in (0.3, 1, 2)
    ]
    assert shares[0] < shares[1] < shares[2]


def test_near_duplicates_differ_but_little():
    image = micrograph(np.uint8)
    for seed in range(8):
        copy = make_near_duplicate(image, np.random.default_rng(seed))
        assert not np.array_equal(copy, image)
        assert abs(float(copy.mean()) - float(image.mean())) < 40
    flat = make_near_duplicate(np.full((64, 64), 7, np.uint8), np.random.default_rng(0))
    assert not np.array_equal(flat, np.full((64, 64), 7))
