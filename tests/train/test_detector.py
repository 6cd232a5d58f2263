"""Training: it resumes to the same weights, leaves a frozen backbone alone, and writes all or nothing."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from emqa_dask import models
from emqa_dask.train import detector, scores
from emqa_dask.train.schedules import DetectorSchedule
from tests.train.conftest import FEW, silent

torch.set_num_threads(1)


@pytest.fixture
def short(disc_set, plain, tmp_path):
    """Trains a few steps on four images."""
    file, folder, _ = disc_set(4)

    def run(out="model", say=silent, **more):
        changes = {"n_steps": 4, "validation_interval": 2, **more}
        if "start" in changes:
            changes["architecture"] = None
        return detector.train_detector(
            [(file, folder)], tmp_path / out, replace(FEW, **changes), normalise=plain, say=say
        )

    return run


def test_a_resumed_training_ends_at_the_same_weights(short, tmp_path):
    short("whole", validation_interval=4)

    def stop(line):
        if "validation" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        short("halves", validation_interval=3, checkpoint_minutes=0, say=stop)
    assert not (tmp_path / "halves").exists()
    assert (tmp_path / "halves.checkpoint" / "state.json").is_file()
    short("halves", validation_interval=4, resume=True)
    one, other = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "halves"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    tables = [(tmp_path / name / "training.csv").read_text().splitlines() for name in ("whole", "halves")]
    losses = [[line.split(",")[:7] for line in table] for table in tables]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 5


def test_nothing_to_resume_from_is_said(short):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        short(resume=True)


def test_a_frozen_backbone_stays_and_the_rest_learns(short, tmp_path):
    short("first")
    short("frozen", start=tmp_path / "first", is_backbone_frozen=True)
    short("free", start=tmp_path / "first")
    first, frozen, free = (load_file(tmp_path / n / "weights.safetensors") for n in ("first", "frozen", "free"))
    body = [name for name in first if name.startswith("backbone.body.")]
    weights = [name for name in body if name.endswith("weight")]
    assert all(torch.equal(first[name], frozen[name]) for name in body)
    assert not any(torch.equal(first[name], free[name]) for name in weights)
    assert not torch.equal(first["rpn.head.cls_logits.weight"], frozen["rpn.head.cls_logits.weight"])
    running = [name for name in body if "running" in name]
    assert all(torch.equal(first[name], free[name]) for name in running)
    card = models.load_model_card(tmp_path / "frozen")
    assert card["training"]["frozen_backbone"] is True
    assert card["training"]["started_from_digest"] == models.digest_model_card(tmp_path / "first")


def test_other_classes_replace_the_last_layers_only(short, disc_set, plain, tmp_path):
    short("first")
    file, folder, content = disc_set(2, "rings")
    content["categories"] = [{"id": 7, "name": "ring"}, {"id": 8, "name": "disc"}]
    file.write_text(json.dumps(content))
    options = replace(FEW, n_steps=1, architecture=None, start=tmp_path / "first", is_backbone_frozen=True)
    detector.train_detector([(file, folder)], tmp_path / "two", options, normalise=plain, say=silent)
    two = load_file(tmp_path / "two" / "weights.safetensors")
    assert two["roi_heads.box_predictor.cls_score.weight"].shape[0] == 3
    assert models.load_model_card(tmp_path / "two")["classes"] == ["ring", "disc"]


def test_boxes_alone_are_said_on_the_card(disc_set, plain, tmp_path):
    file, folder, content = disc_set(2, masks=False)
    detector.train_detector([(file, folder)], tmp_path / "m", replace(FEW, n_steps=1), normalise=plain, say=silent)
    card = models.load_model_card(tmp_path / "m")
    assert card["training"]["masks_that_are_ellipses_of_boxes"] == len(content["annotations"])
    assert card["training"]["held_back"]


def test_a_failure_does_not_change_an_existing_model(short, disc_set, plain, tmp_path):
    short("model")
    before = {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()}
    file, folder, content = disc_set(2, "bad")
    content["images"][1]["height"] = 96
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] == 1]
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"2\.png: \(80, 80\) px, its set says \(96, 80\)"):
        detector.train_detector([(file, folder)], tmp_path / "model", FEW, normalise=plain, say=silent)
    (folder / "2.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"2\.png: OpenCV cannot read"):
        detector.train_detector([(file, folder)], tmp_path / "model", FEW, normalise=plain, say=silent)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        short("model", learning_rate=1e9, n_steps=20)
    assert {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()} == before


def test_a_start_of_another_family_is_refused(short, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    models.write_model_card(folder, {"name": "other", "task": "instance segmentation", "family": "yolo"})
    with pytest.raises(ValueError, match="only detectors of torchvision and detectron2 train here"):
        short(start=folder)


def test_the_rate_warms_up_and_falls():
    schedule = DetectorSchedule(n_steps=100, learning_rate=1.0, n_warm_up_steps=10)
    rates = np.array([schedule.compute_rate(step) for step in range(100)])
    assert (np.diff(rates[:10]) > 0).all()
    assert (np.diff(rates[10:]) < 0).all()
    assert rates.max() == 1
    assert rates[-1] < 0.02


def test_scores_of_perfect_and_of_no_detections():
    from pycocotools import mask as coco_mask

    pixels = np.ones((10, 12), bool)
    truth = scores.GroundTruth(np.zeros((64, 64), np.float32), [(5, 6, pixels), (30, 30, pixels)], [1, 1])
    rles = []
    for y, x, _ in truth.masks:
        whole = np.zeros((64, 64), np.uint8, order="F")
        whole[y : y + 10, x : x + 12] = 1
        rles.append(coco_mask.encode(whole))
    found = scores.Detections(scores.compute_true_boxes(truth.masks), np.array([0.9, 0.3]), np.array([1, 1]), rles)
    assert scores.count_matches([found], [truth], 0.5, 0.2).tolist() == [[2, 0, 0]]
    assert scores.count_matches([found], [truth], 0.5, 0.5).tolist() == [[1, 0, 1]]
    assert scores.select_threshold([found], [truth]) == 0.05
    assert scores.compute_mask_ap50([found], [truth]) == 1
    none = scores.Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64), [])
    assert scores.count_matches([none], [truth], 0.5, 0.2).tolist() == [[0, 0, 2]]
    assert scores.compute_mask_ap50([none], [truth]) == 0
    empty = truth._replace(masks=[], labels=[])
    assert scores.count_matches([found, none], [empty, empty], 0.5, 0.2).tolist() == [[0, 2, 0], [0, 0, 0]]
    assert np.isnan(scores.compute_mask_ap50([found], [empty]))
    assert scores.compute_f1(np.array([[2, 0, 0], [1, 0, 1], [0, 2, 0], [0, 0, 0]])) == pytest.approx([1, 2 / 3, 0, 1])
    assert scores.select_threshold([found, found], [truth._replace(masks=truth.masks[:1], labels=[1])] * 2) == 0.35
