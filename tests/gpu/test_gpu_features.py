"""On a GPU: statistics, signatures, thumbnails and Thon rings are those of the CPU; no image comes back whole."""

import cv2
import numpy as np
import pytest

from emqa_dask.backend import to_device, to_host
from emqa_dask.featurise import batch_parts
from emqa_dask.featurise.images import image_features
from emqa_dask.featurise.rings import measure_thon_rings
from emqa_dask.store.thumbnails import downsample_batch, encode_thumbnail, make_thumbnail
from emqa_dask.synthetic.films import draw_amorphous_film
from tests.featurise.test_feature_batches import assert_equal_features, compute_features_of_batch, make_image

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("shape", [(200, 1500), (1024, 1024), (2048, 1536), (1100, 1300)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_features_on_a_gpu_are_those_of_the_cpu(dtype, shape):
    batch = np.stack([make_image(k, shape, dtype) for k in range(3)])
    for row, image in zip(compute_features_of_batch(to_device(batch, "cuda"), device="cuda"), batch, strict=True):
        assert_equal_features(row, image_features(image, colour_fraction=0.25))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_thumbnails_on_a_gpu_are_those_of_the_cpu(dtype):
    batch = np.stack([make_image(k, (1100, 1300), dtype) for k in range(3)])
    greys = to_host(downsample_batch(to_device(batch, "cuda"), 256)).astype(np.float64)
    for jpeg, image in zip(map(encode_thumbnail, greys), batch, strict=True):
        grey, expected = (
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED).astype(float)
            for data in (jpeg, make_thumbnail(image))
        )
        assert np.abs(grey - expected).mean() < 2  # of 255


def test_rings_on_a_gpu_are_those_of_the_cpu():
    film = draw_amorphous_film(np.random.default_rng(3), (900, 900), nm_per_pixel=0.1, defocus_nm=700, voltage_kv=200)
    expected = measure_thon_rings(film, 0.1, 200.0)
    assert expected.defocus_nm == pytest.approx(700, rel=0.05)
    np.testing.assert_allclose(measure_thon_rings(to_device(film, "cuda"), 0.1, 200.0), expected, rtol=1e-4)


def test_small_arrays_of_large_images_come_back(monkeypatch):
    sizes = []
    to_host = batch_parts.to_host
    monkeypatch.setattr(batch_parts, "to_host", lambda array: sizes.append(array.size) or to_host(array))
    batch = np.stack([make_image(0, (1024, 1024), np.uint16)] * 2).repeat(4, axis=1).repeat(4, axis=2)
    compute_features_of_batch(to_device(batch, "cuda"), device="cuda")
    assert sum(sizes) < 0.1 * batch.size
