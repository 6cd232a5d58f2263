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

from emqa_dask.detect import log, scales
from emqa_dask.detect.log import find_blobs

DATA = Path(__file__).parents[3] / "shared" / "data"
SEARCH = {"min_sigma": 1.5, "max_sigma": 9, "num_sigma": 4, "threshold": 0.02, "overlap": 0.3}
REAL = [("arda_stem_np", "Cu1.jpg"), ("arda_stem_np", "Pd3.jpg"), ("uw_cavity", None)]


def places(blobs):
    return blobs[["y_px", "x_px", "sigma_px"]].to_numpy()


def disks(rng, shape=(90, 120), n=12, noise=0.05):
    """Bright and dark disks on a slope with noise, in 0...1."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = 0.5 + 0.1 * y / shape[0] + noise * rng.standard_normal(shape)
    for _ in range(n):
        r, cy, cx = rng.uniform(2, 9), rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
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


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_blobs_are_those_of_scikit_image_on_images_full_of_ties(data):
    shape = data.draw(st.tuples(st.integers(1, 24), st.integers(1, 24)))
    levels = data.draw(st.integers(1, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    block = data.draw(st.integers(1, 6))
    coarse = rng.integers(0, levels, shape)
    image = np.kron(coarse, np.ones((block, block)))[: shape[0], : shape[1]].astype(
        data.draw(st.sampled_from([np.uint8, np.int16, np.float32, np.float64]))
    )
    search = {
        "min_sigma": data.draw(st.floats(0.5, 2)),
        "max_sigma": data.draw(st.floats(2, 6)),
        "num_sigma": data.draw(st.integers(1, 4)),
        "threshold": data.draw(st.sampled_from([None, 0.0, 1e-3, 0.1])),
        "threshold_rel": data.draw(st.sampled_from([None, 0.2])),
        "exclude_border": data.draw(st.sampled_from([False, 1, (2, 0)])),
        "overlap": data.draw(st.floats(0, 1)),
    }
    np.testing.assert_array_equal(places(find_blobs(image, **search)), blob_log(image, **search))


@pytest.mark.parametrize("value", [0, 7, 255])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (16, 16)])
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


def test_both_polarities_are_the_union_before_pruning_and_no_pair_overlaps_after():
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
def test_a_disk_answers_at_its_radius_over_root_two_and_scores_its_contrast(radius, contrast):
    y, x = np.mgrid[:121, :131]
    image = contrast * ((y - 60) ** 2 + (x - 64) ** 2 <= radius**2)
    found = find_blobs(image, min_sigma=2, max_sigma=14, num_sigma=49, threshold=0.05, overlap=0.5).iloc[0]
    assert (found["y_px"], found["x_px"]) == (60, 64)
    assert found["sigma_px"] == pytest.approx(radius / math.sqrt(2), rel=0.05)
    assert log.score(found["response"]) == pytest.approx(contrast, rel=0.03)


def test_scores_are_contrasts_between_0_and_1():
    assert log.score(np.array([-1, 0, 1 / math.e, 2 / math.e, 9])) == pytest.approx([0, 0, 0.5, 1, 1])
    assert np.isnan(log.score(np.array([np.nan]))).all()


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
        (np.zeros((4, 4)), {"polarity": "grey"}, "polarity"),
        (np.zeros((4, 4)), {"exclude_border": True}, "exclude_border"),
        (np.zeros((4, 4)), {"exclude_border": -1}, "exclude_border"),
    ],
)
def test_what_makes_no_sense_is_refused(image, change, text):
    with pytest.raises(ValueError, match=text):
        find_blobs(image, **(SEARCH | change))


def test_memory_is_that_of_a_few_images_whatever_the_number_of_scales():
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


def test_the_exact_path_takes_its_arrays_from_the_backend_only(monkeypatch):
    """One pass with namespaces that record what is called: nothing but (xp, ndi) touches the pixels."""
    called = set()

    class Recorder:
        def __init__(self, module, name):
            self.module, self.name = module, name

        def __getattr__(self, attribute):
            called.add(f"{self.name}.{attribute}")
            return getattr(self.module, attribute)

    image = disks(np.random.default_rng(7))
    expected = find_blobs(image, polarity="both", **SEARCH)
    monkeypatch.setattr(log, "backend", lambda _: (Recorder(np, "xp"), Recorder(ndimage, "ndi")))
    found = find_blobs(image, polarity="both", **SEARCH)
    assert found.equals(expected)
    assert called == {
        "xp.isfinite",
        "xp.nonzero",
        "xp.full",
        "xp.concatenate",
        "ndi.gaussian_laplace",
        "ndi.maximum_filter",
    }


def test_cupy_has_the_functions_and_keywords_that_the_exact_path_uses():
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("cupy is not installed: the gpu extra is for machines with a CUDA device")
    import cupy
    import cupyx.scipy.ndimage as ndi

    assert {"size", "mode"} <= set(inspect.signature(ndi.maximum_filter).parameters)
    assert {"input", "sigma"} <= set(inspect.signature(ndi.gaussian_laplace).parameters)
    assert all(hasattr(cupy, name) for name in ("isfinite", "maximum", "nonzero", "full", "concatenate"))
