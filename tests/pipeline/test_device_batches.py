"""Batches of images on a device: results in order, halved where memory is too small, features as of single images."""

import numpy as np
import pytest

from emqa_dask import tables
from emqa_dask.device_batches import map_on_device
from emqa_dask.featurise.batch_parts import split_images
from emqa_dask.featurise.images import compute_features_of_parts, image_features
from emqa_dask.pipeline.tasks.measure_images import make_image_thumbnails
from emqa_dask.store.thumbnails import make_thumbnail

SHAPES = ((96, 130), (160, 200), (96, 130), (160, 200), (200, 160))


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(3)
    dtypes = ("uint8", "uint16", "uint8", ">u2", "float32")
    return [rng.normal(120, 20, shape).astype(dtype) for shape, dtype in zip(SHAPES, dtypes, strict=True)]


def test_results_are_in_the_order_of_the_images(images):
    calls = []

    def sum_images(batch, dtype):
        calls.append((len(batch), batch.dtype.isnative, dtype.str))
        return batch.sum(axis=(1, 2)).tolist()

    assert list(map_on_device(sum_images, images, "cpu", 8)) == [float(image.sum()) for image in images]
    assert sorted(n for n, _, _ in calls) == [1, 1, 1, 2]
    assert all(is_native for _, is_native, _ in calls)
    assert {dtype for _, _, dtype in calls} >= {"|u1", ">u2", "<f4"}


def test_a_batch_beyond_the_memory_is_halved(images):
    sizes = []

    def sum_images(batch, _):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise MemoryError("std::bad_alloc: out_of_memory: CUDA error")
        return batch.sum(axis=(1, 2)).tolist()

    assert list(map_on_device(sum_images, [images[0]] * 5, "cpu", 8)) == [float(images[0].sum())] * 5
    assert sizes == [5, 2, 2, 1]


def test_features_of_batches_are_those_of_images(images):
    parts = list(map_on_device(split_images, images, "cpu", 8))
    features = compute_features_of_parts(parts, [min(image.shape) for image in images], [0.0] * len(images))
    for image, own in zip(images, features, strict=True):
        expected = image_features(image)
        for name in tables.TILE_COLUMNS:
            np.testing.assert_allclose(own[name], expected[name], rtol=1e-4)
        names = [name for name in expected if name not in ("signature", "landmarks", *tables.TILE_COLUMNS)]
        np.testing.assert_allclose([own[n] for n in names], [expected[n] for n in names], rtol=1e-2, atol=1e-3)


def test_thumbnails_of_the_cpu_are_those_of_single_images(images):
    assert make_image_thumbnails(images, [None] * len(images), 64, "cpu") == [
        make_thumbnail(image, 64) for image in images
    ]
