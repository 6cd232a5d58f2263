"""The camera: shot noise has the variance of its mean, the stored range is used and not overrun."""

import numpy as np
import pytest

from emqa_dask.synthetic import camera

FLAT = np.ones((400, 400), np.float32)


@pytest.mark.parametrize("dose", [3.0, 30.0, 60.0, 5000.0])
def test_shot_noise_has_the_variance_of_the_mean(dose):
    electrons = camera.expose(np.random.default_rng(1), FLAT, dose_e_per_px=dose, mtf_sigma_px=0.0)
    assert electrons.mean() == pytest.approx(dose, rel=0.01)
    assert electrons.var() == pytest.approx(dose, rel=0.03)


def test_noise_adds_in_quadrature_and_point_spread_correlates_it():
    settings = {"dose_e_per_px": 100.0, "gain_spread": 0.1, "read_noise_e": 10.0}
    electrons = camera.expose(np.random.default_rng(2), FLAT, mtf_sigma_px=0.0, **settings)
    assert electrons.var() == pytest.approx(100 + 100 + 100, rel=0.04)
    blurred = camera.expose(np.random.default_rng(2), FLAT, mtf_sigma_px=1.0, dose_e_per_px=100.0)
    assert blurred.var() < 30
    assert np.corrcoef(blurred[:, 1:].ravel(), blurred[:, :-1].ravel())[0, 1] > 0.5


def test_an_infinite_dose_is_noiseless():
    ramp = np.linspace(0.5, 1.5, 400 * 400, dtype=np.float32).reshape(400, 400)
    image = camera.expose(np.random.default_rng(3), ramp, dose_e_per_px=np.inf, mtf_sigma_px=0.0)
    np.testing.assert_array_equal(image, ramp)


@pytest.mark.parametrize("seed", range(5))
def test_good_images_hardly_clip(seed):
    rng = np.random.default_rng(seed)
    electrons = camera.expose(rng, FLAT, dose_e_per_px=200.0)
    eight = camera.digitise(rng, electrons, "uint8")
    sixteen = camera.digitise(rng, electrons, "uint16")
    assert ((eight == 0) | (eight == 255)).mean() < 0.006
    assert (sixteen == 65535).sum() == 0
    assert np.ptp(eight) > 100


def test_digitising_keeps_the_order_of_pixels_and_refuses_other_dtypes():
    ramp = np.linspace(1, 100, 160_000, dtype=np.float32).reshape(400, 400)
    for dtype in ("uint8", "uint16", "float32"):
        assert (np.diff(camera.digitise(np.random.default_rng(0), ramp, dtype).ravel().astype(float)) >= 0).all()
    with pytest.raises(ValueError, match="int64"):
        camera.digitise(np.random.default_rng(0), ramp, "int64")


def test_jpeg_softness_grows_as_quality_falls():
    rng = np.random.default_rng(5)
    image = rng.integers(60, 190, (128, 128)).astype(np.uint8)
    errors = [np.abs(camera.compress_jpeg(image, quality).astype(float) - image).mean() for quality in (95, 70, 30)]
    assert errors[0] < errors[1] < errors[2]
