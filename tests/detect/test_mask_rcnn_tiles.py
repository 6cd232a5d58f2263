"""Tiles: windows that cover an image, and the same objects as without them."""

import dataclasses
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from emqa_dask.detect.mask_rcnn import masks as mk
from emqa_dask.detect.mask_rcnn.detections_table import COLUMNS
from emqa_dask.detect.mask_rcnn.detector import Detector
from emqa_dask.detect.mask_rcnn.detector_card import DetectorCard
from emqa_dask.detect.mask_rcnn.merge import find_claimed_boxes, find_doubles, make_tiles
from emqa_dask.detect.mask_rcnn.network import Network, Predictions

CARD = DetectorCard(Path(), "", "components", "torchvision", ("disk",), {}, 0.0, 100.0, 256, 48)


def components(images):
    """A network in the sense of the interface: connected bright pixels, their boxes, areas as scores, and masks."""
    found = []
    for image in images:
        parts, _ = ndimage.label(image > 0.5)
        slices = ndimage.find_objects(parts)
        masks = [torch.from_numpy(parts[s] == k + 1).float()[None, None] for k, s in enumerate(slices)]
        order = sorted(range(len(slices)), key=lambda k: -float(masks[k].sum()))
        boxes = [[slices[k][1].start, slices[k][0].start, slices[k][1].stop, slices[k][0].stop] for k in order]
        small = [torch.nn.functional.interpolate(masks[k], (28, 28), mode="area")[0] for k in order]
        found.append(
            Predictions(
                torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                torch.tensor([float(masks[k].sum()) / 1e4 for k in order]),
                torch.zeros(len(order), dtype=torch.int64),
                torch.cat(small) if small else torch.zeros(0, 28, 28),
                torch.tensor([float(image.mean()), float(len(slices))]),
            )
        )
    return found


def detector(tile_px):
    card = dataclasses.replace(CARD, tile_px=tile_px)
    return Detector(card, Network(components, mk.paste_as_torchvision, lambda shape: shape), "cpu")


def disks(seed, shape=(700, 900), n=60, most=40):
    """Disks apart from each other, up to `most` px in radius."""
    rng = np.random.default_rng(seed)
    image = np.zeros(shape, np.float32)
    y, x = np.mgrid[: shape[0], : shape[1]]
    for _ in range(n):
        radius = rng.uniform(3, most)
        cy = rng.uniform(0, shape[0])
        cx = rng.uniform(0, shape[1])
        distance = np.hypot(y - cy, x - cx)
        if not image[distance < radius + 3].any():
            image[distance < radius] = 1
    return image


@pytest.mark.parametrize("seed", range(4))
def test_tiles_give_the_objects_of_the_whole_image(seed):
    image = disks(seed)
    (whole,) = detector(4096).detect([image])
    (tiled,) = detector(256).detect([image])
    order = ["score", "y0", "x0"]
    whole, tiled = (rows.sort_values(order, ignore_index=True) for rows in (whole, tiled))
    assert len(whole) == len(tiled) > 15
    number = ["y0", "x0", "y1", "x1", "score", "area_px", "diameter_px"]
    np.testing.assert_allclose(tiled[number], whole[number], atol=1e-6)
    assert list(tiled["mask_rle"]) == list(whole["mask_rle"])


def test_embedding_of_tiles_is_their_mean():
    image = disks(0, (700, 256))
    (result,) = detector(256).examine([image])
    windows = make_tiles(image.shape, 256, CARD.halo_px)
    means = [image[window.y0 : window.y1].mean() for window in windows]
    counts = [ndimage.label(image[window.y0 : window.y1] > 0.5)[1] for window in windows]
    assert len(windows) > 2
    assert result.embedding.dtype == np.float32
    np.testing.assert_allclose(result.embedding, [np.mean(means), np.mean(counts)], rtol=1e-6)


def test_an_object_larger_than_the_halo_is_found_once():
    image = np.zeros((600, 600), np.float32)
    image[250:262, 20:580] = 1  # through three columns of tiles
    (rows,) = detector(256).detect([image])
    assert 1 <= len(rows) <= 4
    assert list(rows.columns) == COLUMNS


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(64, 700), st.integers(0, 20))
def test_windows_cover_the_image_and_own_each_place_once(height, width, tile_px, halo_px):
    found = make_tiles((height, width), tile_px, halo_px)
    assert len({(w.y1 - w.y0, w.x1 - w.x0) for w in found}) == 1
    for low, high, size in ((0, 2, height), (1, 3, width)):
        spans = sorted({(w[low], w[high], w.core_box[low], w.core_box[high]) for w in found})
        assert spans[0][0] == 0
        assert spans[-1][1] == size
        assert spans[0][2] == -np.inf
        assert spans[-1][3] == np.inf
        assert all(0 <= a < b <= size and b - a <= tile_px for a, b, _, _ in spans)
        for (_, b, _, high_a), (c, _, low_b, _) in pairwise(spans):
            assert b - c >= 2 * halo_px
            assert high_a == low_b
            assert high_a - c >= halo_px
            assert b - high_a >= halo_px
    n_rows = len({w.y0 for w in found})
    assert len(found) == n_rows * len({w.x0 for w in found})


def test_empty_images_have_no_window_and_small_ones_one():
    assert make_tiles((0, 5), 64, 8) == []
    assert [w[:4] for w in make_tiles((64, 5), 64, 8)] == [(0, 0, 64, 5)]


def test_an_object_at_a_seam_is_kept_once():
    left, right = make_tiles((100, 380), 256, 32)
    seam = left.core_box[3]
    box = np.array([[10, seam - 6, 22, seam + 7.0]])
    assert find_claimed_boxes(box, left).all()
    assert find_claimed_boxes(box, right).all()
    pair = np.concatenate([box, box + 0.3])
    drop = find_doubles(pair, np.array([0.9, 0.8]), np.zeros(2, int), np.array([0, 1]), np.array([False, True]))
    assert drop.tolist() == [True, False]  # the tile that owns it, whatever the score
    other = find_doubles(pair, np.array([0.9, 0.8]), np.array([0, 1]), np.array([0, 1]), np.array([False, True]))
    assert not other.any()  # two classes: two objects
    same = find_doubles(pair, np.array([0.9, 0.8]), np.zeros(2, int), np.array([0, 0]), np.array([True, True]))
    assert not same.any()  # one tile: the network has suppressed what is one object
