"""Which detections are given, and at which scale the network sees an image."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emqa_dask import models
from emqa_dask.detect.mask_rcnn import load_detector
from emqa_dask.detect.mask_rcnn.selection import select_by_expected_f1
from emqa_dask.detect.normalise import normalise
from tests.detect.conftest import SMALL, write_model

BOX = ["x0", "y0", "x1", "y1"]


def test_expected_f1_by_hand():
    n, f1 = select_by_expected_f1([0.9, 0.8, 0.1])
    assert (n, f1) == (2, pytest.approx(2 * 1.7 / (2 + 1.8)))
    assert select_by_expected_f1([0.4]) == (1, pytest.approx(0.8 / 1.4))
    assert select_by_expected_f1([]) == (0, 0.0)


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=40))
def test_the_last_score_is_half_of_the_expected_f1(scores):
    scores = sorted(scores, reverse=True)
    n, f1 = select_by_expected_f1(scores)
    assert all(2 * sum(scores[:k]) / (k + sum(scores)) <= f1 + 1e-12 for k in range(1, len(scores) + 1))
    assert scores[n - 1] >= f1 / 2 - 1e-12
    assert n == len(scores) or scores[n] <= f1 / 2 + 1e-12


def test_a_card_with_expected_f1_gives_the_best_detections_alone(tmp_path, scenes):
    write_model(tmp_path / "all", SMALL)
    write_model(tmp_path / "best", SMALL, output={"selection": "expected_f1"})
    every = load_detector(tmp_path / "all").examine(scenes)
    best = load_detector(tmp_path / "best").examine(scenes)
    for whole, part in zip(every, best, strict=True):
        n, f1 = select_by_expected_f1(whole.detections["score"])
        assert whole.expected_f1 == part.expected_f1 == f1
        assert 0 < n < len(whole.detections)
        assert part.detections.equals(whole.detections[:n])


def test_an_unknown_selection_is_refused(tmp_path):
    write_model(tmp_path / "m", SMALL, output={"selection": "best"})
    with pytest.raises(models.ModelError, match="selection is 'best': it has to be all or expected_f1"):
        load_detector(tmp_path / "m")


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_boxes_at_a_scale_are_those_of_the_resized_image(small_model, scenes, scale):
    folder, net = small_model
    image = scenes[0]
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(normalise(image, 1.0, 99.0), None, fx=scale, fy=scale, interpolation=interpolation)
    with torch.inference_mode():
        expected = net([torch.from_numpy(resized)[None]])[0]
    detector = load_detector(folder)
    (other,) = detector.detect([image], scale=scale)
    assert detector.detect([image], scale=1.0)[0].equals(detector.detect([image])[0])
    assert len(other) == len(expected["scores"]) > 0
    factors = np.array([image.shape[1] / resized.shape[1], image.shape[0] / resized.shape[0]] * 2)
    # equal scores come in any order
    rows = np.column_stack([expected["boxes"].numpy() * factors, expected["scores"].numpy()])
    same_order = [values[np.lexsort(values.T.round(1))] for values in (rows, other[[*BOX, "score"]].to_numpy())]
    np.testing.assert_allclose(*same_order, atol=2e-3)
    inside = other[(other["x1"] - other["x0"] > 8) & (other["y1"] - other["y0"] > 8)]
    assert (inside["area_px"] <= (inside["x1"] - inside["x0"] + 2) * (inside["y1"] - inside["y0"] + 2)).all()
