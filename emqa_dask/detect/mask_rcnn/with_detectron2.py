"""The detectron2 back end: its own model from a config.yaml, with weights from safetensors."""

from typing import TYPE_CHECKING

import numpy as np

from emqa_dask import detectron2_models, networks
from emqa_dask.detect.mask_rcnn.detector_card import CONFIG, WEIGHTS, DetectorCard
from emqa_dask.detect.mask_rcnn.device_masks import find_runs_as_detectron2
from emqa_dask.detect.mask_rcnn.embedding import pool_maps
from emqa_dask.detect.mask_rcnn.masks import paste_as_detectron2
from emqa_dask.detect.mask_rcnn.network import Network, Predictions, autocast
from emqa_dask.detect.mask_rcnn.speed import apply_in_groups, fold_batch_norms, make_planar, replace_by_products

if TYPE_CHECKING:
    import torch


def load(model_card: DetectorCard, device: str, precision: str) -> Network:
    """The network of a detectron2 model directory on `device`, ready to run.

    It gives what detectron2's `DefaultPredictor` gives for the same image as 8-bit grey, up to rounding. Raises
    ImportError, saying how to install it, without detectron2; ValueError for a config that is not a Mask R-CNN's or
    not of the card's number of classes, and where the weights are of another architecture.
    """
    model, cfg = detectron2_models.build(
        model_card.directory / CONFIG, model_card.score_floor, model_card.max_detections, device
    )
    if len(model_card.classes) != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        raise ValueError(
            f"{model_card.directory / CONFIG}: NUM_CLASSES is {cfg.MODEL.ROI_HEADS.NUM_CLASSES}, "
            f"the card names {len(model_card.classes)} classes"
        )
    import torch
    from detectron2.data.transforms import ResizeShortestEdge

    networks.load_weights(model, model_card.directory / WEIGHTS)
    fold_batch_norms(model.eval().requires_grad_(False))
    if device == "cpu":
        replace_by_products(model)
        model.roi_heads.mask_head.layers = apply_in_groups(model.roi_heads.mask_head.layers)
    model.to(device, memory_format=torch.channels_last)
    shortest = cfg.INPUT.MIN_SIZE_TEST
    longest = cfg.INPUT.MAX_SIZE_TEST
    resize = detectron2_models.make_resize(cfg)
    bottom_up = getattr(model.backbone, "bottom_up", model.backbone)  # a backbone without a pyramid has none

    @torch.inference_mode()
    def predict_objects(images: list[np.ndarray]) -> list[Predictions]:
        height, width = images[0].shape
        inputs = [
            {"image": torch.from_numpy(detectron2_models.prepare_pixels(image, resize, len(cfg.MODEL.PIXEL_MEAN)))}
            for image in images
        ]
        with autocast(device, precision):
            batch = model.preprocess_image(inputs)
            maps: list[torch.Tensor] = []
            hook = bottom_up.register_forward_hook(lambda module, args, outputs: maps.extend(outputs.values()))
            features = model.backbone(batch.tensor)
            hook.remove()
            proposals, _ = model.proposal_generator(batch, features, None)
            features = {level: make_planar(values) for level, values in features.items()}
            results, _ = model.roi_heads(batch, features, proposals, None)
        embeddings = pool_maps(maps, batch.image_sizes[0], batch.tensor.shape[-2:])
        return [_convert_result(result, height, width, embedding) for result, embedding in zip(results, embeddings)]

    def compute_network_shape(shape: tuple[int, int]) -> tuple[int, int]:
        return ResizeShortestEdge.get_output_shape(*shape, shortest, longest) if shortest else shape

    find_runs = None if device == "cpu" else find_runs_as_detectron2
    return Network(predict_objects, paste_as_detectron2, compute_network_shape, find_runs=find_runs)


def _convert_result(result, height: int, width: int, embedding: "torch.Tensor") -> Predictions:
    """One image's results in the pixels of the image as it came; as detectron2's detector_postprocess()."""
    boxes = result.pred_boxes
    boxes.scale(width / result.image_size[1], height / result.image_size[0])
    boxes.clip((height, width))
    is_nonempty = boxes.nonempty()
    masks = result.pred_masks[:, 0] if len(boxes) else result.scores.new_zeros((0, 28, 28))
    return Predictions(
        boxes.tensor[is_nonempty].float().cpu(),
        result.scores[is_nonempty].float().cpu(),
        result.pred_classes[is_nonempty].cpu(),
        masks[is_nonempty].float(),
        embedding,
    )
