"""detectron2's models: built from a config.yaml of plain values, and images as they take them."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emqa_dask import models

INSTALL = (
    "this model needs detectron2, which is not installed, and has no wheels for this Python: "
    "pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'"
)


def build(config: Path, score_floor: float, max_detections: int, device: str) -> tuple[Any, Any]:
    """detectron2's model of random weights, in evaluation mode, and its config.

    Nothing in the file is run and nothing is fetched: it is plain YAML, complete in itself (no `_BASE_`). Raises
    ImportError without detectron2 and ValueError for a config that is none, not a Mask R-CNN's, or of which no network
    can be built.
    """
    CfgNode, cfg, build_model = import_library()
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
    _, cfg, _ = import_library()
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


def import_library() -> tuple[Any, Any, Any]:
    """detectron2's CfgNode, a default config, and build_model()."""
    try:
        from detectron2.config import CfgNode, get_cfg
        from detectron2.modeling import build_model
    except ImportError as error:
        raise models.MissingPackage(INSTALL) from error
    return CfgNode, get_cfg(), build_model


def prepare_pixels(image: NDArray, resize: Any, channels: int) -> NDArray[np.float32]:
    """`image` as detectron2 takes it: 8-bit grey, scaled by Pillow, then float32 (channels, h, w), 0 to 255."""
    grey = convert_to_uint8(image)
    grey = resize.get_transform(grey).apply_image(grey)
    return np.repeat(grey[None].astype(np.float32), channels, axis=0)


def convert_to_uint8(image: NDArray) -> NDArray[np.uint8]:
    """A normalised image (0 to 1 at the card's percentiles) as uint8; what lies beyond 0...1 is cut."""
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)


def make_resize(cfg: Any) -> Any:
    """detectron2's transform to the size at which a model of this config looks at an image."""
    from detectron2.data.transforms import ResizeShortestEdge

    return ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)


def change_classes(config: str, n_classes: int) -> str:
    """The text of a complete config with another number of classes of objects."""
    import yaml

    settings = yaml.safe_load(config)
    settings["MODEL"]["ROI_HEADS"]["NUM_CLASSES"] = n_classes
    return yaml.safe_dump(settings)
