"""Stability of detections, and the margin to the second class of an object."""

import numpy as np
import pandas as pd

from emqa_dask.detect.mask_rcnn import load_detector, stability
from emqa_dask.detect.normalise import normalise


def test_boxes_of_the_copy_lie_on_their_pixels():
    image = np.zeros((64, 100), np.float32)
    image[16:32, 10:40] = 1.0
    copy = stability.make_copy(image, 0.5)
    assert copy.shape == (32, 50)
    y, x = np.nonzero(copy)
    box = np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1]], float)
    assert box.tolist() == [[30, 8, 45, 16]]  # x from (100 - 40) / 2 to (100 - 10) / 2
    assert stability.restore_mirrored_boxes(box, copy.shape, image.shape).tolist() == [[10, 16, 40, 32]]


def test_stability_is_overlap_times_the_ratio_of_scores():
    boxes = np.array([[0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]], float)
    copied_boxes = np.array([[0, 0, 10, 5], [0, 0, 10, 10], [20, 20, 30, 30]], float)
    values = stability.compute_stability(boxes, np.array([0.8, 0.5, 0.9]), copied_boxes, np.array([0.9, 0.2, 0.4]))
    # 0.5 * 1 is more than 1 * 0.2 / 0.8; 1 * 0.4 / 0.5; nothing there
    np.testing.assert_allclose(values, [0.5, 0.8, 0.0])
    assert stability.compute_stability(boxes[:0], np.zeros(0), copied_boxes, np.ones(3)).shape == (0,)


def test_a_second_pass_changes_nothing_but_the_stability(small_model, scenes):
    once = load_detector(small_model[0]).detect(scenes[:3])
    twice = load_detector(small_model[0], stability_scale=0.5).detect(scenes[:3])
    for a, b in zip(once, twice, strict=True):
        pd.testing.assert_frame_equal(a.drop(columns="stability"), b.drop(columns="stability"), atol=1e-5)
        assert a["stability"].isna().all()
        assert b["stability"].between(0, 1).all()
        assert b["stability"].nunique() > 5


def test_boxes_alone_are_those_found_with_masks(small_model, scenes):
    network = load_detector(small_model[0])._network
    image = scenes[0].astype(np.float32) / 65535
    (full,), (boxes,) = network.predict_objects([image]), network.predict_boxes([image])
    np.testing.assert_allclose(boxes.boxes, full.boxes, atol=1e-4)
    np.testing.assert_allclose(boxes.scores, full.scores, atol=1e-5)
    assert boxes.classes.tolist() == full.classes.tolist()


def test_the_margin_is_that_to_the_second_class(small_model, scenes):
    import torch

    loaded = load_detector(small_model[0])
    rows = loaded.detect(scenes[:2])
    net = small_model[1]
    for image, table in zip(scenes, rows):
        pixels = [torch.from_numpy(normalise(image, 1.0, 99.0))[None].expand(len(net.transform.image_mean), -1, -1)]
        boxes = torch.from_numpy(np.array(table[["x0", "y0", "x1", "y1"]], np.float32))
        with torch.inference_mode():  # torchvision's own network, whose box head looks at the final boxes
            inputs, _ = net.transform(pixels)
            features = net.backbone(inputs.tensors)
            pooled = net.roi_heads.box_roi_pool(features, [boxes], inputs.image_sizes)
            probabilities = net.roi_heads.box_predictor(net.roi_heads.box_head(pooled))[0].softmax(dim=1).numpy()
        own = np.where(table["label"] == "cavity", probabilities[:, 1], probabilities[:, 2])
        second = np.where(table["label"] == "cavity", probabilities[:, 2], probabilities[:, 1])
        np.testing.assert_allclose(table["class_margin"], own - second, atol=1e-4)
