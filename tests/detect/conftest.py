"""Model directories of small networks with random weights, and images for them."""

import cv2
import numpy as np
import pytest

from emqa_dask import models, networks

SMALL = {
    "backbone": "resnet18",
    "n_classes": 2,
    "fpn_channels": 16,
    "box_channels": 32,
    "mask_channels": [16],
    "anchor_sizes": [8, 16, 32, 64, 128],
    "rpn_pre_nms_top_n_test": 100,
    "rpn_post_nms_top_n_test": 60,
}


def spread(net, seed=0):
    """`net` with random weights whose scores lie far apart, so that rounding reorders nothing; trained-like norms."""
    import torch

    torch.manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            if hasattr(module, "running_var") and module.running_var is not None:
                module.running_var.uniform_(0.5, 2.0)
                module.running_mean.normal_(0, 0.2)
                module.weight.uniform_(0.3, 0.9)
                module.bias.normal_(0, 0.2)
        for name, scale in (("cls_logits", 30.0), ("cls_score", 4.0), ("objectness_logits", 30.0)):
            for key, parameter in net.named_parameters():
                if f".{name}." in key and key.endswith("weight"):
                    parameter.mul_(scale)
    return net


def write_model(folder, architecture, seed=0, **card):
    """A torchvision model directory; the network that it was made of."""
    import torch

    torch.manual_seed(seed)
    net = spread(networks.build_detector(architecture), seed)
    folder.mkdir(parents=True)
    networks.save_weights(net, folder / "weights.safetensors")
    options = {"input": {"low_percentile": 1.0, "high_percentile": 99.0}, "classes": ["cavity", "void"]} | card
    about = {"name": "small", "task": "instance segmentation", "family": "torchvision", "licence": "MIT"}
    models.write_model_card(folder, about | options | {"architecture": architecture})
    return net


@pytest.fixture(scope="session")
def small_model(tmp_path_factory):
    """(model directory, the plain torchvision model)."""
    folder = tmp_path_factory.mktemp("models") / "small"
    return folder, write_model(folder, SMALL)


@pytest.fixture(scope="session")
def scenes():
    """Eight uint16 images of two sizes: smooth random fields."""
    rng = np.random.default_rng(5)
    fields = [cv2.GaussianBlur(rng.standard_normal(shape), (0, 0), 4) for shape in [(128, 160), (144, 128)] * 4]
    return [(2000 * field / field.std() + 20000).astype(np.uint16) for field in fields]
