"""The exact path is scikit-image's blob_log; blobs of known place, size and contrast are found."""

import importlib.util
import inspect
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.feature import blob_log
from skimage.io import imread
from skimage.util import img_as_float

from emqa_dask.detect import batch_peaks, blobs, candidates, log_exact, scales
from emqa_dask.detect.blobs import find_blobs
from tests.detect.strict_arrays import Strict, StrictModule

DATA = Path(__file__).parents[3] / "shared" / "data"
SEARCH = {"min_sigma": 1.5, "max_sigma": 9, "num_sigma": 4, "threshold": 0.02, "overlap": 0.3}
XP = (  # all that the exact path uses
    *("arange", "asarray", "ascontiguousarray", "clip", "concatenate", "full", "lexsort", "maximum"),
    *("nonzero", "searchsorted", "stack", "where"),
)
NDI = ("gaussian_laplace", "maximum_filter")
REAL = [("arda_stem_np", "Cu1.jpg"), ("arda_stem_np", "Pd3.jpg"), ("uw_cavity", None)]


class Recording:
    """A module that is not numpy, with what numpy has."""

    def __init__(self, module):
        self.module = module

    def __getattr__(self, name):
        return getattr(self.module, name)


def places(blobs):
    return blobs[["y_px", "x_px", "sigma_px"]].to_numpy()


def disks(rng, shape=(90, 120), n=12, noise=0.05):
    """Bright and dark disks on a slope with noise, in 0...1."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = 0.5 + 0.1 * y / shape[0] + noise * rng.standard_normal(shape)
    for _ in range(n):
        r = rng.uniform(2, 9)
        cy = rng.uniform(0, shape[0])
        cx = rng.uniform(0, shape[1])
        image[(y - cy) ** 2 + (x - cx) ** 2 < r * r] += rng.choice([-0.3, 0.3])
    return np.clip(image, 0, 1)


def as_dtype(image, dtype):
    return (image * np.iinfo(dtype).max).astype(dtype) if np.issubdtype(dtype, np.integer) else image.astype(dtype)


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8, np.uint16])
@pytest.mark.parametrize("log_scale", [False, True])
def test_blobs_are_those_of_scikit_image(dtype, log_scale, overlap):
    image = as_dtype(disks(np.random.default_rng(1)), dtype)
    search = SEARCH | {"overlap": overlap, "log_scale": log_scale}
    expected = blob_log(image, **search)
    assert len(expected) > 20
    np.testing.assert_array_equal(places(find_blobs(image, **search)), expected)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_blobs_equal_scikit_image_on_images_with_ties(data):
    shape = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    levels = data.draw(st.integers(1, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    block = data.draw(st.integers(1, 6))
    coarse = rng.integers(0, levels, shape)
    image = np.kron(coarse, np.ones((block, block)))[: shape[0], : shape[1]].astype(
        data.draw(st.sampled_from([np.uint8, np.int16, np.uint64, np.int64, bool, np.float16, np.float32, np.float64]))
    )
    search = {
        "min_sigma": data.draw(st.floats(0.5, 2)),
        "max_sigma": data.draw(st.floats(2, 6)),
        "num_sigma": data.draw(st.integers(1, 4)),
        "threshold": data.draw(st.sampled_from([None, 0.0, 1e-3, 0.1])),
        "threshold_rel": data.draw(st.sampled_from([None, 0.2])),
        "log_scale": data.draw(st.booleans()),
        "exclude_border": data.draw(st.sampled_from([False, 1, (2, 0)])),
        "overlap": data.draw(st.floats(0, 1)),
    }
    if search["max_sigma"] > max(shape):
        with pytest.raises(ValueError, match="max_sigma is"):
            find_blobs(image, **search)
        return
    np.testing.assert_array_equal(places(find_blobs(image, **search)), blob_log(image, **search))


@pytest.mark.parametrize("value", [0, 7, 255])
@pytest.mark.parametrize("shape", [(3, 3), (1, 9), (9, 1), (16, 16)])
@pytest.mark.parametrize("num_sigma", [1, 3])
def test_constant_images_give_what_scikit_image_gives(shape, value, num_sigma):
    search = {"min_sigma": 1, "max_sigma": 3, "num_sigma": num_sigma, "overlap": 0.5}
    for threshold in (None, 0.0, 0.1):
        image = np.full(shape, value, np.uint8)
        expected = blob_log(image, threshold=threshold, **search)
        np.testing.assert_array_equal(places(find_blobs(image, threshold=threshold, **search)), expected)


@pytest.mark.parametrize(("folder", "name"), REAL)
def test_blobs_are_those_of_scikit_image_on_real_images(folder, name):
    images = DATA / folder / "images"
    if not images.is_dir():
        pytest.skip(f"real images absent: {images}")
    image = imread(images / name if name else sorted(images.iterdir())[0], as_gray=True)[:360, :420]
    for overlap in (0.1, 1.0):
        search = {"min_sigma": 2, "max_sigma": 14, "num_sigma": 4, "threshold": 0.02, "overlap": overlap}
        expected = blob_log(image, **search)
        assert len(expected) > 50
        np.testing.assert_array_equal(places(find_blobs(image, **search)), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_dark_blobs_are_bright_ones_of_the_negated_image(dtype):
    image = as_dtype(disks(np.random.default_rng(2)), dtype)
    expected = blob_log(-img_as_float(image), **SEARCH)
    found = find_blobs(image, polarity="dark", **SEARCH)
    np.testing.assert_array_equal(places(found), expected)
    assert (found["polarity"] == -1).all()
    assert (found["response"] > SEARCH["threshold"]).all()


def test_both_polarities_are_joined_then_pruned_together():
    image = disks(np.random.default_rng(3))
    search = SEARCH | {"overlap": None}
    one = {p: find_blobs(image, polarity=p, **search) for p in ("bright", "dark", "both")}
    union = set(one["bright"].itertuples(index=False)) | set(one["dark"].itertuples(index=False))
    assert set(one["both"].itertuples(index=False)) == union
    assert one["both"]["response"].is_monotonic_decreasing
    kept = find_blobs(image, polarity="both", **SEARCH)
    assert 0 < len(kept) < len(union)
    assert set(kept.itertuples(index=False)) <= union
    assert set(kept["polarity"]) == {1, -1}


def test_without_pruning_nothing_is_lost():
    image = disks(np.random.default_rng(4))
    everything = find_blobs(image, **(SEARCH | {"overlap": None}))
    np.testing.assert_array_equal(places(everything), blob_log(image, **(SEARCH | {"overlap": 1.0})))


@pytest.mark.parametrize("sigma", [2.0, 4.0, 8.0])
@pytest.mark.parametrize("contrast", [1.0, -1.0])
def test_a_gaussian_is_found_at_its_place_scale_and_height(sigma, contrast):
    y, x = np.mgrid[:101, :121]
    image = 0.3 + contrast * np.exp(-((y - 44) ** 2 + (x - 71) ** 2) / (2 * sigma**2))
    found = find_blobs(
        image, min_sigma=1, max_sigma=16, num_sigma=31, threshold=0.2, overlap=0.5, polarity="both"
    ).iloc[0]
    assert (found["y_px"], found["x_px"], found["sigma_px"]) == (44, 71, sigma)
    assert found["polarity"] == contrast
    assert found["response"] == pytest.approx(0.5, abs=0.005)  # analytically 1/2 of the height


@pytest.mark.parametrize("radius", [5, 9, 14])
@pytest.mark.parametrize("contrast", [0.2, 0.7])
def test_a_disk_responds_at_its_scale_with_its_contrast(radius, contrast):
    y, x = np.mgrid[:121, :131]
    image = contrast * ((y - 60) ** 2 + (x - 64) ** 2 <= radius**2)
    found = find_blobs(image, min_sigma=2, max_sigma=14, num_sigma=49, threshold=0.05, overlap=0.5).iloc[0]
    assert (found["y_px"], found["x_px"]) == (60, 64)
    assert found["sigma_px"] == pytest.approx(radius / math.sqrt(2), rel=0.05)
    assert candidates.compute_score(found["response"]) == pytest.approx(contrast, rel=0.03)


def test_scores_are_contrasts_between_0_and_1():
    assert candidates.compute_score(np.array([-1, 0, 1 / math.e, 2 / math.e, 9])) == pytest.approx([0, 0, 0.5, 1, 1])
    assert np.isnan(candidates.compute_score(np.array([np.nan]))).all()


def test_shifting_the_image_shifts_the_blobs():
    scene = np.pad(disks(np.random.default_rng(5), (80, 80)), 60, mode="edge")
    search = SEARCH | {"overlap": None}
    here = find_blobs(scene[10:190, 10:190], **search)
    there = find_blobs(scene[:180, 3:183], **search)
    moved = places(there) - [10, 7, 0]
    inner = [p[((p[:, :2] > 50) & (p[:, :2] < 130)).all(axis=1)] for p in (places(here), moved)]
    assert len(inner[0]) > 10
    assert set(map(tuple, inner[0])) == set(map(tuple, inner[1]))


def test_nothing_found_gives_all_columns():
    for image in (np.zeros((0, 5)), np.zeros((5, 0)), np.zeros((20, 20))):
        found = find_blobs(image, polarity="both", **SEARCH)
        assert list(found.columns) == list(scales.COLUMNS)
        assert len(found) == 0
        assert found["y_px"].dtype == np.float64


@pytest.mark.parametrize(
    ("image", "change", "text"),
    [
        (np.zeros((4, 4, 3)), {}, "two-dimensional"),
        (np.full((4, 4), np.nan), {}, "NaN"),
        (np.zeros((4, 4), complex), {}, "real numbers"),
        (np.zeros((4, 4)), {"min_sigma": 0}, "min_sigma"),
        (np.zeros((4, 4)), {"max_sigma": 1}, "max_sigma"),
        (np.zeros((4, 4)), {"num_sigma": 0}, "num_sigma"),
        (np.zeros((4, 4)), {"num_sigma": 2.5}, "num_sigma"),
        (np.zeros((4, 8)), {}, "max_sigma is 9 px, the image 4 x 8 px"),
        (np.zeros((4, 4)), {"method": "quick"}, "method is 'quick'"),
        (np.zeros((4, 4)), {"polarity": "grey"}, "polarity"),
        (np.zeros((4, 4)), {"exclude_border": True}, "exclude_border"),
        (np.zeros((4, 4)), {"exclude_border": -1}, "exclude_border"),
    ],
)
def test_what_makes_no_sense_is_refused(image, change, text):
    with pytest.raises(ValueError, match=text):
        find_blobs(image, **(SEARCH | change))


def test_memory_does_not_grow_with_the_number_of_scales():
    import tracemalloc

    image = np.random.default_rng(6).random((300, 300))
    peaks = []
    for num_sigma in (4, 24):
        tracemalloc.start()
        find_blobs(image, **(SEARCH | {"num_sigma": num_sigma, "threshold": 0.3}))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]
    assert peaks[1] < 14 * image.nbytes


def test_the_exact_path_uses_arrays_of_the_backend_only(monkeypatch):
    """One pass with namespaces that record what is called: nothing but (xp, ndi) touches the pixels."""
    called = set()

    class Recorder(Recording):
        def __init__(self, module, name):
            super().__init__(module)
            self.prefix = name

        def __getattr__(self, name):
            called.add(f"{self.prefix}.{name}")
            return super().__getattr__(name)

    image = disks(np.random.default_rng(7))
    sigmas = scales.compute_sigmas(1.5, 9, 4, False)
    expected = {
        most: log_exact.find_scale_maxima(image, sigmas, 0.02, "both", max_per_polarity=most) for most in (None, 20)
    }
    for module in (log_exact, batch_peaks):
        monkeypatch.setattr(module, "get_array_modules", lambda _: (Recorder(np, "xp"), Recorder(ndimage, "ndi")))
    for most, maxima in expected.items():
        found = log_exact.find_scale_maxima(image, sigmas, 0.02, "both", max_per_polarity=most)
        assert all(np.array_equal(a, b) for a, b in zip(found, maxima))
    assert called == {f"xp.{name}" for name in XP} | {f"ndi.{name}" for name in NDI}


def test_one_table_leaves_the_device(monkeypatch):
    moved = []
    monkeypatch.setattr(log_exact, "get_array_modules", lambda _: (Recording(np), ndimage))
    monkeypatch.setattr(batch_peaks, "to_host", lambda array: moved.append(array.shape) or array)
    found = log_exact.find_scale_maxima(
        disks(np.random.default_rng(7)), scales.compute_sigmas(1.5, 9, 4, False), 0.02, "both"
    )
    assert moved == [(len(found.y), 10)]


def test_cupy_has_all_functions_of_the_exact_path():
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("cupy is not installed: the gpu extra is for machines with a CUDA device")
    import cupy
    import cupyx.scipy.ndimage as ndi

    assert {"size", "mode"} <= set(inspect.signature(ndi.maximum_filter).parameters)
    assert {"input", "sigma"} <= set(inspect.signature(ndi.gaussian_laplace).parameters)
    assert all(hasattr(cupy, name) for name in (*XP, "isfinite", "maximum"))
    assert "axis" in inspect.signature(cupy.stack).parameters
    assert list(inspect.signature(cupy.clip).parameters)[:3] == ["a", "a_min", "a_max"]
    assert list(inspect.signature(cupy.lexsort).parameters) == ["keys"]
    assert list(inspect.signature(cupy.full).parameters)[:2] == ["shape", "fill_value"]


def test_cucim_accepts_the_arguments_of_benchmark_and_gpu_tests():
    feature = pytest.importorskip("cucim.skimage.feature", reason="cucim is not installed")
    wanted = {"min_sigma", "max_sigma", "num_sigma", "threshold", "overlap", "log_scale"}
    assert wanted <= set(inspect.signature(feature.blob_log).parameters)


@pytest.mark.parametrize("polarity", ["bright", "both"])
def test_arrays_without_implicit_conversion_give_the_same_blobs(monkeypatch, polarity):
    image = disks(np.random.default_rng(8))
    expected = find_blobs(image, polarity=polarity, **SEARCH)
    for module in (blobs, log_exact, batch_peaks):
        monkeypatch.setattr(module, "get_array_modules", lambda _: (StrictModule(np), StrictModule(ndimage)))
    found = find_blobs(Strict(image), polarity=polarity, **SEARCH)
    assert len(found) > 20
    assert found.equals(expected)
    with pytest.raises(TypeError, match="Implicit conversion"):
        np.asarray(Strict(image))


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int8, np.uint32])
def test_the_extremes_of_integers_are_those_of_scikit_image(dtype):
    limits = np.iinfo(dtype)
    image = np.full((30, 40), limits.min, dtype)
    image[10:16, 10:16] = limits.max
    image[20:24, 25:29] = limits.max - 1
    search = SEARCH | {"overlap": 1.0}
    expected = blob_log(image, **search)
    assert len(expected) > 1
    np.testing.assert_array_equal(places(find_blobs(image, **search)), expected)


@pytest.mark.parametrize("shape", [(1, 50), (50, 1), (2, 30), (5, 9)])
def test_images_smaller_than_the_kernels_give_what_scikit_image_gives(shape):
    image = np.random.default_rng(10).random(shape)
    expected = blob_log(image, **SEARCH)
    np.testing.assert_array_equal(places(find_blobs(image, **SEARCH)), expected)
    assert len(find_blobs(image, method="fast", **SEARCH)) <= len(blob_log(image, **(SEARCH | {"overlap": 1.0})))


@pytest.mark.real
@pytest.mark.parametrize("folder", ["uw_cavity/images", "arda_stem_np/images", "emps/images", "abtem_sim"])
def test_blobs_are_those_of_scikit_image_on_every_real_image(folder):
    if not (DATA / folder).is_dir():
        pytest.skip(f"real images absent: {DATA / folder}")
    paths = [path for path in sorted((DATA / folder).iterdir()) if path.suffix in (".png", ".jpg", ".tif")]
    assert len(paths) > 3
    for path in paths:
        image = imread(path, as_gray=True)
        threshold = float(0.03 * np.ptp(image)) if image.dtype.kind == "f" else 0.03
        for log_scale, overlap in ((False, 0.5), (True, 1.0)):
            search = {"min_sigma": 2, "max_sigma": 12, "num_sigma": 4, "threshold": threshold, "overlap": overlap}
            expected = blob_log(image, log_scale=log_scale, **search)
            found = find_blobs(image, log_scale=log_scale, **search)
            np.testing.assert_array_equal(places(found), expected, err_msg=path.name)
