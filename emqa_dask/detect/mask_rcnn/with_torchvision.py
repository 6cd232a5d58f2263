"""The torchvision back end: networks.build() with the weights of a model directory."""

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from emqa_dask import networks
from emqa_dask.detect.mask_rcnn.detector_card import WEIGHTS, DetectorCard
from emqa_dask.detect.mask_rcnn.device_masks import find_runs_as_torchvision
from emqa_dask.detect.mask_rcnn.embedding import pool_maps
from emqa_dask.detect.mask_rcnn.masks import paste_as_torchvision
from emqa_dask.detect.mask_rcnn.network import Network, Predictions, autocast
from emqa_dask.detect.mask_rcnn.speed import apply_in_groups, fold_batch_norms, make_planar, replace_by_products

if TYPE_CHECKING:
    import torch
    from torch import nn


def load(model_card: DetectorCard, device: str, precision: str) -> Network:
    """The network of a torchvision model directory on `device`, ready to run.

    It gives what the plain torchvision model gives for the same normalised image, up to rounding; masks are not pasted
    into images. Raises ValueError where the weights are of another architecture than the card's.
    """
    import torch
    from torchvision.models.detection.transform import resize_boxes

    net = _prepare_network(model_card, device)
    full = networks.complete_architecture(model_card.architecture)
    channels = len(full["image_mean"])

    def predict_objects(images: list[np.ndarray]) -> list[Predictions]:
        return predict(images, net.roi_heads, has_margins=True)

    def predict_boxes(images: list[np.ndarray]) -> list[Predictions]:
        return predict(images, partial(_find_boxes, net.roi_heads), has_margins=False)

    @torch.inference_mode()
    def predict(images: list[np.ndarray], find_objects: Callable, has_margins: bool) -> list[Predictions]:
        shape = images[0].shape
        batch = torch.from_numpy(np.stack(images)[:, None]).to(device).expand(-1, channels, -1, -1)
        with autocast(device, precision):
            inputs, _ = net.transform(list(batch))
            inputs.tensors = inputs.tensors.contiguous(memory_format=torch.channels_last)
            maps = net.backbone.body(inputs.tensors)
            features = net.backbone.fpn(maps)
        # Anchors and proposals take the precision of the maps: 16 bits would round boxes to 1 px at 1024 px.
        features = {level: values.float() for level, values in features.items()}
        proposals, _ = net.rpn(inputs, features)
        features = {level: make_planar(values) for level, values in features.items()}
        results, _ = find_objects(features, proposals, inputs.image_sizes)
        margins = [None] * len(results)
        if has_margins:
            margins = _compute_class_margins(net.roi_heads, features, results, inputs.image_sizes)
        embeddings = pool_maps(list(maps.values()), inputs.image_sizes[0], inputs.tensors.shape[-2:])
        return [
            Predictions(
                resize_boxes(result["boxes"].float(), size, shape).cpu(),
                result["scores"].float().cpu(),
                result["labels"].cpu() - 1,
                result["masks"][:, 0].float(),
                embedding,
                image_margins,
            )
            for result, size, embedding, image_margins in zip(results, inputs.image_sizes, embeddings, margins)
        ]

    def compute_network_shape(shape: tuple[int, int]) -> tuple[int, int]:
        if not full["min_size"]:
            return shape
        factor = min(full["min_size"] / min(shape), (full["max_size"] or math.inf) / max(shape))
        return tuple(math.floor(n * factor) for n in shape)

    find_runs = None if device == "cpu" else find_runs_as_torchvision
    return Network(predict_objects, paste_as_torchvision, compute_network_shape, predict_boxes, find_runs)


def _prepare_network(model_card: DetectorCard, device: str) -> "nn.Module":
    """The network with its weights on `device`, its norms folded, and on a CPU its layers in their faster forms."""
    import torch
    from torch import nn

    net = networks.build_detector(model_card.architecture)
    networks.load_weights(net, model_card.directory / WEIGHTS)
    fold_batch_norms(net.eval().requires_grad_(False))
    if device == "cpu":
        replace_by_products(net)
        heads = net.roi_heads
        heads.mask_head.forward = apply_in_groups(nn.Sequential(*heads.mask_head, *heads.mask_predictor))
        heads.mask_predictor = nn.Identity()
    return net.to(device, memory_format=torch.channels_last)


def _compute_class_margins(
    heads: "torch.nn.Module", features: dict, results: list[dict], image_sizes: list
) -> "list[torch.Tensor]":
    """For each image the probabilities (n,) of its objects' classes less those of the second class, on the CPU.

    They are those of the final boxes, which the box head looks at once more. With one class it is its probability.
    """
    import torch

    sizes = [len(result["labels"]) for result in results]
    labels = torch.cat([result["labels"] for result in results]).cpu()
    if sum(sizes) == 0:
        return list(torch.zeros(0).split(sizes))
    pooled = heads.box_roi_pool(features, [result["boxes"] for result in results], image_sizes)
    logits, _ = heads.box_predictor(heads.box_head(pooled))
    probabilities = logits.float().softmax(dim=1).cpu()
    own = probabilities.gather(1, labels[:, None])[:, 0]
    probabilities[:, 0] = 0.0  # the background is no class of objects
    probabilities.scatter_(1, labels[:, None], 0.0)
    return list((own - probabilities.amax(dim=1)).split(sizes))


def _find_boxes(heads: "torch.nn.Module", features: dict, proposals: list, image_sizes: list) -> tuple[list, dict]:
    """What RoIHeads give in evaluation, with empty masks: the mask head takes as long as the box head."""
    pooled = heads.box_roi_pool(features, proposals, image_sizes)
    logits, shifts = heads.box_predictor(heads.box_head(pooled))
    boxes, scores, labels = heads.postprocess_detections(logits, shifts, proposals, image_sizes)
    no_masks = [values.new_zeros((len(values), 1, 0, 0)) for values in scores]
    columns = zip(boxes, scores, labels, no_masks, strict=True)
    return [dict(zip(("boxes", "scores", "labels", "masks"), values)) for values in columns], {}
