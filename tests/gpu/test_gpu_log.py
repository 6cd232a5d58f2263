"""On a GPU: the LoG finds what it finds on the CPU, blob for blob, and halves batches that its memory cannot hold."""

import numpy as np
import pandas as pd
import pytest

from emqa_dask.backend import is_out_of_memory, to_device, to_host
from emqa_dask.detect import candidates, log, log_exact, scales
from emqa_dask.detect.blobs import find_blobs
from emqa_dask.detect.log import detect_image, detect_images
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


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_detections_are_those_of_the_exact_path_on_the_cpu(monkeypatch, dtype, batch_size):
    settings = Detect()
    many = [image("cavity-tem", dtype, seed) for seed in range(4)]
    there = list(detect_images(many, settings, batch_size, "cuda"))
    for module in (candidates, log):
        monkeypatch.setattr(module, "to_device", lambda array, device: array)
    here = [detect_image(pixels, settings, device="cuda") for pixels in many]
    assert sum(map(len, here)) > 20
    for a, b in zip(here, there, strict=True):
        a, b = (clear(rows, "response", settings.threshold) for rows in (a, b))
        assert a["polarity"].tolist() == b["polarity"].tolist()
        # Tops of flat surfaces move by more than the responses that they are fitted to differ.
        pd.testing.assert_frame_equal(a, b, rtol=1e-3, atol=1e-2)


def test_one_image_goes_in_and_one_table_comes_out(monkeypatch):
    moved = []
    for module in (candidates, log):
        monkeypatch.setattr(module, "to_device", lambda array, name: moved.append("in") or to_device(array, name))
    monkeypatch.setattr(log_exact, "to_host", lambda array: moved.append(array.shape) or to_host(array))
    rows = list(detect_images([image("cavity-tem", np.uint8, seed) for seed in range(3)], Detect(), 3, "cuda"))
    assert moved[0] == "in"
    assert [shape[1] for shape in moved[1:]] == [31, 31, 31]
    assert all(shape[0] >= len(found) for shape, found in zip(moved[1:], rows, strict=True))


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


def test_the_fast_method_is_refused_for_arrays_on_the_gpu():
    with pytest.raises(ValueError, match="method='exact' on a GPU"):
        find_blobs(to_device(image("cavity-tem", np.float32), "cuda"), method="fast", **ASKED)


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
    tried = log._detect_batch
    monkeypatch.setattr(log, "_detect_batch", lambda batch, *rest: sizes.append(len(batch)) or tried(batch, *rest))
    little_memory(150 << 20)  # 40 images are 160 MiB; the scale space of one should be some 60
    found = list(detect_images(many, settings, 40, "cuda"))
    assert sizes[:2] == [40, 20]
    for a, b in zip(found, expected, strict=True):
        pd.testing.assert_frame_equal(a, b)


def test_an_image_that_does_not_fit_alone_is_an_error(little_memory):
    little_memory(8 << 20)
    with pytest.raises(MemoryError, match="item 0 alone takes more than the GPU's memory") as caught:
        list(detect_images([image("cavity-tem", np.uint8, shape=(2048, 2048))] * 2, Detect(), 2, "cuda"))
    assert is_out_of_memory(caught.value.__cause__)
