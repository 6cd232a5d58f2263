"""Masks: the pixels of torchvision's pasting, COCO's run lengths, and the shapes of what is known."""

import tracemalloc

import cv2
import numpy as np
import pycocotools.mask
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from emqa_dask.detect.mask_rcnn import masks as mk
from tests.operations import count_calls

SIDE = st.integers(1, 12)
MASKS = st.tuples(SIDE, SIDE).flatmap(lambda shape: arrays(bool, shape))


def coco(mask):
    return pycocotools.mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


def whole(crop, shape):
    image = np.zeros(shape, bool)
    image[crop.y0 : crop.y0 + crop.mask.shape[0], crop.x0 : crop.x0 + crop.mask.shape[1]] = crop.mask
    return image


def measure(run):
    """Shapes of one mask, as numbers."""
    return mk.Shapes(*(values.item() for values in mk.measure([run])))


def disk(radius, centre=(60.3, 59.8), size=120, aspect=1.0):
    y, x = np.mgrid[:size, :size]
    return ((y - centre[0]) / aspect) ** 2 + (x - centre[1]) ** 2 < radius**2


@settings(deadline=None)
@given(MASKS)
def test_run_lengths_are_those_of_pycocotools_and_come_back(mask):
    (rle,) = mk.encode([mk.runs(mk.Crop(0, 0, mask))], mask.shape)
    assert rle == coco(mask)
    np.testing.assert_array_equal(mk.decode(rle, mask.shape), mask)


@settings(deadline=None)
@given(MASKS, st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
def test_a_crop_is_encoded_like_its_whole_image(mask, top, left, below, right):
    image = np.pad(mask, ((top, below), (left, right)))
    found = mk.runs(mk.Crop(top, left, mask))
    np.testing.assert_array_equal(found, mk.runs(mk.Crop(0, 0, image)))
    (rle,) = mk.encode([found], image.shape)
    assert rle == coco(image)
    assert measure(found).area_px == mask.sum()


def test_no_masks_and_empty_masks():
    assert mk.encode([], (5, 7)) == []
    empty = mk.runs(mk.Crop(2, 2, np.zeros((0, 0), bool)))
    assert len(empty) == 0
    assert not mk.decode(mk.encode([empty], (5, 7))[0], (5, 7)).any()
    area, circularity, diameter = measure(empty)
    assert area == 0
    assert np.isnan([circularity, diameter]).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_pixels_are_those_that_torchvision_pastes(seed):
    import torch
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    rng = np.random.default_rng(seed)
    shape = (40, 50)
    corners = rng.uniform([-10, -10], [60, 50], (6, 2, 2)).clip(0, [50, 40])
    corners[0] = [[10, 10], [10, 10]]  # a box without area
    boxes = torch.from_numpy(np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)).float()
    masks = torch.from_numpy(rng.random((6, 28, 28))).float()
    expected = (paste_masks_in_image(masks[:, None], boxes, shape)[:, 0] > 0.5).numpy()
    for crop, image in zip(mk.paste_as_torchvision(masks, boxes, shape), expected, strict=True):
        np.testing.assert_array_equal(whole(crop, shape), image)


def test_boxes_outside_the_image_have_no_pixels_in_it():
    import torch

    boxes = torch.tensor([[-30.0, 5.0, -10.0, 20.0], [5.0, 60.0, 20.0, 80.0], [-10.0, -10.0, 5.0, 5.0]])
    found = list(mk.paste_as_torchvision(torch.ones(3, 28, 28), boxes, (40, 50)))
    assert [crop.mask.sum() > 0 for crop in found] == [False, False, True]
    assert whole(found[2], (40, 50))[:5, :5].all()


@pytest.mark.parametrize("radius", [3, 5, 9, 20, 40])
def test_a_disk_has_its_area_its_diameter_and_no_corners(radius):
    area, circularity, diameter = measure(mk.runs(mk.Crop(0, 0, disk(radius))))
    assert area == pytest.approx(np.pi * radius**2, rel=0.08)
    assert diameter == pytest.approx(2 * radius, abs=0.8)
    assert 1 <= circularity < 1.06


@pytest.mark.parametrize(("aspect", "rel"), [(0.4, 0.1), (0.7, 0.06), (1.5, 0.06)])
def test_ellipses_have_the_diameter_of_their_disk_and_longer_perimeters(aspect, rel):
    shape = measure(mk.runs(mk.Crop(0, 0, disk(30, aspect=aspect))))
    assert shape.diameter_px == pytest.approx(60 * np.sqrt(aspect), rel=rel)
    a = 30
    b = 30 * aspect
    perimeter = np.pi * (3 * (a + b) - np.sqrt((3 * a + b) * (a + 3 * b)))
    assert shape.circularity == pytest.approx(perimeter / (2 * np.pi * np.sqrt(a * b)), rel=0.01)


def test_the_hull_counts_and_not_the_rim():
    whole_disk = disk(30)
    bitten = disk(30) & ~disk(8, (60.0, 80.0))
    a, b = (measure(mk.runs(mk.Crop(0, 0, mask))) for mask in (whole_disk, bitten))
    assert a[1:] == b[1:]
    assert b.area_px == bitten.sum() < a.area_px


@settings(deadline=None)
@given(MASKS.filter(lambda mask: mask.any()))
def test_no_mask_is_rounder_than_a_disk(mask):
    shape = measure(mk.runs(mk.Crop(0, 0, mask)))
    assert shape.circularity >= 1
    assert 0 < shape.diameter_px <= np.hypot(*mask.shape) + 1


def measure_with_opencv(run):
    """Circularity and diameter of OpenCV's convex hull of the points that the pixels reach, in half pixels."""
    x, y = (np.concatenate([2 * run[:, 0]] * 2), np.concatenate([2 * run[:, 1], 2 * run[:, 2] - 2]))
    points = np.concatenate([np.column_stack([x + dx, y + dy]) for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1))])
    hull = cv2.convexHull(points.astype(np.int32))
    corners = hull[:, 0] / 2
    distance = np.hypot(*(corners - corners.mean(axis=0)).T)
    perimeter = cv2.arcLength(hull, True) / 2
    return perimeter / (2 * np.sqrt(np.pi * cv2.contourArea(hull) / 4)), 2 * np.sqrt(distance.min() * distance.max())


@settings(deadline=None, max_examples=200)
@given(st.lists(MASKS.filter(lambda mask: mask.any()), min_size=1, max_size=4), st.integers(0, 5000))
def test_shapes_are_those_of_opencvs_hull(masks, y0):
    mask_runs = [mk.runs(mk.Crop(y0, k, mask)) for k, mask in enumerate(masks)]
    shapes = mk.measure(mask_runs)
    expected = np.array([measure_with_opencv(run) for run in mask_runs])
    np.testing.assert_array_equal(shapes.area_px, [mask.sum() for mask in masks])
    np.testing.assert_allclose(np.column_stack(shapes[1:]), expected, rtol=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.lists(MASKS, max_size=5), st.integers(0, 40))
def test_masks_of_one_image_are_encoded_together(masks, margin):
    shape = (12 + margin, 12 + margin)
    images = [np.pad(mask, [(0, n - size) for n, size in zip(shape, mask.shape)]) for mask in masks]
    assert mk.encode([mk.runs(mk.Crop(0, 0, mask)) for mask in masks], shape) == [coco(image) for image in images]


def test_counts_of_a_large_image_are_those_of_pycocotools():
    image = np.zeros((3000, 4000), bool)
    image[10:2990, 3000] = image[:, 3500:3502] = image[17, 3990] = True
    assert mk.encode([mk.runs(mk.Crop(0, 0, image))], image.shape) == [coco(image)]


def test_a_thousand_masks_take_no_memory_of_images():
    import torch

    rng = np.random.default_rng(0)
    shape = (1024, 1024)
    corner = rng.uniform(0, 960, (1000, 2))
    boxes = torch.from_numpy(np.concatenate([corner, corner + rng.uniform(10, 64, (1000, 2))], axis=1)).float()
    y, x = np.mgrid[-1:1:28j, -1:1:28j]
    masks = torch.from_numpy(np.exp(-(y**2 + x**2))).float().expand(1000, -1, -1)

    def encode_and_measure(n):
        found = [mk.runs(crop) for crop in mk.paste_as_torchvision(masks[:n], boxes[:n], shape)]
        return mk.encode(found, shape), mk.measure(found)

    encode_and_measure(1)  # compiles
    (rle, measured), n_calls = count_calls(encode_and_measure, 1000)
    tracemalloc.start()
    encode_and_measure(1000)
    (_, peak) = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rle) == len(measured.area_px) == 1000
    assert peak < 30e6  # one mask of every image would be 1e9
    assert n_calls < 400 * len(masks)  # some 200
