"""A detectron2 model trains by detectron2's trainer on our crops, and its back end loads what comes out."""

import warnings
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from emqa_dask import detectron2_models, models, networks
from emqa_dask.detect.mask_rcnn import convert, load_detector
from emqa_dask.detect.normalise import normalise
from emqa_dask.train import detector, detectron2_fit
from tests.train.conftest import FEW, silent

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore")  # of detectron2

CONFIG = {
    "MODEL": {
        "META_ARCHITECTURE": "GeneralizedRCNN",
        "MASK_ON": True,
        "PIXEL_MEAN": [100.0, 100.0, 100.0],
        "PIXEL_STD": [60.0, 60.0, 60.0],
        "BACKBONE": {"NAME": "build_resnet_fpn_backbone", "FREEZE_AT": 0},
        "RESNETS": {
            "DEPTH": 18,
            "RES2_OUT_CHANNELS": 64,
            "OUT_FEATURES": ["res2", "res3", "res4", "res5"],
            "NORM": "BN",
        },
        "FPN": {"IN_FEATURES": ["res2", "res3", "res4", "res5"], "OUT_CHANNELS": 16},
        "ANCHOR_GENERATOR": {"SIZES": [[12], [20], [32], [64], [128]], "ASPECT_RATIOS": [[1.0]]},
        "RPN": {"IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"], "POST_NMS_TOPK_TRAIN": 100, "POST_NMS_TOPK_TEST": 60},
        "ROI_HEADS": {
            "NAME": "StandardROIHeads",
            "IN_FEATURES": ["p2", "p3", "p4", "p5"],
            "NUM_CLASSES": 2,
            "BATCH_SIZE_PER_IMAGE": 64,
        },
        "ROI_BOX_HEAD": {"NAME": "FastRCNNConvFCHead", "NUM_FC": 1, "FC_DIM": 32, "POOLER_RESOLUTION": 5},
        "ROI_MASK_HEAD": {
            "NAME": "MaskRCNNConvUpsampleHead",
            "NUM_CONV": 1,
            "CONV_DIM": 16,
            "POOLER_RESOLUTION": 8,
        },
    },
    "INPUT": {"MIN_SIZE_TEST": 0, "MAX_SIZE_TEST": 0},
}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A model directory of a small detectron2 network with random weights and two classes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("detectron2", reason="detectron2 is not installed (make install-dev)")
        folder = tmp_path_factory.mktemp("detectron2")
        (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
        torch.manual_seed(3)
        model, _ = detectron2_models.build(folder / "config.yaml", 0.05, 50, "cpu")
        torch.save(model.state_dict(), folder / "model.pth")
        limits = {"architecture": {"score_floor": 0.05, "max_detections": 50}}
        convert.import_detectron2(
            folder / "config.yaml",
            folder / "model.pth",
            folder / "start",
            name="two",
            classes=["a", "b"],
            model_card=limits,
        )
    return folder / "start"


@pytest.fixture
def train(start, disc_set, plain, tmp_path):
    """Trains `start` on images of discs, one class."""
    file, folder, _ = disc_set(4)

    def run(out="model", say=silent, **changes):
        changes = {"start": start, "architecture": None, "n_steps": 4, "validation_interval": 2} | changes
        options = replace(FEW, **changes)
        return detector.train_detector([(file, folder)], tmp_path / out, options, normalise=plain, say=say)

    return run


def test_training_learns_and_the_back_end_agrees_with_detectron2(train, disc_set, tmp_path):
    train(n_steps=40, validation_interval=40, learning_rate=2e-3)
    rows = (tmp_path / "model" / "training.csv").read_text().splitlines()
    losses = [float(row.split(",")[1]) for row in rows[1:]]
    assert len(losses) == 40
    assert np.median(losses[-10:]) < 0.75 * np.median(losses[:10])
    card = models.load_model_card(tmp_path / "model")
    assert (card["family"], card["classes"]) == ("detectron2", ["disc"])
    assert card["training"]["started_from"] == "two"
    _, folder, _ = disc_set(2, name="new", seed=77)
    images = [cv2.imread(str(folder / f"{k}.png"), cv2.IMREAD_UNCHANGED) for k in (1, 2)]
    model, cfg = detectron2_models.build(tmp_path / "model" / "config.yaml", 0.05, 50, "cpu")
    networks.load_weights(model, tmp_path / "model" / "weights.safetensors")
    for image, found in zip(images, load_detector(tmp_path / "model").detect(images), strict=True):
        expected = detectron2_fit.detect_objects(model, normalise(image, 1.0, 99.0), cfg)
        assert len(found) == len(expected.scores) > 0
        np.testing.assert_allclose(found["score"], expected.scores, atol=1e-4)
        np.testing.assert_allclose(found[["y0", "x0", "y1", "x1"]], expected.boxes, atol=1e-3)


def test_a_resumed_training_ends_at_the_same_weights(train, tmp_path):
    train("whole", validation_interval=4)

    def stop(line):
        if "validation" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("halves", validation_interval=3, checkpoint_minutes=0, say=stop)
    train("halves", validation_interval=4, resume=True)
    one, other = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "halves"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    train("whole", n_steps=1)  # replaces the folder that a training wrote


def test_a_frozen_backbone_and_its_statistics_stay(train, start, tmp_path):
    train(is_backbone_frozen=True)
    before, after = (load_file(folder / "weights.safetensors") for folder in (start, tmp_path / "model"))
    is_equal = {
        name: torch.equal(before[name], after[name]) for name in before if before[name].shape == after[name].shape
    }
    assert all(is_equal[name] for name in is_equal if name.startswith("backbone.bottom_up"))
    assert not any(is_equal[name] for name in is_equal if name.startswith("roi_heads.mask_head.mask_fcn"))


def test_bfloat16_needs_cuda_and_a_high_rate_is_named(train, tmp_path):
    with pytest.raises(ValueError, match="bfloat16 on CUDA devices only"):
        train(precision="bfloat16")
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        train(learning_rate=1e9, n_steps=20)
    assert not (tmp_path / "model").exists()
