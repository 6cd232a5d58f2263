"""Training learns: a few steps on a few images, and their objects are found."""

import csv
from dataclasses import replace

import torch

from emqa_dask import models, networks
from emqa_dask.train import coco, detector, detector_data, detector_fit, scores
from tests.train.conftest import FEW

torch.set_num_threads(1)


def test_a_few_steps_on_few_images_find_their_objects(disc_set, plain, tmp_path):
    file, folder, _ = disc_set(6)
    out = tmp_path / "model"
    said = []
    best = detector.train_detector(
        [(file, folder)],
        out,
        replace(FEW, n_steps=60, validation_interval=30, learning_rate=2e-3),
        normalise=plain,
        say=said.append,
    )
    with (out / "validation.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [row["step"] for row in rows] == ["30", "60"]
    assert best["image_f1_iou_0.5"] == max(float(row["image_f1_iou_0.5"]) for row in rows)
    card = models.load_model_card(out)
    assert card["measured"]["validation"]["image_f1_iou_0.5"] == best["image_f1_iou_0.5"]
    pictures, _ = coco.read_coco_sets([(file, folder)])
    truths = [
        scores.GroundTruth(plain(detector_data.read_grey_image(p.path), 1, 99), p.masks, p.labels) for p in pictures
    ]
    net = networks.build_detector(card["architecture"])
    before = scores.evaluate_network(net, truths)["image_f1_iou_0.5"]
    networks.load_weights(net, out / "weights.safetensors")
    after = scores.evaluate_network(net, truths)
    assert before < 0.2
    assert after["image_f1_iou_0.5"] > 0.5
    assert after["mask_ap50"] > 0.4
    assert any("min left" in line for line in said)
    assert not (tmp_path / "model.checkpoint").exists()


def test_boxes_stay_in_float32_when_the_backbone_is_in_bfloat16():
    torch.manual_seed(0)
    net = networks.build_detector(detector.ARCHITECTURE).train()
    proposals = []
    net.roi_heads.register_forward_pre_hook(lambda _, inputs: proposals.extend(inputs[1]))
    target = {
        "boxes": torch.tensor([[301.0, 260.0, 304.0, 290.0]]),  # 3 px wide: bfloat16 rounds x to 2 px there
        "labels": torch.ones(1, dtype=torch.int64),
        "masks": torch.zeros(1, 320, 320, dtype=torch.uint8),
    }
    losses = detector_fit.compute_losses(net, [torch.rand(1, 320, 320)], [target], "bfloat16")
    assert all(boxes.dtype == torch.float32 for boxes in proposals)
    assert all(torch.isfinite(loss) and loss.dtype == torch.float32 for loss in losses.values())
    assert target["boxes"][0, 0] == 301
