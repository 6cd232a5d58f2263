"""LoG of a batch on its device: limits, pixels, layers, maxima and rows are those of the CPU's fast path."""

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.ndimage
import skimage
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from emqa_dask import backend, device_batches
from emqa_dask.detect import (
    batch_intensity,
    batch_peaks,
    blobs,
    candidates,
    log,
    log_batch,
    log_fast,
    scales,
    surface,
    tiles,
)
from emqa_dask.detect.batch_intensity import centre_batch, compute_batch_limits
from emqa_dask.detect.blobs import find_blobs
from emqa_dask.detect.candidates import find_candidates_in_strips, select_detections
from emqa_dask.detect.log import detect_image
from emqa_dask.detect.normalise import compute_intensity_limits, find_finite, normalise
from emqa_dask.pixel_types import convert_for_device
from emqa_dask.settings import Detect
from tests.detect.strict_arrays import Strict, StrictModule

DATA = Path(__file__).parents[3] / "shared" / "data"
TOLERANCE = 1e-4  # of the normalised intensity range: that of the fast path (see test_log_fast.py)
DTYPES = [np.uint8, np.uint16, np.int16, np.int32, np.uint32, np.int64, np.float32, np.float64]
KEYS = ("y", "x", "scale", "polarity")


def make_scene(seed, shape, dtype=np.uint16):
    """Disks of both polarities on a slope with noise, over most of the range of an integer `dtype`."""
    rng = np.random.default_rng(seed)
    image = 0.5 + 0.1 * np.linspace(0, 1, shape[1]) + 0.04 * rng.standard_normal(shape)
    y, x = np.mgrid[: shape[0], : shape[1]]
    for _ in range(1 + shape[0] * shape[1] // 1500):
        radius, cy, cx = rng.uniform(3, 14), rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        image[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] += rng.choice([-0.25, 0.25])
    image = np.clip(image, 0, 1)
    return (image * np.iinfo(dtype).max * 0.9).astype(dtype) if np.dtype(dtype).kind in "iu" else image.astype(dtype)


def make_values(seed, shape, dtype):
    """Random pixels: few values or many, with NaN and infinite ones among floats."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, rng.choice([1, 2, 100]), shape).astype(dtype)
    if np.dtype(dtype).kind == "f":
        image = (image * rng.standard_normal(shape) * 10.0 ** rng.integers(-5, 6)).astype(dtype)
        image[rng.random(shape) < rng.choice([0, 0.3, 1])] = rng.choice([np.nan, np.inf, -np.inf])
    return image


def index_maxima(maxima):
    """Response and top of each maximum, by its place, scale and polarity."""
    keys = zip(*(getattr(maxima, name).tolist() for name in KEYS))
    return dict(zip(keys, zip(maxima.response, maxima.top)))


def assert_same_maxima(image, search, tolerated=0.005):
    """The batch finds all that the fast path finds with equal values, and few more, each a maximum by a hair."""
    (batch,) = candidates.find_candidates_in_batch(image[None], search)
    plain = candidates.find_candidates(image, search)
    fresh, expected = index_maxima(batch.maxima), index_maxima(plain.maxima)
    common = fresh.keys() & expected.keys()
    for key in common:
        np.testing.assert_allclose(fresh[key], expected[key], atol=1e-5)
    odd = fresh.keys() ^ expected.keys()
    assert len(odd) <= max(2, tolerated * len(expected))
    if odd:
        pixels = candidates.centre_intensities(image, search).astype(np.float64)
        cube = np.stack([-ndimage.gaussian_laplace(pixels, sigma) * sigma**2 for sigma in plain.sigmas])
        for y, x, scale, sign in odd:
            near = sign * cube[tuple(slice(max(0, i - 1), i + 2) for i in (scale, y, x))].ravel()
            value = sign * cube[scale, y, x]
            rival = np.delete(near, np.argmin(abs(near - value))).max()
            assert min(abs(value - search.threshold), abs(value - rival)) < 5 * TOLERANCE
    return len(expected)


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 2**32), st.sampled_from(DTYPES), st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from([(1, 99), (0, 100), (0.1, 99.7), (30, 60)]),
)  # fmt: skip
def test_limits_and_pixels_are_those_of_the_cpu(seed, dtype, shape, percentiles):
    images = np.stack([make_values(seed + n, shape, dtype) for n in range(3)])
    expected = [compute_intensity_limits(image, *percentiles) for image in images]
    limits = compute_batch_limits(images, *percentiles)
    np.testing.assert_array_equal(np.transpose(limits), expected)
    pixels, is_finite = centre_batch(images, limits)
    assert pixels.dtype == np.float32
    for n, image in enumerate(images):
        np.testing.assert_array_equal(pixels[n], normalise(image, *percentiles) - np.float32(0.5))
        mask = find_finite(image)
        assert is_finite is None if dtype().dtype.kind != "f" else (mask is None or (mask == is_finite[n]).all())


def test_limits_of_large_images_are_those_of_their_sample():
    images = np.random.default_rng(0).integers(0, 60000, (2, 1500, 1400)).astype(np.uint16)
    expected = [compute_intensity_limits(image, 1, 99) for image in images]
    np.testing.assert_array_equal(np.transpose(compute_batch_limits(images, 1, 99)), expected)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.tuples(st.integers(1, 180), st.integers(1, 180)), st.floats(0.6, 22))
def test_layers_are_those_of_the_fast_path(seed, shape, sigma):
    images = np.random.default_rng(seed).random((2, *shape), np.float32)
    (layer,) = log_batch.compute_batch_layers(images, np.array([sigma]))
    assert layer.shape == images.shape
    for n, image in enumerate(images):
        (expected,) = log_fast.compute_layers(image, np.array([sigma]))
        line, plane = np.empty(surface.WIDE), np.empty((3, 3))
        weights = surface.compute_lagrange_weights(expected.step)
        rows, columns = ({*range(0, size, 7), size - 1} for size in shape)
        for y, x in itertools.product(rows, columns):
            surface.fill_neighbourhood(expected.grid, expected.step, *weights, np.float32(1), y, x, *shape, line, plane)
            assert abs(layer[n, y, x] - plane[1, 1]) < 1e-5


@pytest.mark.parametrize("shape", [(64, 96), (65, 93)])
def test_halves_are_those_of_the_fast_path_without_cucim_too(monkeypatch, shape):
    images = np.random.default_rng(1).random((3, *shape), np.float32)
    expected = [log_fast._halve_image(image) for image in images]
    for module in (skimage, None):
        monkeypatch.setattr(log_batch, "get_skimage", lambda _, module=module: module)
        np.testing.assert_allclose(log_batch.halve_batch(images), expected, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 2**32), st.sampled_from([np.uint8, np.uint16, np.float32]),
    st.tuples(st.integers(20, 200), st.integers(20, 200)), st.sampled_from(["auto", "both", "bright", "dark"]),
    st.tuples(st.floats(1.2, 4), st.floats(4, 20)), st.integers(1, 8), st.booleans(), st.sampled_from([0, 5]),
)  # fmt: skip
def test_maxima_are_those_of_the_cpu(seed, dtype, shape, polarity, sigmas, num_sigma, log_scale, border):
    search = Detect(
        polarity=polarity, min_sigma=sigmas[0], max_sigma=sigmas[1], num_sigma=num_sigma, log_scale=log_scale,
        exclude_border=border, threshold=0.05,
    )  # fmt: skip
    assert_same_maxima(make_scene(seed, shape, dtype), search)


@pytest.mark.parametrize(("folder", "position"), [("arda_stem_np", 0), ("uw_cavity", 0), ("uw_loops", 1), ("emps", 2)])
def test_maxima_of_real_images_are_those_of_the_cpu(folder, position):
    images = DATA / folder / "images"
    if not images.is_dir():
        pytest.skip(f"real images absent: {images}")
    image = cv2.imread(str(sorted(images.iterdir())[position]), cv2.IMREAD_GRAYSCALE)
    assert assert_same_maxima(image, Detect(polarity="both", threshold=0.05)) > 50


@pytest.mark.parametrize("polarity", ["auto", "both", "bright", "dark"])
def test_rows_of_clear_objects_are_those_of_the_cpu(polarity):
    """Disks that lie apart: no maximum is near another, so that all columns agree."""
    images = np.full((3, 300, 310), 20000, np.uint16)
    images += np.random.default_rng(2).integers(0, 400, images.shape, np.uint16)
    y, x = np.mgrid[:300, :310]
    for n, (cy, cx) in enumerate(itertools.product(range(40, 290, 70), range(40, 290, 70))):
        images[:, (y - cy) ** 2 + (x - cx) ** 2 < (5 + n) ** 2] += np.uint16(20000)
        images[2] = 60000 - images[2] if n == 15 else images[2]
    search = Detect(polarity=polarity)
    rows = list(log.detect_images([*images], search))
    for found, expected in zip(candidates.find_candidates_in_batch(images, search), rows, strict=True):
        table = candidates.select_detections(found, search)
        assert table.attrs == expected.attrs
        numeric = expected.select_dtypes("number").columns
        np.testing.assert_allclose(table[numeric], expected[numeric], atol=2e-3)
        assert table[["label", "detector"]].equals(expected[["label", "detector"]])
    assert len(rows[0]) >= (16 if polarity != "dark" else 0)


def test_pixels_that_are_not_finite_hold_no_maximum():
    images = np.stack([make_scene(seed, (120, 130), np.float32) for seed in range(3)])
    images[0, 30:60, 40:90] = np.nan
    images[1] = np.inf
    search = Detect(threshold=0.03, polarity="both")
    for image, found in zip(images, candidates.find_candidates_in_batch(images, search), strict=True):
        expected = candidates.find_candidates(image, search)
        assert index_maxima(found.maxima).keys() == index_maxima(expected.maxima).keys()
        assert np.isfinite(image[found.maxima.y, found.maxima.x]).all()


@pytest.mark.parametrize("shape", [(1, 100_000), (100_000, 1), (3, 5000), (1, 1), (2, 2)])
def test_thin_images_give_what_the_cpu_gives(shape):
    images = np.stack([make_scene(seed, shape) for seed in range(2)])
    search = Detect(min_sigma=1, max_sigma=8, num_sigma=4, threshold=0.05, polarity="both")
    for image, found in zip(images, candidates.find_candidates_in_batch(images, search), strict=True):
        expected = candidates.find_candidates(image, search)
        assert index_maxima(found.maxima).keys() == index_maxima(expected.maxima).keys()


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_flat_images_give_nothing_beside_others(value):
    images = np.stack([np.full((90, 80), value, np.uint16), make_scene(3, (90, 80))])
    flat, scene = candidates.find_candidates_in_batch(images, Detect())
    assert len(flat.maxima.y) == 0
    assert len(scene.maxima.y) > 3


def test_without_images_or_scales_there_is_nothing():
    assert candidates.find_candidates_in_batch(np.zeros((0, 30, 30), np.uint8), Detect()) == []
    for shape in ((2, 0, 30), (2, 30, 0), (2, 2, 2)):
        parts = candidates.find_candidates_in_batch(np.zeros(shape, np.uint8), Detect())
        assert [len(part.maxima.y) for part in parts] == [0, 0]
    assert log_batch.find_batch_maxima(np.zeros((1, 9, 9), np.float32), np.array([]), 0.1, "both")[0].y.size == 0


@pytest.mark.parametrize("most", [1, 7, 60])
def test_the_strongest_maxima_of_each_image_are_kept(most):
    images = np.stack([make_scene(seed, (150, 160)) for seed in range(3)])
    pixels, _ = centre_batch(images, compute_batch_limits(images, 1, 99))
    sigmas = scales.compute_sigmas(2, 9, 5, True)
    every = log_batch.find_batch_maxima(pixels, sigmas, 0.01, "both")
    for part, found in zip(every, log_batch.find_batch_maxima(pixels, sigmas, 0.01, "both", None, most), strict=True):
        assert len(part.y) > 120
        expected = scales.cap_maxima(part, most)
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_threshold_in_the_noise_keeps_memory_bounded(monkeypatch):
    """Flat images lie on a plateau of maxima at such thresholds: no table holds more rows than may be kept."""
    rows = []
    gather = batch_peaks._gather_neighbourhoods
    monkeypatch.setattr(
        batch_peaks, "_gather_neighbourhoods", lambda peaks, layers: rows.append(len(peaks.y)) or gather(peaks, layers)
    )
    search = Detect(threshold=0.0, max_detections=2, polarity="both", num_sigma=3)
    images = np.full((2, 100, 100), 5, np.uint8)
    for found in candidates.find_candidates_in_batch(images, search):
        assert found.maxima.y.size <= 2 * candidates.compute_max_candidates(search)
    assert max(rows) <= 4 * candidates.compute_max_candidates(search)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32), st.booleans())
def test_tops_are_those_of_the_host(seed, is_peak):
    rng = np.random.default_rng(seed)
    cubes = rng.standard_normal((20, 3, 3, 3))
    if is_peak:
        cubes[:, 1, 1, 1] = abs(cubes).max() + 1
    has_both = rng.random((20, 3)) < 0.7
    fit = batch_peaks.refine_batch_cubes(cubes, list(has_both.T))
    np.testing.assert_allclose(fit, surface.refine_cubes(cubes, has_both), rtol=1e-9, atol=1e-12)


class Counter:
    """A module that counts the calls of its functions."""

    def __init__(self, module, counts):
        self.module = module
        self.counts = counts

    def __getattr__(self, name):
        self.counts[name] = self.counts.get(name, 0) + 1
        return getattr(self.module, name)


def test_calls_do_not_grow_with_the_batch(monkeypatch):
    counts = {}
    modules = Counter(np, counts), Counter(ndimage, counts)
    for module in (batch_intensity, batch_peaks, log_batch):
        monkeypatch.setattr(module, "get_array_modules", lambda _: modules)
    n_calls = []
    for n in (1, 9):
        counts.clear()
        candidates.find_candidates_in_batch(np.stack([make_scene(seed, (100, 96)) for seed in range(n)]), Detect())
        n_calls.append(dict(counts))
    assert n_calls[0] == n_calls[1]


def use_strict_arrays(monkeypatch):
    """Let the batch's path use arrays that refuse implicit conversion; the shapes that go there and come back."""
    moved = []
    monkeypatch.setattr(device_batches, "to_device", lambda array, _: moved.append(array.shape) or Strict(array))
    monkeypatch.setattr(candidates, "to_device", lambda array, _: moved.append(array.shape) or Strict(array))
    monkeypatch.setattr(batch_peaks, "to_host", lambda array: moved.append(array.shape) or array.get())
    for module in (batch_intensity, batch_peaks, candidates, log_batch):
        monkeypatch.setattr(module, "get_array_modules", lambda _: (StrictModule(np), StrictModule(scipy.ndimage)))
    monkeypatch.setattr(log_batch, "get_skimage", lambda _: StrictModule(skimage))
    return moved


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_the_path_of_a_batch_converts_nothing_implicitly(monkeypatch, dtype):
    images = [make_scene(seed, (110, 125), dtype) for seed in range(3)]
    if np.dtype(dtype).kind == "f":
        images[1][20:40, 30:60] = np.nan
    search = Detect(threshold=0.05, exclude_border=2)
    expected = candidates.find_candidates_in_batch(np.stack(images), search)
    moved = use_strict_arrays(monkeypatch)
    rows = list(log.detect_images(images, search, 3, "cuda"))
    assert moved[0] == (3, 110, 125)
    assert [len(shape) for shape in moved] == [3, 2]
    for table, part in zip(rows, expected, strict=True):
        assert len(table) > 3
        assert table.equals(candidates.select_detections(part, search))


@pytest.mark.parametrize("threshold", [None, 0.05])
def test_fast_blobs_of_a_strict_array_are_those_of_numpy(monkeypatch, threshold):
    image = make_scene(8, (150, 140))
    search = {"min_sigma": 2, "max_sigma": 11, "num_sigma": 5, "overlap": 0.5, "polarity": "both", "method": "fast"}
    search |= {"threshold": threshold, "threshold_rel": 0.3}
    expected = find_blobs(image, **search)
    use_strict_arrays(monkeypatch)
    monkeypatch.setattr(blobs, "get_array_modules", lambda _: (StrictModule(np), StrictModule(scipy.ndimage)))
    found = find_blobs(Strict(image), **search)
    assert len(expected) > 10
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert len(find_blobs(Strict(np.full((30, 30), 4, np.uint8)), **search)) == 0


def test_strips_on_a_device_convert_nothing_implicitly(monkeypatch):
    image = make_scene(5, (400, 140))
    search = Detect(threshold=0.05)

    def detect(device: str):
        found = find_candidates_in_strips(lambda y0, y1: image[y0:y1], image.shape, search, None, 12_000, device)
        return select_detections(found, search)

    expected = detect("cpu")
    use_strict_arrays(monkeypatch)
    rows = detect("cuda")
    assert len(expected) > 10
    np.testing.assert_allclose(rows["y_px"], expected["y_px"], atol=2e-3)


def test_large_images_are_searched_in_strips_of_one_upload(monkeypatch):
    images = [make_scene(seed, (400, 140)) for seed in (5, 6)]
    search = Detect(threshold=0.05)
    monkeypatch.setattr(tiles, "WHOLE_PX", 20_000)
    monkeypatch.setattr(tiles, "STRIP_PX", 12_000)
    expected = [detect_image(image, search) for image in images]
    moved = use_strict_arrays(monkeypatch)
    rows = list(log.detect_images(images, search, 2, "cuda"))
    assert [shape for shape in moved if len(shape) == 3] == [(2, 400, 140)]
    for table, own in zip(rows, expected, strict=True):
        assert len(own) > 10
        np.testing.assert_allclose(table["y_px"], own["y_px"], atol=2e-3)


def test_byte_orders_and_wide_numbers_become_those_of_gpus():
    image = make_scene(6, (60, 70))
    assert convert_for_device(image.astype(">u2")).dtype == np.dtype(np.uint16)
    assert convert_for_device(image.astype(np.longdouble)).dtype == np.float64
    assert convert_for_device(image > 30000).dtype == np.uint8
    assert convert_for_device(image.astype(np.float16)).dtype == np.float32
    assert convert_for_device(image) is image


def test_tables_are_made_while_others_may_use_the_device(monkeypatch):
    events = []
    select = log.select_detections

    def select_detections(*args):
        events.append(("select", backend._device_lock.locked()))
        return select(*args)

    def to_device(array, _):
        events.append(("search", backend._device_lock.locked()))
        return array

    monkeypatch.setattr(device_batches, "to_device", to_device)
    monkeypatch.setattr(log, "select_detections", select_detections)
    assert len(list(log.detect_images([make_scene(n, (60, 70)) for n in range(3)], Detect(), 2, "cuda"))) == 3
    assert events == [("search", True), *[("select", False)] * 2, ("search", True), ("select", False)]


def test_images_of_several_kinds_are_searched_in_groups(monkeypatch):
    kinds = [((90, 80), np.uint16), ((90, 80), np.uint8), ((60, 80), np.uint16), ((90, 80), np.uint16)]
    images = [make_scene(n, shape, dtype) for n, (shape, dtype) in enumerate(kinds)]
    expected = [candidates.find_candidates_in_batch(image[None], Detect())[0] for image in images]
    shapes = []
    monkeypatch.setattr(device_batches, "to_device", lambda array, _: shapes.append(array.shape) or array)
    rows = list(log.detect_images(images, Detect(), 8, "cuda"))
    assert shapes == [(2, 90, 80), (1, 90, 80), (1, 60, 80)]
    for table, part in zip(rows, expected, strict=True):
        assert table.equals(candidates.select_detections(part, Detect()))


def test_a_single_image_takes_the_path_of_batches(monkeypatch):
    image = make_scene(7, (100, 90))
    monkeypatch.setattr(candidates, "to_device", lambda array, _: array)
    (part,) = candidates.find_candidates_in_batch(image[None], Detect())
    assert detect_image(image, Detect(), device="cuda").equals(candidates.select_detections(part, Detect()))
