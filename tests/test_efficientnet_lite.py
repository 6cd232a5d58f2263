"""EfficientNet-Lite0 as a backbone: its published size, its strides, and the padding of TensorFlow."""

import pytest
import torch

from emqa_dask import networks
from emqa_dask.detect.mask_rcnn.speed import fold_batch_norms
from emqa_dask.efficientnet_lite import CHANNELS, EfficientNetLite0

# 4,652,008 as published, without the head: a convolution of 320 to 1280, its norm, and 1000 classes
PUBLISHED_PARAMETERS = 4_652_008 - (320 * 1280 + 2 * 1280) - (1280 * 1000 + 1000)
ARCHITECTURE = {
    "backbone": "efficientnet_lite0",
    "fpn_channels": 8,
    "n_classes": 3,
    "anchor_sizes": [8, 16, 32, 64, 128],
    "box_channels": 16,
    "mask_channels": [8],
}


def test_the_backbone_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in EfficientNetLite0(3).parameters()) == PUBLISHED_PARAMETERS


@pytest.mark.parametrize("shape", [(64, 96), (128, 32)])
def test_maps_have_strides_of_4_to_32(shape):
    maps = EfficientNetLite0().eval()(torch.zeros(1, 1, *shape))
    for k, n_channels in enumerate(CHANNELS):
        stride = 2 ** (k + 2)
        assert maps[str(k)].shape == (1, n_channels, shape[0] // stride, shape[1] // stride)


def test_a_stride_of_two_pads_as_tensorflow():
    net = EfficientNetLite0().eval()
    convolution = net.stem[1]
    image = torch.rand(1, 1, 8, 8)
    padded = torch.zeros(1, 1, 9, 9)
    padded[..., :8, :8] = image  # "SAME" of an even size and a kernel of 3: one row below, one column to the right
    expected = torch.nn.functional.conv2d(padded, convolution.weight, stride=2)
    torch.testing.assert_close(net.stem[:2](image), expected)


def test_folded_norms_change_detections_by_rounding_alone():
    torch.manual_seed(0)
    net = networks.build_detector(ARCHITECTURE)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    image = torch.rand(1, 96, 128)
    with torch.inference_mode():
        plain = net.backbone(image[None])
        n_folded = fold_batch_norms(net)
        folded = net.backbone(image[None])
    assert n_folded == 48  # the stem, 2 of the first block, which has no expansion, and 3 of each of the 15 others
    for level, values in plain.items():
        torch.testing.assert_close(folded[level], values, rtol=1e-4, atol=1e-4)
