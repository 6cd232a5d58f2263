"""Masks of whole batches: the runs of torch tensors equal those of masks pasted one by one, and pycocotools' RLE."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pycocotools.mask
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection.roi_heads import paste_masks_in_image

from emqa_dask import load_detector
from emqa_dask.detect.mask_rcnn import device_masks
from emqa_dask.detect.mask_rcnn import masks as mk
from emqa_dask.detect.mask_rcnn.detector import Detector
from emqa_dask.synthetic import cavities
from tests.detect.torch_device import DEVICE, Device

DATA_FOLDER = Path(__file__).parents[3] / "shared" / "data" / "uw_cavity"
FAMILIES = {
    "torchvision": (mk.paste_as_torchvision, device_masks.find_runs_as_torchvision),
    "detectron2": (mk.paste_as_detectron2, device_masks.find_runs_as_detectron2),
}


def draw_objects(seed, shape, n, *, side_px, is_inside, n_cells=28):
    """Masks (n, n_cells, n_cells) and boxes (n, 4) of random objects in an image of `shape`, cut by its edge or not."""
    rng = np.random.default_rng(seed)
    size = np.array(shape[::-1])
    low = rng.uniform(-side_px, size, (n, 2))
    high = low + rng.uniform(0.5, side_px, (n, 2)) ** rng.integers(0, 2, (n, 2))  # thin ones among them
    if is_inside:
        low, high = low.clip(0, size - 1), high.clip(0.5, size)
        high = np.maximum(high, low + 0.5)
    masks = rng.random((n, n_cells, n_cells))
    masks[::3] = masks[::3] > 0.5  # values that meet 0.5 exactly where pixels lie between cells
    masks[4::5] = 0  # without a pixel
    boxes = torch.from_numpy(np.concatenate([low, high], axis=1)).float()
    return torch.from_numpy(masks).float(), boxes


def repeat_shape(shape, n):
    return np.tile(np.array(shape, np.int64), (n, 1))


def assert_equal_runs(runs, expected):
    assert len(runs) == len(expected)
    for one, other in zip(runs, expected):
        np.testing.assert_array_equal(one, other)


SHAPES = st.tuples(st.integers(1, 150), st.integers(1, 150))


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), shape=SHAPES, n=st.integers(0, 9), side_px=st.sampled_from([3, 30, 200]),
       n_cells=st.sampled_from([14, 28]), chunk_px=st.sampled_from([1, 50, 1 << 21]))  # fmt: skip
def test_runs_of_a_batch_are_those_of_single_masks(family, seed, shape, n, side_px, n_cells, chunk_px):
    paste, find_runs = FAMILIES[family]
    masks, boxes = draw_objects(seed, shape, n, side_px=side_px, is_inside=family == "detectron2", n_cells=n_cells)
    expected = [mk.runs(crop) for crop in paste(masks, boxes, shape)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_masks, "CHUNK_PX", chunk_px)
        runs = find_runs(masks, boxes, repeat_shape(shape, n)).split()
    assert_equal_runs(runs, expected)
    assert mk.encode(runs, shape) == mk.encode(expected, shape)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), shape=SHAPES, side_px=st.sampled_from([3, 30, 200]))
def test_rle_is_pycocotools_of_torchvisions_images(seed, shape, side_px):
    masks, boxes = draw_objects(seed, shape, 6, side_px=side_px, is_inside=True)
    images = (paste_masks_in_image(masks[:, None], boxes, shape)[:, 0] > 0.5).numpy().astype(np.uint8)
    expected = [pycocotools.mask.encode(np.asfortranarray(image))["counts"].decode() for image in images]
    runs = device_masks.find_runs_as_torchvision(masks, boxes, repeat_shape(shape, 6)).split()
    assert mk.encode(runs, shape) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_objects_of_images_of_several_shapes_go_together(family):
    paste, find_runs = FAMILIES[family]
    shapes = [(40, 50), (90, 20), (7, 200)]
    objects = [
        draw_objects(k, shape, 5, side_px=60, is_inside=family == "detectron2") for k, shape in enumerate(shapes)
    ]
    expected = [mk.runs(crop) for shape, (masks, boxes) in zip(shapes, objects) for crop in paste(masks, boxes, shape)]
    masks, boxes = (torch.cat(values) for values in zip(*objects))
    assert_equal_runs(find_runs(masks, boxes, np.repeat(shapes, 5, axis=0)).split(), expected)


def test_a_mask_of_several_chunks_is_the_same():
    shape = (3000, 4000)
    masks = torch.from_numpy(np.random.default_rng(0).random((1, 28, 28))).float()
    boxes = torch.tensor([[0.0, 0.0, 4000.0, 3000.0]])
    (runs,) = device_masks.find_runs_as_torchvision(masks, boxes, repeat_shape(shape, 1)).split()
    assert_equal_runs([runs], [mk.runs(crop) for crop in mk.paste_as_torchvision(masks, boxes, shape)])


class LargestTensor(TorchDispatchMode):
    """Counts operations, and elements of the largest tensor that one of them gives."""

    n_operations = 0
    n_elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [value for value in (result if isinstance(result, (tuple, list)) else [result])
                   if isinstance(value, torch.Tensor)]  # fmt: skip
        self.n_operations += 1
        self.n_elements = max([self.n_elements, *(tensor.numel() for tensor in tensors)])
        return result


@pytest.mark.parametrize("family", FAMILIES)
def test_many_objects_take_no_more_operations_or_memory(family, monkeypatch):
    monkeypatch.setattr(device_masks, "CHUNK_PX", 20_000)
    counts = []
    for n in (40, 400):
        masks, boxes = draw_objects(0, (500, 500), n, side_px=30, is_inside=True, n_cells=14)
        with LargestTensor() as mode:
            mask_runs = FAMILIES[family][1](masks, boxes, repeat_shape((500, 500), n))
        assert len(mask_runs.counts) == n
        n_chunks = 1 + int((boxes[:, 2:] - boxes[:, :2] + 4).prod(dim=1).sum()) // 20_000
        assert mode.n_elements <= max(25_000, n * 16 * 16)  # the masks themselves, or a chunk
        counts.append(mode.n_operations / (2 + n_chunks))
    assert counts[1] < 1.5 * counts[0]
    assert counts[1] < 150


def test_no_objects_and_only_empty_ones():
    for _, find_runs in FAMILIES.values():
        none = find_runs(torch.zeros(0, 28, 28), torch.zeros(0, 4), np.zeros((0, 2), np.int64))
        assert none.split() == []
        empty = find_runs(
            torch.zeros(2, 28, 28), torch.tensor([[1.0, 1, 9, 9], [3, 3, 5, 6]]), repeat_shape((10, 10), 2)
        )
        assert [run.shape for run in empty.split()] == [(0, 3), (0, 3)]


def make_detectors():
    """The bundled network, and the same with masks that are on a device and pasted there."""
    detector = load_detector("cavity-tem")
    network = detector._network

    def predict_objects(images):
        return [objects._replace(masks=objects.masks.to(DEVICE)) for objects in network.predict_objects(images)]

    find_runs = device_masks.find_runs_as_torchvision
    there = network._replace(predict_objects=predict_objects, find_runs=find_runs)
    return detector, Detector(detector.card, there, "cpu")


def test_tables_of_a_network_are_the_same():
    images = [
        cavities.draw_cavities(np.random.default_rng(k), shape, n=12, contrast=0.6).image
        for k, shape in enumerate([(256, 256), (200, 300), (256, 256)])
    ]
    assert_same_tables(images, [None, 0.5])


@pytest.mark.skipif(not DATA_FOLDER.is_dir(), reason="the real micrographs are not here")
def test_tables_of_a_real_micrograph_are_the_same():
    path = next(path for path in sorted(DATA_FOLDER.rglob("*")) if path.suffix in (".jpg", ".png", ".tif"))
    assert_same_tables([cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)], [None])


def assert_same_tables(images, scales):
    here, there = make_detectors()
    for scale in scales:
        expected = here.detect(images, scale=scale)
        with Device():
            tables = there.detect(images, scale=scale)
        for one, other in zip(tables, expected, strict=True):
            assert len(other) > 0
            pd.testing.assert_frame_equal(one, other, check_exact=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_but_runs_leaves_the_device(family):
    paste, find_runs = FAMILIES[family]
    shape = (100, 120)
    masks, boxes = draw_objects(0, shape, 9, side_px=150, is_inside=True)
    with Device() as device:
        runs = find_runs(masks.to(DEVICE), boxes, repeat_shape(shape, 9))
    assert device.n_downloads == 1
    assert_equal_runs(runs.split(), [mk.runs(crop) for crop in paste(masks, boxes, shape)])


def test_the_device_refuses_what_a_gpu_refuses():
    with Device():
        there = torch.ones(3).to(DEVICE)
        with pytest.raises(RuntimeError, match="tensors of two devices"):
            there + torch.ones(3)
        with pytest.raises((RuntimeError, TypeError)):
            there.numpy()
        assert (there + 1).cpu().tolist() == [2, 2, 2]
