"""Laws of the image statistics: defined for any pixels, blind to gain, offset, depth; drift is seen all around."""

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from emqa_dask import tables
from emqa_dask.featurise import foreign, image_parts, images, overlays, periodogram
from emqa_dask.featurise.images import image_features, image_statistics
from emqa_dask.featurise.periodogram import compute_mean_periodogram, place_tiles
from emqa_dask.featurise.signature import N_BYTES, compute_signature
from emqa_dask.featurise.spectrum import compute_spectrum_statistics
from emqa_dask.landmark_codes import LANDMARKS_BYTES
from emqa_dask.synthetic.faults import apply_fault
from emqa_dask.synthetic.profiles import make_sample

ALWAYS = ("short_side_px", "nonfinite_fraction", "colour_fraction")
NEEDS_TILES = (
    "noise_floor",
    "detail_cpp",
    "autocorrelation_excess",
    "anisotropy",
    "drift_contrast",
    "astigmatism_contrast",
)
RELATIVE = (
    "detail_cpp",
    "autocorrelation_excess",
    "drift_contrast",
    "astigmatism_contrast",
    "stripe_rows",
    "radial_fraction",
)


@pytest.fixture(scope="module")
def good():
    return make_sample("sem-texture", np.random.default_rng(3), (384, 512)).image


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((1, 1)),
        np.array([[np.inf]]),
        np.zeros((0, 5)),
        np.zeros((1, 100_000), np.uint8),
        np.random.default_rng(0).random((1, 100_000)),
        np.random.default_rng(0).random((100_000, 1)).astype(np.float16),
        np.full((300, 300), 5, np.uint16),
        np.full((64, 64), np.nan),
        np.full((64, 64), -np.inf, np.float32),
        np.random.default_rng(0).random((33, 40)) > 0.5,
        np.random.default_rng(0).random((50, 70)) * 1e300,
        np.random.default_rng(0).random((50, 70)) * 1e-300,
        np.random.default_rng(0).integers(-(2**31), 2**31 - 1, (100, 100)),
        np.where(np.random.default_rng(0).random((99, 99)) > 0.9, np.nan, 1.0),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_any_image_has_every_statistic(image):
    features = image_features(image)
    assert set(features) == {*tables.IMAGE_STATISTICS, "signature", "landmarks", *tables.TILE_COLUMNS}
    for name in tables.TILE_COLUMNS:
        features.pop(name)
    assert len(features.pop("signature")) == N_BYTES
    assert len(features.pop("landmarks")) == LANDMARKS_BYTES
    assert all(isinstance(v, float) and not np.isinf(v) for v in features.values())
    assert not any(np.isnan(features[name]) for name in ALWAYS)
    if min(image.shape) >= 32 and np.isfinite(image).any():
        assert not any(np.isnan(features[name]) for name in NEEDS_TILES)


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.uint16, np.int16, np.float32, np.float64]),
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=70),
    )
)
def test_no_pixels_break_it(image):
    features = image_statistics(image)
    assert list(features) == list(tables.IMAGE_STATISTICS)
    assert not any(np.isinf(v) for v in features.values())
    assert 0 <= features["nonfinite_fraction"] <= 1


def test_three_dimensions_are_refused():
    with pytest.raises(ValueError, match="3 dimensions"):
        image_statistics(np.zeros((3, 4, 5)))


def test_non_finite_pixels_are_counted_and_change_little(good):
    image = good.astype(np.float32)
    image[::50, ::50] = np.nan
    image[1, 1] = np.inf
    measured = image_statistics(image)
    assert measured["nonfinite_fraction"] == pytest.approx((~np.isfinite(image)).mean())
    assert measured["detail_cpp"] == pytest.approx(image_statistics(good)["detail_cpp"], rel=0.1)


def test_depth_does_not_matter():
    eight = make_sample("cavity-tem", np.random.default_rng(2), (256, 256)).image
    eight = np.clip(eight.astype(float) / eight.max() * 240, 0, 255).astype(np.uint8)
    deep = eight.astype(np.uint16) * 257
    one = image_statistics(eight)
    other = image_statistics(deep)
    for name in tables.IMAGE_STATISTICS:
        if not name.startswith("saturated"):  # the end of 8 bits is widened for JPEG
            assert other[name] == pytest.approx(one[name], rel=0.02, abs=2e-3, nan_ok=True), name


@pytest.mark.parametrize(("gain", "offset"), [(7.0, 0.0), (0.01, 0.0), (3.0, 1000.0), (1e-9, 5e-8)])
def test_gain_and_offset_do_not_matter(good, gain, offset):
    one = image_statistics(good)
    other = image_statistics(good * gain + offset)
    for name in RELATIVE:
        assert other[name] == pytest.approx(one[name], rel=0.05, abs=0.02), name


@pytest.mark.parametrize("turn", [np.transpose, np.fliplr, np.flipud, np.rot90])
def test_optics_are_judged_alike_however_the_image_lies(good, turn):
    drifted = apply_fault("drift", good[:, :384], np.random.default_rng(8))
    one, other = (image_statistics(np.ascontiguousarray(a)) for a in (drifted, turn(drifted)))
    for name in ("detail_cpp", "autocorrelation_excess", "drift_contrast", "anisotropy"):
        assert other[name] == pytest.approx(one[name], rel=0.15), name


@pytest.mark.parametrize("angle", [0, 45, 90, 135])
def test_drift_is_measured_with_its_length_and_angle(angle):
    rng = np.random.default_rng(angle)
    length = 21
    padded = rng.standard_normal((560, 560))
    t = np.linspace(-length / 2, length / 2, 8 * length)
    shifts = np.rint(np.outer(t, [np.sin(np.radians(angle)), np.cos(np.radians(angle))])).astype(int)
    moved = np.mean([np.roll(padded, tuple(s), (0, 1)) for s in shifts], axis=0)[24:-24, 24:-24]
    moved += 0.05 * moved.std() * rng.standard_normal(moved.shape)
    measured = image_statistics(moved)
    assert measured["drift_contrast"] > 0.5
    assert measured["drift_px"] == pytest.approx(length, rel=0.25)
    off = abs(measured["drift_angle_deg"] - angle) % 180
    assert min(off, 180 - off) <= 12


def cut_tiles(image: np.ndarray) -> np.ndarray:
    """The tiles (n, t, t) of `image` (h, w), float32."""
    t, corners = place_tiles(image.shape)
    tiles = [image[y : y + t, x : x + t] for y, x in corners]
    return np.stack(tiles).astype(np.float32) if tiles else np.zeros((0, t, t), np.float32)


@pytest.mark.parametrize("shape", [(40, 33), (300, 1500)])
def test_periodogram_of_an_image_is_that_of_its_tiles(shape):
    pixels = np.random.default_rng(1).normal(300, 40, shape).astype(np.float32)
    tiles = cut_tiles(pixels)
    expected = compute_mean_periodogram(np.clip((tiles - 200) / 200, -0.5, 1.5))
    power = periodogram.compute_image_periodogram(list(tiles), 200.0, np.float32(1 / 200), (-0.5, 1.5))
    np.testing.assert_allclose(power, expected, rtol=1e-4, atol=1e-6)


def test_white_noise_has_its_power_and_no_structure():
    noise = np.random.default_rng(0).normal(0, 0.2, (512, 512)).astype(np.float32)
    cut = cut_tiles(noise)
    assert compute_mean_periodogram(cut).mean() == pytest.approx(0.04, rel=0.03)
    measured = compute_spectrum_statistics(cut)
    assert measured["noise_floor"] == pytest.approx(0.2, rel=0.05)
    assert measured["autocorrelation_excess"] < 1e-3
    assert measured["drift_contrast"] < 0.1


def test_tiles_bound_the_cost_and_cover_the_frame():
    for shape in ((32, 1024), (256, 256), (768, 512), (2816, 2048), (64, 40_000)):
        marked = np.zeros(shape, np.float32)
        marked[-1, -1] = 1
        cut = cut_tiles(marked)
        assert 1 <= len(cut) <= 16
        assert cut.shape[1] == cut.shape[2] <= 256
        assert cut[-1, -1, -1] == 1
    assert cut_tiles(np.zeros((31, 500), np.float32)).shape[0] == 0


def test_blur_lowers_the_detail_step_by_step(good):
    details = [
        image_statistics(apply_fault("blur", good, np.random.default_rng(0), severity=s))["detail_cpp"]
        for s in (0.1, 0.4, 1.0, 2.0)
    ]
    assert details == sorted(details, reverse=True)
    assert details[-1] < 0.4 * details[0]


@pytest.mark.parametrize("shape", [(480, 640), (1536, 1536)])
def test_the_box_of_a_scale_bar_covers_the_bar(shape):
    rng = np.random.default_rng(1)
    image = rng.normal(90, 12, shape).clip(0, 200).astype(np.uint8)
    h, w = shape
    y0 = int(0.9 * h)
    y1 = int(0.9 * h) + h // 60
    x0 = int(0.7 * w)
    x1 = int(0.9 * w)
    image[y0:y1, x0:x1] = 255
    measured = image_statistics(image)
    assert measured["scale_bar_contrast"] > 0.5
    box = [measured[f"scale_bar_{k}"] for k in ("y0", "x0", "y1", "x1")]
    assert box == pytest.approx([y0, x0, y1, x1], abs=8)
    image[y0:y1, x0:x1] = image[: y1 - y0, x0:x1]
    assert image_statistics(image)["scale_bar_contrast"] == 0


def test_signature_survives_gain_and_depth_and_tells_images_apart(good):
    def tones(image):
        v = np.frombuffer(compute_signature(image.astype(np.float32)), np.int8)[:256].astype(float)
        return v / np.linalg.norm(v)

    other = make_sample("sem-texture", np.random.default_rng(4), (384, 512)).image
    assert tones(good) @ tones(good * 3.0 + 7) > 0.999
    assert tones(good) @ tones(other) < 0.8
    assert compute_signature(np.full((100, 100), 3.0, np.float32)) == bytes(N_BYTES)
    assert compute_signature(np.zeros((0, 0), np.float32)) == bytes(N_BYTES)


def test_large_images_are_measured_on_as_many_pixels(monkeypatch):
    """One function sees the whole image and reduces it to a view. All others see few pixels of it."""
    sizes = []

    def record_sizes(function):
        def recording(*args, **kwargs):
            sizes[-1] += [array.size for array in args if isinstance(array, np.ndarray)]
            return function(*args, **kwargs)

        return recording

    measuring = {module.__name__ for module in (foreign, overlays, periodogram)}
    for module in (image_parts, images, foreign, overlays):
        for name, function in list(vars(module).items()):
            if inspect.isfunction(function) and function.__module__ in measuring:
                monkeypatch.setattr(module, name, record_sizes(function))
    n_pixels = []
    for side in (1500, 4500):
        sizes.append([])
        image_statistics(np.tile(np.random.default_rng(0).random((500, 500)), (side // 500, side // 500)))
        assert sizes[-1].count(side**2) == 1
        n_pixels.append(sum(sizes[-1]) - side**2)
    assert 0 < n_pixels[1] < 2 * n_pixels[0]


def test_empty_pixels_changed_by_a_codec_count_as_empty():
    rng = np.random.default_rng(4)
    counts = np.where(rng.random((256, 256)) < 0.2, 200, 0)
    lifted = counts + rng.integers(0, 4, counts.shape)
    for image in (counts, lifted):
        assert image_statistics(image.astype(np.uint8))["empty_fraction"] == pytest.approx(
            (counts == 0).mean(), abs=1e-3
        )
