"""Detectors as torch networks: build() from a model card's [architecture], and safetensors in and out, strictly."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

BACKBONES = ("resnet18", "resnet34", "resnet50", "efficientnet_lite0")
# Values of keys that a card may omit. `n_classes` (foreground classes), `backbone` and `anchor_sizes` are required.
DEFAULTS = {
    "fpn_channels": 64,
    "aspect_ratios": [0.5, 1.0, 2.0],
    "min_size": 0,  # px of the shorter side after scaling; 0: images keep their size
    "max_size": 0,  # px that the longer side may reach; 0: no limit
    "image_mean": [0.5],  # one number: a grey network; three: the grey channel is repeated
    "image_std": [0.25],
    "box_channels": 256,  # of the two fully connected layers of the box head
    "mask_channels": [64, 64, 64, 64],
    "score_floor": 0.05,
    "nms_iou": 0.5,
    "nms_across_classes": False,  # True: an object has one class; the boxes of others that overlap it are left out
    "max_detections": 1000,
    "rpn_pre_nms_top_n_train": 1000,
    "rpn_pre_nms_top_n_test": 1000,
    "rpn_post_nms_top_n_train": 500,
    "rpn_post_nms_top_n_test": 2000,
    "rpn_nms_thresh": 0.7,
    "rpn_fg_iou_thresh": 0.6,
    "rpn_bg_iou_thresh": 0.3,
    "rpn_batch_size_per_image": 256,
    "rpn_score_thresh": 0.0,
    "box_fg_iou_thresh": 0.5,
    "box_bg_iou_thresh": 0.5,
    "box_batch_size_per_image": 128,
    "box_positive_fraction": 0.25,
}
REQUIRED_KEYS = ("backbone", "n_classes", "anchor_sizes")
N_PYRAMID_LEVELS = 5  # four stages of the backbone and one more, pooled: strides 4, 8, 16, 32, 64 px


def complete_architecture(architecture: Mapping) -> dict:
    """`architecture` with every default filled in.

    Raises ValueError, naming the key, for one that is missing or unknown, another backbone, a number of anchor sizes
    that is not that of the pyramid's levels, and means and deviations that do not belong together.
    """
    unknown = sorted(set(architecture) - set(DEFAULTS) - set(REQUIRED_KEYS))
    missing = [key for key in REQUIRED_KEYS if key not in architecture]
    if unknown or missing:
        raise ValueError(f"[architecture]: missing {missing}, unknown {unknown}; known: {[*REQUIRED_KEYS, *DEFAULTS]}")
    full = {**DEFAULTS, **architecture}
    if full["backbone"] not in BACKBONES:
        raise ValueError(f"[architecture] backbone is {full['backbone']!r}: it is one of {', '.join(BACKBONES)}")
    if full["n_classes"] < 1:
        raise ValueError(f"[architecture] n_classes is {full['n_classes']}: the classes of objects, at least 1")
    if len(full["anchor_sizes"]) != N_PYRAMID_LEVELS:
        raise ValueError(
            f"[architecture] anchor_sizes has {len(full['anchor_sizes'])} levels, the pyramid {N_PYRAMID_LEVELS}"
        )
    if len({sum(1 for _ in _list_anchor_sizes(level)) for level in full["anchor_sizes"]}) != 1:
        raise ValueError("[architecture] anchor_sizes: every level needs as many sizes as the others")
    if len(full["image_mean"]) not in (1, 3) or len(full["image_std"]) != len(full["image_mean"]):
        raise ValueError("[architecture] image_mean and image_std hold one number each, or three each")
    return full


def build_detector(architecture: Mapping) -> "torch.nn.Module":
    """A torchvision MaskRCNN of random weights, in evaluation mode, from a card's table `[architecture]`.

    Keys: see `DEFAULTS`; `anchor_sizes` has an entry (px, or a list of px) for each of the five pyramid levels. Images
    go in as float32 (1, h, w), grey, 0 to 1 at the card's percentiles. In training mode crops are never scaled.
    Errors: as `complete_architecture`.
    """
    full = complete_architecture(architecture)
    from torchvision.models import detection
    from torchvision.models.detection.faster_rcnn import TwoMLPHead
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

    channels = full["fpn_channels"]
    backbone = _build_backbone(full["backbone"], len(full["image_mean"]), channels)
    sizes = tuple(tuple(_list_anchor_sizes(level)) for level in full["anchor_sizes"])
    anchors = detection.anchor_utils.AnchorGenerator(sizes, (tuple(full["aspect_ratios"]),) * N_PYRAMID_LEVELS)
    options = {key: full[key] for key in full if key.startswith(("rpn_", "box_")) and key != "box_channels"}
    net = detection.MaskRCNN(
        backbone,
        rpn_anchor_generator=anchors,
        box_head=TwoMLPHead(channels * 7**2, full["box_channels"]),
        box_predictor=detection.faster_rcnn.FastRCNNPredictor(full["box_channels"], full["n_classes"] + 1),
        mask_head=MaskRCNNHeads(channels, full["mask_channels"], 1),
        mask_predictor=MaskRCNNPredictor(full["mask_channels"][-1], full["mask_channels"][-1], full["n_classes"] + 1),
        image_mean=full["image_mean"],
        image_std=full["image_std"],
        min_size=full["min_size"] or 1,
        max_size=full["max_size"] or math.inf,
        box_score_thresh=full["score_floor"],
        box_nms_thresh=full["nms_iou"],
        box_detections_per_img=full["max_detections"],
        _skip_resize=True,  # in training: crops come at the scale of inference
        **options,
    )
    if not full["min_size"]:
        net.transform.resize = _keep_size
    if full["nms_across_classes"]:
        net.roi_heads.postprocess_detections = partial(
            _suppress_across_classes, net.roi_heads.postprocess_detections, full["nms_iou"]
        )
    return net.eval()


def _suppress_across_classes(postprocess: Callable, iou: float, *args: Any) -> tuple[list, list, list]:
    """Boxes, scores and labels of torchvision's `postprocess`, after non-maximum suppression that ignores classes."""
    from torchvision.ops import nms

    results_by_kind: tuple[list, list, list] = ([], [], [])
    for values in zip(*postprocess(*args)):
        indices = nms(values[0], values[1], iou)
        for results, tensor in zip(results_by_kind, values):
            results.append(tensor[indices])
    return results_by_kind


def _build_backbone(name: str, n_inputs: int, fpn_channels: int) -> "nn.Module":
    """The backbone `name` for images of `n_inputs` channels, with its feature pyramid."""
    from torch import nn
    from torchvision.models import resnet
    from torchvision.models.detection.backbone_utils import BackboneWithFPN

    if name == "efficientnet_lite0":
        from emqa_dask import efficientnet_lite

        body = efficientnet_lite.EfficientNetLite0(n_inputs)
        backbone = BackboneWithFPN(body, {}, list(efficientnet_lite.CHANNELS), fpn_channels)
        backbone.body = body  # it returns its maps itself
        return backbone
    body = getattr(resnet, name)(weights=None)
    if n_inputs == 1:
        body.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(body.conv1.weight, mode="fan_out", nonlinearity="relu")
    width = body.inplanes // 8
    return BackboneWithFPN(
        body, {f"layer{i + 1}": str(i) for i in range(4)}, [width * 2**i for i in range(4)], fpn_channels
    )


def _list_anchor_sizes(level: int | list[int] | tuple[int, ...]) -> list[int]:
    return list(level) if isinstance(level, list | tuple) else [level]


def _keep_size(image: "torch.Tensor", target: dict | None = None) -> tuple["torch.Tensor", dict | None]:
    return image, target


def save_weights(net: "torch.nn.Module", path: Path, *, is_half_precision: bool = False) -> None:
    """Every parameter and buffer of `net` as safetensors; floats in 16 bits with `is_half_precision`."""
    import torch
    from safetensors.torch import save

    def convert(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.detach().cpu().contiguous()
        return tensor.half() if is_half_precision and tensor.dtype == torch.float32 else tensor

    # save_file() would leave it readable by its owner only
    path.write_bytes(save({name: convert(tensor) for name, tensor in net.state_dict().items()}))


def centre_scores(source: Path, target: Path, threshold: float, *, background: int = 0) -> None:
    """Copies the weights of `source` to `target` with a higher background: a score of `threshold` becomes 0.5.

    The log-odds of every object against class `background` fall by those of `threshold`; the order of scores within a
    class stays. A network trained on crowded crops is overconfident: with a best threshold of 0.95 only the scores
    between it and 1 would be left.
    """
    import torch
    from safetensors.torch import load_file, save

    if not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold}: it has to be between 0 and 1")
    tensors = load_file(source)
    bias = tensors["roi_heads.box_predictor.cls_score.bias"]
    tensors["roi_heads.box_predictor.cls_score.bias"] = bias.clone()
    tensors["roi_heads.box_predictor.cls_score.bias"][background] += torch.logit(torch.tensor(threshold)).to(bias.dtype)
    target.write_bytes(save(tensors))


def load_weights(net: "torch.nn.Module", path: Path, *, skip: tuple[str, ...] = ()) -> None:
    """Fills `net` from safetensors; floats of 16 bits become those of the network.

    Strict: raises ValueError with the first tensors that are missing, unexpected or of another shape, and then leaves
    the network as it was. Tensors whose names start with one of `skip` are neither read nor missed.
    """
    from safetensors.torch import load_file

    stored_tensors = {
        name: tensor for name, tensor in load_file(str(path)).items() if not name.startswith(skip or ("\0",))
    }
    network_state = {name: tensor for name, tensor in net.state_dict().items() if not name.startswith(skip or ("\0",))}
    faults = {
        "missing": [name for name in network_state if name not in stored_tensors],
        "unexpected": [name for name in stored_tensors if name not in network_state],
        "of another shape": [
            f"{name} {tuple(stored_tensors[name].shape)}, not {tuple(network_state[name].shape)}"
            for name in network_state
            if name in stored_tensors and network_state[name].shape != stored_tensors[name].shape
        ],
    }
    fault_texts = [
        f"{len(names)} {fault_kind} ({', '.join(names[:3])})" for fault_kind, names in faults.items() if names
    ]
    if fault_texts:
        raise ValueError(f"{path}: these weights are of another architecture than the card's: {'; '.join(fault_texts)}")
    net.load_state_dict(
        {**net.state_dict(), **{name: stored_tensors[name].to(network_state[name].dtype) for name in network_state}}
    )
