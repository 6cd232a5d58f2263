"""On a GPU a Mask R-CNN finds what it finds on a CPU, whatever batch and memory; and a training there learns."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from emqa_dask import backend, load_detector
from emqa_dask.boxes import match_boxes
from emqa_dask.detect.mask_rcnn import masks as mk
from emqa_dask.synthetic import cavities
from emqa_dask.train import detector as training
from tests.detect.test_device_masks import FAMILIES, assert_equal_runs, draw_objects, repeat_shape
from tests.train.conftest import FEW, disc_set, plain

__all__ = ["disc_set", "plain"]  # fixtures

pytestmark = pytest.mark.gpu

BOX = ["y0", "x0", "y1", "x1"]
SURE = 0.2  # below it detections come and go with rounding


@pytest.fixture
def full_float32():
    """Convolutions round as on a CPU, not to TensorFloat-32's 10 bits."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@pytest.fixture(scope="module")
def scenes():
    shapes = [(384, 384), (256, 400), (384, 384)]
    made = (
        cavities.draw_cavities(np.random.default_rng(k), shape, n=15, contrast=0.6) for k, shape in enumerate(shapes)
    )
    return [sample.image for sample in made]


def sure(rows):
    return rows[rows["score"] >= SURE].sort_values(BOX, ignore_index=True)


def test_the_same_objects_on_both_devices(scenes, full_float32):
    there = load_detector("cavity-tem", "cuda").detect(scenes)
    for a, b, image in zip(there, load_detector("cavity-tem").detect(scenes), scenes, strict=True):
        a = sure(a)
        b = sure(b)
        assert len(a) == len(b) > 3
        np.testing.assert_allclose(a[BOX], b[BOX], rtol=0, atol=0.05)
        np.testing.assert_allclose(a["score"], b["score"], rtol=0, atol=2e-3)
        for one, other in zip(a["mask_rle"], b["mask_rle"]):
            one, other = (mk.decode(rle, image.shape).astype(bool) for rle in (one, other))
            assert (one & other).sum() >= 0.98 * (one | other).sum()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16", "auto"])
def test_less_precise_arithmetic_finds_nearly_the_same(scenes, precision):
    """What is sure on one device is there on the other, with a score that may have fallen by a tenth."""
    there = load_detector("cavity-tem", "cuda", precision)
    here = load_detector("cavity-tem")
    lost = found = 0
    for pair in zip(there.detect(scenes), here.detect(scenes), strict=True):
        for one, other in (pair, pair[::-1]):
            one, other = (
                rows.loc[rows["score"] >= least, BOX].to_numpy() for rows, least in ((one, 0.5), (other, 0.4))
            )
            n = match_boxes(other, one, 0.5).tp
            found = found + n
            lost = lost + len(one) - n
    assert lost <= 0.05 * found


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_become_the_runs_of_the_cpu(family):
    """Of the same masks and boxes; chunks of one size or many."""
    paste, find_runs = FAMILIES[family]
    shape = (500, 700)
    masks, boxes = draw_objects(0, shape, 300, side_px=200, is_inside=True)
    expected = [mk.runs(crop) for crop in paste(masks, boxes, shape)]
    assert_equal_runs(find_runs(masks.cuda(), boxes, repeat_shape(shape, 300)).split(), expected)


def test_the_batch_changes_nothing(scenes, full_float32):
    detector = load_detector("cavity-tem", "cuda")
    together = detector.detect(scenes)
    for image, rows in zip(scenes, together, strict=True):
        a = sure(detector.detect([image])[0])
        b = sure(rows)
        np.testing.assert_allclose(a[[*BOX, "score"]], b[[*BOX, "score"]], rtol=0, atol=1e-2)


def test_batches_that_do_not_fit_are_halved_without_loss(scenes):
    detector = load_detector("cavity-tem", "cuda")
    large = [cv2.resize(scenes[0], (1024, 1024))] * 16  # one batch
    (alone,) = detector.detect(large[:1])
    backend.free_device_memory()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + (1 << 30)) / total)
    try:
        found = detector.detect(large)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert detector.batch_px < 1 << 24
    for rows in found:
        assert match_boxes(sure(rows)[BOX].to_numpy(), sure(alone)[BOX].to_numpy(), 0.5).f1 >= 0.95


def test_a_training_on_a_gpu_learns(disc_set, plain, tmp_path):
    file, folder, _ = disc_set(4)
    training.train_detector([(file, folder)], tmp_path / "m", replace(FEW, device="cuda", n_steps=60), normalise=plain)
    rows = [line.split(",") for line in (tmp_path / "m/training.csv").read_text().splitlines()]
    loss = rows[0].index("loss")
    values = np.array([float(row[loss]) for row in rows[1:]])
    assert np.isfinite(values).all()
    assert values[-10:].mean() < 0.8 * values[:5].mean()
