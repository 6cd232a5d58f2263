"""Statistics, spectra, signatures and thumbnails of a batch on a device are those of single images on the host."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.ndimage
import skimage
from hypothesis import given, settings
from hypothesis import strategies as st

from emqa_dask import area_average
from emqa_dask.area_average import average_areas, make_area_weights
from emqa_dask.backend import to_host
from emqa_dask.featurise import batch_parts, hits, periodogram, region_map, rings
from emqa_dask.featurise.batch_parts import split_images
from emqa_dask.featurise.images import compute_features_of_images, compute_features_of_parts, image_features
from emqa_dask.landmark_codes import LANDMARK
from emqa_dask.store import thumbnails
from emqa_dask.synthetic.faults import apply_fault
from emqa_dask.synthetic.films import draw_amorphous_film
from emqa_dask.synthetic.profiles import make_sample
from emqa_dask.tables import TILE_COLUMNS
from tests.detect.strict_arrays import Strict, StrictModule

DATA = Path(__file__).parents[3] / "shared" / "data"
DTYPES = [
    bool,
    np.uint8,
    np.int8,
    np.uint16,
    np.int16,
    np.uint32,
    np.int32,
    np.int64,
    np.float16,
    np.float32,
    np.float64,
]
RELATIVE_TOLERANCE = 1e-4
ABSOLUTE_TOLERANCE = 1e-5  # of numbers near 0
# Shares of pixels, or of rows, that lie on one side of a limit: rounding moves a few of them.
COUNTED = {"axis_alignment": 0.01, "scene_mode_fraction": 0.01, "flat_fraction": 1e-3, "histogram_divergence": 1e-3}


def make_image(seed, shape, dtype):
    """A micrograph that fills a third of the range of `dtype`, with NaN where it can be."""
    image = make_sample("nanoparticle-tem", np.random.default_rng(seed), shape=shape).image.astype(np.float64)
    image = (image - image.min()) / np.ptp(image)
    if dtype is bool:
        return image > 0.5
    if np.dtype(dtype).kind == "f":
        image[5:9, 7:30] = np.nan
        return (100 * image).astype(dtype)
    info = np.iinfo(dtype)
    return (info.min / 3 + image * (info.max / 3 - info.min / 3)).astype(dtype)


def compute_features_of_batch(batch, dtype=None, device="cpu"):
    """Features of each image of `batch` (n, h, w), as the pipeline computes them on a device."""
    n, h, w = batch.shape
    return compute_features_of_parts(split_images(batch, dtype), [min(h, w)] * n, [0.25] * n, device)


def assert_equal_features(found, expected):
    assert list(found) == list(expected)
    tones, grain = (np.frombuffer(row.pop("signature"), np.uint8) for row in (found, expected)), None
    tones, grain = zip(*((row[:256].view(np.int8).astype(int), row[256:]) for row in tones), strict=True)
    assert np.abs(tones[0] - tones[1]).max() <= 1  # of 127: a tone at half a step is rounded either way
    assert np.unpackbits(grain[0] ^ grain[1]).sum() <= 2
    for name in TILE_COLUMNS:
        values, expected_values = (row.pop(name) for row in (found, expected))
        assert (values is None) == (expected_values is None)
        if values is not None:
            np.testing.assert_allclose(values, expected_values, rtol=RELATIVE_TOLERANCE, atol=ABSOLUTE_TOLERANCE)
    codes, expected_codes = (set(np.frombuffer(row.pop("landmarks"), LANDMARK)["code"]) for row in (found, expected))
    assert len(codes & expected_codes) >= 0.8 * len(expected_codes)  # rounding may change the order and single bits
    for name, value in expected.items():
        close = pytest.approx(value, rel=RELATIVE_TOLERANCE, abs=COUNTED.get(name, ABSOLUTE_TOLERANCE), nan_ok=True)
        assert found[name] == close, name


def assert_equal_thumbnails(images, longest_px, device=np.asarray):
    """Grey levels before compression: JPEG's rounding of coefficients hides how near they are."""
    greys = to_host(thumbnails.downsample_batch(device(images), longest_px))
    for grey, image in zip(greys, images, strict=True):
        image = abs(image) if image.dtype.kind == "c" else image
        expected = thumbnails._downsample(image, longest_px)
        # OpenCV rounds the means of 8 and 16 bits to levels, halves upwards in blocks of 2 x 2 px.
        is_rounded = image.dtype in thumbnails.EXACTLY_AVERAGED_DTYPES
        tolerance = (
            1 if is_rounded else 2e-5 * max(float(np.nanmax(np.abs(image.astype(np.float64)), initial=0)), 1e-30)
        )
        np.testing.assert_allclose(grey, expected, atol=tolerance, rtol=1e-6)
        assert not is_rounded or np.sum(np.abs(grey - expected) > 0.5) <= max(1, 0.2 * grey.size)
        jpeg = np.frombuffer(thumbnails.encode_thumbnail(grey.astype(np.float64)), np.uint8)
        assert cv2.imdecode(jpeg, cv2.IMREAD_UNCHANGED).shape == grey.shape


def use_strict_arrays(monkeypatch):
    """Let all functions for a device use arrays that refuse implicit conversion."""
    for module in (area_average, batch_parts, hits, periodogram, region_map, rings, thumbnails):
        modules = (StrictModule(np), StrictModule(scipy.ndimage))
        monkeypatch.setattr(module, "get_array_modules", lambda _, modules=modules: modules)
    monkeypatch.setattr(area_average, "get_skimage", lambda _: StrictModule(skimage))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 90), st.integers(1, 90), st.data())
def test_area_averages_are_those_of_opencv(h, w, data):
    shape = data.draw(st.tuples(st.integers(1, h), st.integers(1, w)))
    pixels = np.random.default_rng(h * w).random((2, h, w), np.float32)
    expected = [cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA).reshape(shape) for image in pixels]
    np.testing.assert_allclose(average_areas(pixels, shape), expected, atol=1e-6)


def test_weights_of_areas_cover_every_pixel_once():
    np.testing.assert_allclose(make_area_weights(5, 2), [[0.4, 0.4, 0.2, 0, 0], [0, 0, 0.2, 0.4, 0.4]], rtol=1e-6)
    np.testing.assert_allclose(make_area_weights(3838, 1024).sum(axis=0), 1024 / 3838, rtol=3e-3)


def test_areas_without_cucim_are_averaged_alike(monkeypatch):
    pixels = np.random.default_rng(0).random((2, 12, 20), np.float32)
    expected = average_areas(pixels, (4, 5))
    monkeypatch.setattr(area_average, "get_skimage", lambda _: None)
    np.testing.assert_allclose(average_areas(pixels, (4, 5)), expected, rtol=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 99), st.integers(1, 700), st.integers(1, 700), st.sampled_from(DTYPES), st.integers(1, 3))
def test_features_of_a_batch_are_those_of_its_images(seed, h, w, dtype, n):
    batch = np.stack([make_image(seed + k, (max(h, 32), max(w, 32)), dtype)[:h, :w] for k in range(n)])
    for found, image in zip(compute_features_of_batch(batch), batch, strict=True):
        assert_equal_features(found, image_features(image, colour_fraction=0.25))


@pytest.mark.parametrize("fault", ["banner", "scale_bar", "saturation", "charging", "x_rays", "drift", "blank"])
def test_faults_are_seen_alike_in_a_batch(fault):
    rng = np.random.default_rng(7)
    image = make_sample("cavity-tem", rng, (1100, 1300)).image
    faulty = apply_fault(fault, image, rng)
    for found, own in zip(compute_features_of_batch(np.stack([image, faulty])), (image, faulty), strict=True):
        assert_equal_features(found, image_features(own, colour_fraction=0.25))


@pytest.mark.parametrize(
    "image",
    [
        np.full((130, 140), 7, np.uint16),
        np.full((130, 140), np.nan, np.float32),
        np.full((130, 140), -np.inf),
        np.where(np.random.default_rng(0).random((200, 150)) > 0.5, np.nan, 3.0),
        np.random.default_rng(0).random((150, 170)) * 1e300,
        np.random.default_rng(0).random((150, 170)) * 1e-300,
        np.zeros((0, 150), np.uint8),
        np.random.default_rng(0).integers(0, 255, (1, 3000), np.uint8),
        np.random.default_rng(0).integers(0, 255, (128, 5000), np.uint8),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_invalid_images_in_a_batch_are_as_alone(image):
    other = np.zeros(image.shape, image.dtype)
    for found, alone in zip(compute_features_of_batch(np.stack([image, other, image])), (image, other, image)):
        assert_equal_features(found, image_features(alone, colour_fraction=0.25))


def test_an_acquired_dtype_is_that_of_single_images():
    batch = np.stack([make_image(k, (150, 160), bool) for k in range(3)])
    found = compute_features_of_batch(batch.view(np.uint8), np.dtype(bool))
    for row, image in zip(found, batch, strict=True):
        assert_equal_features(row, image_features(image, colour_fraction=0.25))
    with pytest.raises(ValueError, match="3 dimensions"):
        image_features(batch)


def test_images_of_several_shapes_have_their_own_features():
    shapes = [(150, 160), (40, 300), (256, 256), (1, 1)]
    pictures = [make_image(k, (300, 300), np.uint16)[:h, :w] for k, (h, w) in enumerate(shapes)]
    found = compute_features_of_images(pictures, [0.0, 0.5, 0.0, 1.0])
    for row, picture, fraction in zip(found, pictures, [0.0, 0.5, 0.0, 1.0], strict=True):
        assert_equal_features(row, image_features(picture, colour_fraction=fraction))
    assert compute_features_of_images([]) == []


@pytest.mark.parametrize("shape", [(200, 1500), (512, 512), (2048, 1536)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_features_on_a_device_convert_nothing_implicitly(monkeypatch, dtype, shape):
    batch = np.stack([make_image(k, shape, dtype) for k in range(2)])
    expected = compute_features_of_batch(batch)
    use_strict_arrays(monkeypatch)
    for found, row in zip(compute_features_of_batch(Strict(batch)), expected, strict=True):
        assert_equal_features(found, row)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 99), st.integers(32, 600), st.integers(32, 600), st.sampled_from(DTYPES), st.integers(1, 300))
def test_thumbnails_of_a_batch_are_those_of_its_images(seed, h, w, dtype, longest_px):
    batch = np.stack([make_image(seed + k, (h, w), dtype) for k in range(2)])
    assert_equal_thumbnails(batch, longest_px)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.complex64])
def test_thumbnails_on_a_device_convert_nothing_implicitly(monkeypatch, dtype):
    real = np.float32 if dtype == np.complex64 else dtype
    batch = np.stack([make_image(k, (300, 410), real) for k in range(2)]).astype(dtype)
    use_strict_arrays(monkeypatch)
    assert_equal_thumbnails(batch, 256, Strict)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_rings_on_a_device_are_those_on_the_host(monkeypatch, dtype):
    film = draw_amorphous_film(np.random.default_rng(3), (700, 900), nm_per_pixel=0.1, defocus_nm=700, voltage_kv=200)
    film = (film - film.min()) / np.ptp(film) * 60_000
    plain = np.nan_to_num(make_image(3, (700, 900), dtype))
    pictures = [film.astype(dtype), plain, np.full((700, 900), 5, dtype)]
    expected = [rings.measure_thon_rings(image, 0.1, 200.0) for image in pictures]
    assert expected[0].defocus_nm == pytest.approx(700, rel=0.05)
    use_strict_arrays(monkeypatch)
    for image, row in zip(pictures, expected, strict=True):
        np.testing.assert_allclose(rings.measure_thon_rings(Strict(image), 0.1, 200.0), row, rtol=1e-6)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 99), st.integers(256, 600), st.integers(256, 1300), st.sampled_from(DTYPES))
def test_log_power_on_a_device_is_that_on_the_host(seed, h, w, dtype):
    image = np.nan_to_num(make_image(seed, (h, w), dtype))
    expected = rings.compute_log_power(image)
    with pytest.MonkeyPatch.context() as patch:
        use_strict_arrays(patch)
        found = rings.compute_log_power(Strict(image))
    assert (found is None) == (expected is None)
    if expected is None:  # nearly all pixels of a mask may be equal
        return
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-9, atol=1e-9 * np.abs(expected.mean).max())
    np.testing.assert_array_equal(found.n, expected.n)


@pytest.mark.parametrize("folder", ["arda_stem_np", "emps/images", "uw_cavity/images", "creme_loops", "msa_sintering"])
def test_real_images_in_a_batch_have_their_own_features(folder):
    if not DATA.is_dir():
        pytest.skip(f"{DATA}: the real micrographs are not here")
    paths = sorted(p for p in (DATA / folder).rglob("*") if p.suffix.lower() in (".png", ".jpg", ".tif"))[:12]
    assert paths
    for path in paths:
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
        assert_equal_features(compute_features_of_batch(image[None])[0], image_features(image, colour_fraction=0.25))
        assert_equal_thumbnails(image[None], 256)
