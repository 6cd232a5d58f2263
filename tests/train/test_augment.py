"""Crops show the same objects as the image, wherever, however scaled and turned."""

import numpy as np
import pytest

from emqa_dask.train import augment
from tests.train.conftest import box_of, discs


def scene(seed=1):
    image, masks = discs(np.random.default_rng(seed), n=4, side=120)
    cut = [(b[1], b[0], m[b[1] : b[1] + b[3], b[0] : b[0] + b[2]]) for m in masks for b in [box_of(m)]]
    return image.astype(np.float32) / 200, cut, [1, 2, 1, 2][: len(cut)]


def test_the_whole_image_at_its_scale_is_the_image():
    image, masks, labels = scene()
    crop = augment.cut_crop(image, masks, labels, 0, 0, 120, 120)
    assert np.array_equal(crop.image, image)
    assert crop.labels.tolist() == labels
    for (y, x, pixels), box, stack in zip(masks, crop.boxes, crop.masks):
        assert box.tolist() == [y, x, y + pixels.shape[0], x + pixels.shape[1]]
        assert np.array_equal(stack[y : y + pixels.shape[0], x : x + pixels.shape[1]].astype(bool), pixels)


@pytest.mark.parametrize("seed", range(12))
def test_masks_lie_on_the_bright_objects_of_a_crop(seed):
    image, masks, labels = scene(seed)
    rng = np.random.default_rng([9, seed])
    crop = augment.draw_crop(image, masks, labels, rng, size=96, scales=(0.5, 2.0), intensity=False)
    assert crop.image.shape == crop.masks.shape[1:] == (96, 96)
    assert crop.image.dtype == np.float32
    assert len(crop.boxes) == len(crop.masks) == len(crop.labels)
    if len(crop.masks) == 0:
        return
    union = crop.masks.any(axis=0)
    is_bright = crop.image > 0.6
    assert (union & is_bright).sum() >= 0.85 * union.sum()
    for box, mask in zip(crop.boxes, crop.masks):
        assert box_of(mask.astype(bool)) == [box[1], box[0], box[3] - box[1], box[2] - box[0]]


def test_equal_seeds_draw_equal_crops_and_none_inverts():
    image, masks, labels = scene()
    bright = np.zeros(2)
    for seed in range(40):
        one, other = (
            augment.draw_crop(image, masks, labels, np.random.default_rng(seed), size=64, scales=(0.8, 1.2))
            for _ in range(2)
        )
        assert all(np.array_equal(a, b) for a, b in zip(one, other))
        assert one.image.min() >= -1
        assert one.image.max() <= 2
        union = one.masks.any(axis=0)
        if union.any() and not union.all():
            bright += one.image[union].mean() > one.image[~union].mean(), 1
    assert bright[1] > 20
    assert bright[0] == bright[1]


def test_an_object_cut_to_a_sliver_is_left_out():
    image, (first, *_), _ = scene()
    y, x, pixels = first
    crop = augment.cut_crop(image, [first], [1], y + pixels.shape[0] - 2, x, 60, 60)
    assert len(crop.boxes) == 0
    assert crop.masks.shape == (0, 60, 60)
    assert crop.boxes.shape == (0, 4)
