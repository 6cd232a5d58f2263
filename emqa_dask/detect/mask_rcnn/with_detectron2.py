"""The detectron2 back end: its own model from a config.yaml, with weights from safetensors."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emqa_dask import models, networks
from emqa_dask.detect.mask_rcnn.detector_card import CONFIG, WEIGHTS, DetectorCard
from emqa_dask.detect.mask_rcnn.device_masks import find_runs_as_detectron2
from emqa_dask.detect.mask_rcnn.embedding import pool_maps
from emqa_dask.detect.mask_rcnn.masks import paste_as_detectron2
from emqa_dask.detect.mask_rcnn.network import Network, Predictions, autocast
from emqa_dask.detect.mask_rcnn.speed import apply_in_groups, fold_batch_norms, make_planar, replace_by_products

if TYPE_CHECKING:
    import torch

INSTALL = (
    "this model needs detectron2, which is not installed, and has no wheels for this Python: "
    "pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'"
)


def load(model_card: DetectorCard, device: str, precision: str) -> Network:
    """The network of a detectron2 model directory on `device`, ready to run.

    It gives what detectron2's `DefaultPredictor` gives for the same image as 8-bit grey, up to rounding. Raises
    ImportError, saying how to install it, without detectron2; ValueError for a config that is not a Mask R-CNN's or
    not of the card's number of classes, and where the weights are of another architecture.
    """
    model, cfg = build(model_card.directory / CONFIG, model_card.score_floor, model_card.max_detections, device)
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
    resize = ResizeShortestEdge([shortest, shortest], longest)
    bottom_up = getattr(model.backbone, "bottom_up", model.backbone)  # a backbone without a pyramid has none

    @torch.inference_mode()
    def predict_objects(images: list[np.ndarray]) -> list[Predictions]:
        height, width = images[0].shape
        inputs = [
            {"image": torch.from_numpy(_prepare_pixels(image, resize, len(cfg.MODEL.PIXEL_MEAN)))} for image in images
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


def build(config: Path, score_floor: float, max_detections: int, device: str):
    """detectron2's model of random weights, in evaluation mode, and its config.

    Nothing in the file is run and nothing is fetched: it is plain YAML, complete in itself (no `_BASE_`). Raises
    ImportError without detectron2 and ValueError for a config that is none, not a Mask R-CNN's, or of which no network
    can be built.
    """
    CfgNode, cfg, build_model = _import_library()
    import yaml

    try:
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
        if not isinstance(settings, dict) or "_BASE_" in settings:
            raise ValueError("it has to be one table of settings, without _BASE_: `emqa import detector` writes such")
        cfg.merge_from_other_cfg(CfgNode(settings))
    except (yaml.YAMLError, KeyError, ValueError, AssertionError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{config}: not a detectron2 config: {error}") from error
    if cfg.MODEL.META_ARCHITECTURE != "GeneralizedRCNN" or not cfg.MODEL.MASK_ON:
        model_description = f"META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE}, MASK_ON {cfg.MODEL.MASK_ON}"
        raise ValueError(f"{config}: {model_description}: only a Mask R-CNN (GeneralizedRCNN, MASK_ON true) can be run")
    cfg.MODEL.DEVICE = device
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = score_floor
    cfg.TEST.DETECTIONS_PER_IMAGE = max_detections
    try:
        return build_model(cfg).eval(), cfg
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # detectron2 ends in errors of any kind over values that make no sense
        raise ValueError(f"{config}: no network can be built of it: {type(error).__name__} {error}") from error


def complete_config(config: Path, n_classes: int) -> str:
    """A detectron2 config with all that it builds on and every default, as YAML; for `n_classes` classes of objects.

    Raises FileNotFoundError, ImportError without detectron2, and ValueError for what is no such config, among them
    YAML with Python objects, whose code is not run.
    """
    if not config.is_file():
        raise FileNotFoundError(f"{config}: no such config")
    _, cfg, _ = _import_library()
    import yaml

    try:
        cfg.merge_from_file(str(config), allow_unsafe=False)
    except (
        yaml.YAMLError,
        KeyError,
        ValueError,
        AssertionError,
        AttributeError,
        TypeError,
        OSError,
        RecursionError,
    ) as error:
        raise ValueError(f"{config}: not a detectron2 config: {error}") from error
    if n_classes != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        n_configured = cfg.MODEL.ROI_HEADS.NUM_CLASSES
        raise ValueError(f"{config}: MODEL.ROI_HEADS.NUM_CLASSES is {n_configured}, {n_classes} class names were given")
    cfg.MODEL.WEIGHTS = cfg.OUTPUT_DIR = ""
    return cfg.dump()


def _import_library():
    """detectron2's CfgNode, a default config, and build_model()."""
    try:
        from detectron2.config import CfgNode, get_cfg
        from detectron2.modeling import build_model
    except ImportError as error:
        raise models.MissingPackage(INSTALL) from error
    return CfgNode, get_cfg(), build_model


def _prepare_pixels(image: np.ndarray, resize, channels: int) -> np.ndarray:
    """`image` as detectron2 takes it: 8-bit grey, scaled by Pillow, then float32 (channels, h, w), 0 to 255."""
    grey = convert_to_uint8(image)
    grey = resize.get_transform(grey).apply_image(grey)
    return np.repeat(grey[None].astype(np.float32), channels, axis=0)


def convert_to_uint8(image: np.ndarray) -> np.ndarray:
    """A normalised image (0 to 1 at the card's percentiles) as uint8; what lies beyond 0...1 is cut."""
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)


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
