"""Detection on a device: refused where there is none; the same rows in batches of any size. Values are in tests/gpu."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from emqa_dask import device_batches
from emqa_dask.backend import to_device
from emqa_dask.detect import candidates, tiles
from emqa_dask.detect.log import detect_image, detect_images
from emqa_dask.settings import Detect
from emqa_dask.synthetic.profiles import make_sample

SETTINGS = Detect(min_sigma=2, max_sigma=8, num_sigma=4)


def has_gpu() -> bool:
    try:
        to_device(np.zeros(1), "cuda")
    except RuntimeError:
        return False
    return True


def images(n, shape=(96, 80), dtype=np.uint16):
    samples = [make_sample("nanoparticle-tem", np.random.default_rng(seed), shape=shape) for seed in range(n)]
    found = [(sample.image / sample.image.max() * 250).astype(dtype) for sample in samples]
    if np.dtype(dtype).kind == "f":
        found[0][20:30, 20:40] = np.nan
    return found


class Device:
    """Arrays stay where they are; a GPU's memory that has room for `room` pixels at once."""

    def __init__(self, room=1 << 40):
        self.room = room
        self.shapes = []

    def __call__(self, array, device):
        assert device == "cuda"
        self.shapes.append(array.shape)
        if array.size > self.room:
            raise MemoryError("std::bad_alloc: out_of_memory: CUDA error (failed to allocate)")
        return array


@pytest.fixture
def device(monkeypatch):
    there = Device()
    for module in (candidates, device_batches):
        monkeypatch.setattr(module, "to_device", there)
    return there


def assert_same(found, expected):
    found = list(found)
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        pd.testing.assert_frame_equal(a, b)
        assert a.attrs == b.attrs


@pytest.mark.skipif(has_gpu(), reason="there is a GPU here: nothing to refuse")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_cuda_without_a_gpu_is_refused_not_replaced():
    for found in (lambda: detect_image(np.ones((32, 32), np.uint8), SETTINGS, device="cuda"),
                  lambda: list(detect_images([np.ones((32, 32), np.uint8)], SETTINGS, device="cuda"))):  # fmt: skip
        with pytest.raises(RuntimeError, match=r"no (usable )?GPU"):
            found()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
@pytest.mark.parametrize("polarity", ["auto", "both"])
def test_batches_of_any_size_give_the_rows_of_single_images(device, dtype, batch_size, polarity):
    settings = dataclasses.replace(SETTINGS, polarity=polarity)
    many = images(5, dtype=dtype)
    expected = [detect_image(image, settings, device="cuda") for image in many]
    assert all(len(rows) for rows in expected)
    device.shapes.clear()
    assert_same(detect_images(iter(many), settings, batch_size, "cuda"), expected)
    full, left = divmod(5, batch_size)
    assert device.shapes == [(batch_size, 96, 80)] * full + [(left, 96, 80)] * (left > 0)


def test_out_of_memory_halves_the_batch_with_equal_results(device):
    many = images(7)
    expected = [detect_image(image, SETTINGS, device="cuda") for image in many]
    device.shapes.clear()
    device.room = 3 * 96 * 80
    assert_same(detect_images(many, SETTINGS, 8, "cuda"), expected)
    assert [shape[0] for shape in device.shapes] == [7, 3, 3, 1]


def test_an_image_too_large_is_named_after_earlier_results(device):
    device.room = 96 * 80
    found = detect_images([*images(2), np.zeros((97, 80), np.uint8)], SETTINGS, 2, "cuda")
    assert len(next(found))
    assert len(next(found))
    with pytest.raises(MemoryError, match=r"^item 2 alone takes more than the GPU's memory"):
        next(found)


def test_mixed_shapes_empty_images_and_strips_have_their_own_rows(device, monkeypatch):
    many = [*images(2), *images(1, shape=(64, 64)), np.zeros((0, 7), np.uint8), np.full((40, 40), 3, np.uint8)]
    expected = [detect_image(image, SETTINGS, device="cuda") for image in many]
    assert_same(detect_images(many, SETTINGS, 8, "cuda"), expected)
    assert_same(detect_images([many[3]] * 2, SETTINGS, 2, "cuda"), [expected[3]] * 2)
    monkeypatch.setattr(tiles, "WHOLE_PX", 5000)
    monkeypatch.setattr(tiles, "STRIP_PX", 3000)
    device.shapes.clear()
    limited = [detect_image(image, SETTINGS, device="cuda") for image in many[:2]]
    assert len(device.shapes) > 2
    device.shapes.clear()
    assert_same(detect_images(many[:2], SETTINGS, 2, "cuda"), limited)
    assert device.shapes == [(2, 96, 80)]


def test_cpu_results_come_image_by_image_equal_to_detect_image():
    drawn = []
    many = images(3)
    found = detect_images((drawn.append(n) or image for n, image in enumerate(many)), SETTINGS, batch_size=8)
    for n, rows in enumerate(found):
        assert drawn == list(range(n + 1))
        assert_same([rows], [detect_image(many[n], SETTINGS)])
    assert drawn == [0, 1, 2]
