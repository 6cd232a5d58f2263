"""Networks built from a card: their size, their input, and weights that fit or are refused by name."""

import pytest
import torch
import torchvision

from emqa_dask import networks
from emqa_dask.train.detector import ARCHITECTURE

TINY = {
    "backbone": "resnet18",
    "fpn_channels": 8,
    "n_classes": 1,
    "anchor_sizes": [8, 16, 32, 64, 128],
    "box_channels": 16,
    "mask_channels": [8, 8],
}


def predictions(net, *shape):
    torch.manual_seed(1)
    with torch.inference_mode():
        return net([torch.rand(1, *shape)])[0]


def test_the_architecture_of_the_bundled_detector_has_its_parameters():
    net = networks.build_detector(ARCHITECTURE)
    assert sum(p.numel() for p in net.parameters()) == 12_454_250
    assert not net.training


def test_weights_go_round_and_give_the_same_detections(tmp_path):
    torch.manual_seed(3)
    first = networks.build_detector(TINY)
    second = networks.build_detector(TINY)
    networks.save_weights(first, tmp_path / "w.safetensors")
    networks.load_weights(second, tmp_path / "w.safetensors")
    one = predictions(first, 70, 90)
    other = predictions(second, 70, 90)
    assert len(one["boxes"]) > 0
    assert all(torch.equal(one[name], other[name]) for name in one)
    networks.save_weights(first, tmp_path / "half.safetensors", is_half_precision=True)
    networks.load_weights(second, tmp_path / "half.safetensors")
    sizes = [(tmp_path / name).stat().st_size for name in ("w.safetensors", "half.safetensors")]
    assert sizes[1] < 0.55 * sizes[0]
    for name, tensor in first.state_dict().items():
        assert second.state_dict()[name].dtype == tensor.dtype
        torch.testing.assert_close(second.state_dict()[name], tensor, rtol=1e-3, atol=1e-6)


def test_weights_of_another_architecture_are_refused_by_name(tmp_path):
    networks.save_weights(networks.build_detector({**TINY, "fpn_channels": 16}), tmp_path / "w.safetensors")
    net = networks.build_detector(TINY)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(ValueError, match=r"backbone\.fpn\.inner_blocks\.0\.0\.weight \(16, 64, 1, 1\), not \(8, 64"):
        networks.load_weights(net, tmp_path / "w.safetensors")
    networks.save_weights(networks.build_detector({**TINY, "backbone": "resnet34"}), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"unexpected \(backbone\.body\.layer1\.2"):
        networks.load_weights(net, tmp_path / "w.safetensors")
    networks.save_weights(networks.build_detector({**TINY, "mask_channels": [8]}), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"2 missing \(roi_heads\.mask_head\.1"):
        networks.load_weights(net, tmp_path / "w.safetensors")
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_an_image_keeps_its_size_unless_the_card_scales_it():
    for extra, size in (({}, (70, 90)), ({"min_size": 140}, (140, 180)), ({"min_size": 140, "max_size": 90}, (70, 90))):
        net = networks.build_detector({**TINY, **extra})
        batch, _ = net.transform([torch.rand(1, 70, 90)])
        assert batch.image_sizes == [size]
        batch, _ = net.train().transform([torch.rand(1, 70, 90)])
        assert batch.image_sizes == [(70, 90)]


def test_a_grey_image_feeds_networks_of_one_and_three_channels():
    for n in (1, 3):
        net = networks.build_detector({**TINY, "image_mean": [0.5] * n, "image_std": [0.25] * n})
        assert net.backbone.body.conv1.in_channels == n
        assert predictions(net, 64, 64)["boxes"].shape[1] == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"backbone": "vgg16"}, "vgg16"),
        ({"n_classes": 0}, "n_classes is 0"),
        ({"anchor_sizes": [8, 16]}, "2 levels"),
        ({"anchor_sizes": [[8, 11], 16, 32, 64, 128]}, "as many sizes"),
        ({"image_mean": [0.5, 0.5]}, "image_mean"),
        ({"anchors": 3}, "anchors"),
    ],
)
def test_a_wrong_architecture_is_named(changes, said):
    with pytest.raises(ValueError, match=said):
        networks.build_detector({**TINY, **changes})


def test_a_missing_key_is_named():
    with pytest.raises(ValueError, match="backbone"):
        networks.build_detector({key: value for key, value in TINY.items() if key != "backbone"})


def test_centred_scores_keep_their_order_and_move_the_threshold(tmp_path):
    """With a softmax over background and one class, odds are divided by those of the threshold."""
    torch.manual_seed(0)
    net = networks.build_detector(TINY)
    networks.save_weights(net, tmp_path / "a")
    networks.centre_scores(tmp_path / "a", tmp_path / "b", 0.95)
    features = torch.randn(50, 16)
    with torch.no_grad():
        before = net.roi_heads.box_predictor.cls_score(features).softmax(-1)[:, 1]
        networks.load_weights(net, tmp_path / "b")
        after = net.roi_heads.box_predictor.cls_score(features).softmax(-1)[:, 1]
    torch.testing.assert_close(after / (1 - after), before / (1 - before) / 19, rtol=1e-4, atol=0)
    with pytest.raises(ValueError, match="threshold is 1"):
        networks.centre_scores(tmp_path / "a", tmp_path / "b", 1)


def test_suppression_across_classes_leaves_one_class_for_an_object():
    torch.manual_seed(3)
    architecture = {**TINY, "n_classes": 3, "score_floor": 0.0}
    per_class = networks.build_detector(architecture)
    across = networks.build_detector({**architecture, "nms_across_classes": True})
    across.load_state_dict(per_class.state_dict())
    before = predictions(per_class, 70, 90)
    after = predictions(across, 70, 90)
    overlaps = torchvision.ops.box_iou(after["boxes"], after["boxes"]).fill_diagonal_(0)
    assert float(overlaps.max()) <= 0.5 < float(torchvision.ops.box_iou(before["boxes"], before["boxes"]).triu(1).max())
    expected = torchvision.ops.nms(before["boxes"], before["scores"], 0.5)
    torch.testing.assert_close(after["boxes"], before["boxes"][expected])
    torch.testing.assert_close(after["scores"], before["scores"][expected])
