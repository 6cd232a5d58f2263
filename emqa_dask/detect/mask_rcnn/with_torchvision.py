"""The torchvision back end: networks.build() with the weights of a model directory."""

import math

import numpy as np

from emqa_dask import networks
from emqa_dask.detect.mask_rcnn.detector_card import WEIGHTS, DetectorCard
from emqa_dask.detect.mask_rcnn.embedding import pool_maps
from emqa_dask.detect.mask_rcnn.masks import paste_as_torchvision
from emqa_dask.detect.mask_rcnn.network import Network, Predictions, autocast
from emqa_dask.detect.mask_rcnn.speed import apply_in_groups, fold_batch_norms, make_planar, replace_by_products


def load(model_card: DetectorCard, device: str, precision: str) -> Network:
    """The network of a torchvision model directory on `device`, ready to run.

    It gives what the plain torchvision model gives for the same normalised image, up to rounding; masks are not pasted
    into images. Raises ValueError where the weights are of another architecture than the card's.
    """
    import torch
    from torch import nn
    from torchvision.models.detection.transform import resize_boxes

    net = networks.build_detector(model_card.architecture)
    networks.load_weights(net, model_card.directory / WEIGHTS)
    fold_batch_norms(net.eval().requires_grad_(False))
    if device == "cpu":
        replace_by_products(net)
        heads = net.roi_heads
        heads.mask_head.forward = apply_in_groups(nn.Sequential(*heads.mask_head, *heads.mask_predictor))
        heads.mask_predictor = nn.Identity()
    net.to(device, memory_format=torch.channels_last)
    full = networks.complete_architecture(model_card.architecture)
    channels = len(full["image_mean"])

    @torch.inference_mode()
    def predict_objects(images: list[np.ndarray]) -> list[Predictions]:
        shape = images[0].shape
        batch = torch.from_numpy(np.stack(images)[:, None]).to(device).expand(-1, channels, -1, -1)
        with autocast(device, precision):
            inputs, _ = net.transform(list(batch))
            inputs.tensors = inputs.tensors.contiguous(memory_format=torch.channels_last)
            maps = net.backbone.body(inputs.tensors)
            features = net.backbone.fpn(maps)
            proposals, _ = net.rpn(inputs, features)
            features = {level: make_planar(values) for level, values in features.items()}
            results, _ = net.roi_heads(features, proposals, inputs.image_sizes)
        embeddings = pool_maps(list(maps.values()), inputs.image_sizes[0], inputs.tensors.shape[-2:])
        return [
            Predictions(
                resize_boxes(result["boxes"].float(), size, shape).cpu(),
                result["scores"].float().cpu(),
                result["labels"].cpu() - 1,
                result["masks"][:, 0].float().cpu(),
                embedding,
            )
            for result, size, embedding in zip(results, inputs.image_sizes, embeddings)
        ]

    def compute_network_shape(shape: tuple[int, int]) -> tuple[int, int]:
        if not full["min_size"]:
            return shape
        factor = min(full["min_size"] / min(shape), (full["max_size"] or math.inf) / max(shape))
        return tuple(math.floor(n * factor) for n in shape)

    return Network(predict_objects, paste_as_torchvision, compute_network_shape)
