"""On a GPU: the LoG finds what it finds on the CPU, and halves batches that the memory cannot hold."""

import numpy as np
import pandas as pd
import pytest

from emqa_dask.backend import is_out_of_memory, to_device, to_host
from emqa_dask.detect import batch_intensity, batch_peaks, candidates, log, log_batch, log_exact, scales, surface
from emqa_dask.detect.blobs import find_blobs
from emqa_dask.detect.log import detect_image, detect_images
from emqa_dask.detect.normalise import compute_intensity_limits
from emqa_dask.settings import Detect
from emqa_dask.synthetic.profiles import make_sample

pytestmark = pytest.mark.gpu

ASKED = {"min_sigma": 2, "max_sigma": 12, "num_sigma": 6, "threshold": 0.02, "overlap": 0.5, "polarity": "both"}
PLACE = ["y_px", "x_px", "sigma_px", "polarity"]


def image(profile, dtype, seed=3, shape=(512, 512)):
    """A synthetic micrograph that fills the range of `dtype`: 0 to its maximum, or 0 to 1."""
    pixels = make_sample(profile, np.random.default_rng(seed), shape=shape).image.astype(np.float64)
    pixels = (pixels - pixels.min()) / np.ptp(pixels)
    return (pixels * (np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 1)).astype(dtype)


def clear(rows, name, threshold, margin=1e-5):
    """Rows whose `name` is not at the threshold by a rounding error, in an order that does not hang on one."""
    return rows[rows[name] > threshold + margin].sort_values(PLACE, ignore_index=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("profile", ["cavity-tem", "nanoparticle-tem", "atomic-stem"])
def test_the_same_blobs_on_both_devices(profile, dtype):
    pixels = image(profile, dtype)
    here = clear(find_blobs(pixels, **ASKED), "response", ASKED["threshold"])
    there = clear(find_blobs(to_device(pixels, "cuda"), **ASKED), "response", ASKED["threshold"])
    assert len(here) > 10
    pd.testing.assert_frame_equal(here[PLACE], there[PLACE])
    np.testing.assert_allclose(there["response"], here["response"], rtol=1e-4)


def list_keys(maxima):
    """Place, scale and polarity of the maxima whose response is not at the threshold by a rounding error."""
    keep = maxima.response > Detect().threshold + 1e-5
    return {tuple(row) for row in np.stack([maxima.y, maxima.x, maxima.scale, maxima.polarity], axis=1)[keep].tolist()}


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.float32, np.float64])
def test_a_batch_has_the_same_maxima_on_both_devices(dtype, n):
    """Shapes that the coarse grids divide, and do not divide; NaN among floats."""
    for shape in ((512, 512), (395, 613)):
        many = np.stack([image("cavity-tem", dtype, seed, shape) for seed in range(n)])
        if np.dtype(dtype).kind == "f":
            many[0, 100:150, 50:90] = np.nan
        here = candidates.find_candidates_in_batch(many, Detect())
        there = candidates.find_candidates_in_batch(to_device(many, "cuda"), Detect())
        for a, b in zip(here, there, strict=True):
            places = list_keys(a.maxima), list_keys(b.maxima)
            assert len(places[0]) > 10
            # Rounding decides between neighbours of equal height.
            assert len(places[0] ^ places[1]) <= 0.01 * len(places[0])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.float32, np.float64])
def test_limits_and_pixels_are_those_of_the_cpu(dtype):
    many = np.stack([image("nanoparticle-tem", dtype, seed, (301, 283)) for seed in range(3)])
    many[1] = 7
    if np.dtype(dtype).kind == "f":
        many[0, 10:60, 20:90] = np.nan
        many[2] = np.inf
    limits = batch_intensity.compute_batch_limits(to_device(many, "cuda"), 1, 99)
    expected = [compute_intensity_limits(pixels, 1, 99) for pixels in many]
    np.testing.assert_allclose(np.stack([to_host(part) for part in limits], axis=1), expected, rtol=1e-12)
    pixels, _ = batch_intensity.centre_batch(to_device(many, "cuda"), limits)
    assert pixels.dtype == np.float32
    expected = [candidates.centre_intensities(pixels, Detect()) for pixels in many]
    np.testing.assert_allclose(to_host(pixels), expected, atol=1e-6)


def test_cucim_halves_a_batch_as_cupyx_does(monkeypatch):
    filters = pytest.importorskip("cucim.skimage.filters")
    calls = []
    gaussian = filters.gaussian
    monkeypatch.setattr(filters, "gaussian", lambda *args, **kwargs: calls.append(1) or gaussian(*args, **kwargs))
    many = np.random.default_rng(0).random((3, 128, 97), np.float32)
    by_cucim = log_batch.halve_batch(to_device(many, "cuda"))
    assert calls == [1]
    monkeypatch.setattr(log_batch, "get_skimage", lambda _: None)
    by_cupyx = log_batch.halve_batch(to_device(many, "cuda"))
    assert calls == [1]
    np.testing.assert_allclose(to_host(by_cucim), to_host(by_cupyx), atol=1e-6)
    np.testing.assert_allclose(to_host(by_cupyx), log_batch.halve_batch(many), atol=1e-6)


def test_tops_of_cubes_are_those_of_the_host():
    cubes = np.random.default_rng(1).standard_normal((500, 3, 3, 3))
    cubes[::2, 1, 1, 1] = 5
    has_both = np.random.default_rng(2).random((500, 3)) < 0.7
    fit = batch_peaks.refine_batch_cubes(to_device(cubes, "cuda"), [to_device(m, "cuda") for m in has_both.T.copy()])
    expected = surface.refine_cubes(cubes, has_both)
    np.testing.assert_allclose(np.stack([to_host(part) for part in fit]), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("most", [1, 25])
def test_the_strongest_maxima_are_kept_on_the_device(most):
    many = np.stack([image("cavity-tem", np.uint8, seed, (300, 310)) for seed in range(3)])
    settings = Detect(max_detections=most, threshold=0.01, polarity="both")
    for part in candidates.find_candidates_in_batch(to_device(many, "cuda"), settings):
        counts = [int((part.maxima.polarity == sign).sum()) for sign in (1, -1)]
        assert max(counts) <= candidates.compute_max_candidates(settings)
        assert (np.diff(part.maxima.response) <= 0).all()


def test_thin_and_flat_images_pass_through_the_device():
    for pixels in (image("cavity-tem", np.uint16)[:1], np.full((90, 70), 9, np.uint8)):
        rows = detect_image(pixels, Detect(), device="cuda")
        assert abs(len(rows) - len(detect_image(pixels, Detect()))) <= 1


def test_one_batch_goes_in_and_one_table_comes_out(monkeypatch):
    moved = []
    monkeypatch.setattr(log, "to_device", lambda array, name: moved.append(array.shape) or to_device(array, name))
    monkeypatch.setattr(batch_peaks, "to_host", lambda array: moved.append(array.shape) or to_host(array))
    rows = list(detect_images([image("cavity-tem", np.uint8, seed) for seed in range(3)], Detect(), 3, "cuda"))
    assert [len(shape) for shape in moved] == [3, 2]
    assert moved[0] == (3, 512, 512)
    assert moved[1][0] >= sum(map(len, rows))


@pytest.mark.parametrize("most", [None, 40])
def test_the_maxima_and_their_tops_are_those_of_the_host(most):
    pixels = image("nanoparticle-tem", np.float64, shape=(200, 190))
    sigmas = scales.compute_sigmas(2, 9, 5, True)
    here, there = (
        log_exact.find_scale_maxima(array, sigmas, 0.01, "both", max_per_polarity=most)
        for array in (pixels, to_device(pixels, "cuda"))
    )
    assert len(here.y) > 20
    for name in ("y", "x", "scale", "polarity"):
        np.testing.assert_array_equal(getattr(here, name), getattr(there, name))
    np.testing.assert_allclose(there.response, here.response, rtol=1e-9)
    np.testing.assert_allclose(there.top, here.top, rtol=1e-6)


def test_blobs_are_those_of_cucim():
    by_cucim = pytest.importorskip("cucim.skimage.feature").blob_log
    pixels = image("cavity-tem", np.float32)
    search = {key: value for key, value in ASKED.items() if key not in ("polarity", "overlap")}
    expected = to_host(by_cucim(to_device(pixels, "cuda"), overlap=1.0, **search))
    found = find_blobs(to_device(pixels, "cuda"), overlap=None, **search)[["y_px", "x_px", "sigma_px"]].to_numpy()
    a, b = ({tuple(row) for row in np.round(rows, 4)} for rows in (found, expected))
    assert len(a ^ b) <= 0.01 * len(b)


@pytest.mark.parametrize("threshold", [None, 0.02])
def test_fast_blobs_are_nearly_those_of_the_cpu(threshold):
    pixels = image("cavity-tem", np.float32)
    search = ASKED | {"threshold": threshold, "threshold_rel": 0.2, "overlap": None}
    here = find_blobs(pixels, method="fast", **search)
    there = find_blobs(to_device(pixels, "cuda"), method="fast", **search)
    places = [{tuple(row) for row in blobs[["y_px", "x_px"]].round(1).to_numpy()} for blobs in (here, there)]
    assert len(places[0]) > 10
    assert len(places[0] ^ places[1]) <= 0.02 * len(places[0])


def test_the_fast_path_on_the_cpu_finds_nearly_the_same():
    pixels = image("cavity-tem", np.uint16, seed=4)
    settings = Detect()
    cpu = detect_image(pixels, settings)
    gpu = detect_image(pixels, settings, device="cuda")
    assert abs(len(cpu) - len(gpu)) <= max(2, 0.01 * len(cpu))


def test_transfers_are_explicit_and_exact():
    pixels = np.random.default_rng(0).random((7, 9), np.float32)
    there = to_device(pixels, "cuda")
    assert type(there).__module__.startswith("cupy")
    np.testing.assert_array_equal(to_host(there), pixels)


@pytest.fixture
def little_memory():
    """limit(n_bytes) of cupy's own pool, without what earlier tests left in it."""
    import cupy

    memory = cupy.get_default_memory_pool()
    memory.free_all_blocks()
    yield lambda n_bytes: memory.set_limit(size=memory.used_bytes() + n_bytes)
    memory.set_limit(size=0)
    memory.free_all_blocks()


def test_batches_that_do_not_fit_are_halved(little_memory, monkeypatch):
    many = [image("cavity-tem", np.uint8, seed, shape=(1024, 1024)) for seed in range(4)] * 10
    settings = Detect()
    expected = list(detect_images(many, settings, 1, "cuda"))
    sizes = []
    search = log.find_candidates_in_batch
    monkeypatch.setattr(
        log, "find_candidates_in_batch", lambda batch, *rest: sizes.append(len(batch)) or search(batch, *rest)
    )
    little_memory(400 << 20)  # an image takes about 60 MiB, and as much again where places of maxima are counted
    found = list(detect_images(many, settings, 40, "cuda"))
    assert sizes[:2] == [40, 20]
    for a, b in zip(found, expected, strict=True):
        pd.testing.assert_frame_equal(a, b)


def test_an_image_that_does_not_fit_alone_is_an_error(little_memory):
    little_memory(8 << 20)
    with pytest.raises(MemoryError, match="item 0 alone takes more than the GPU's memory") as caught:
        list(detect_images([image("cavity-tem", np.uint8, shape=(2048, 2048))] * 2, Detect(), 2, "cuda"))
    assert is_out_of_memory(caught.value.__cause__)
