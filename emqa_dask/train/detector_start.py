"""The network that a training of a detector starts from: a model directory of torchvision or detectron2."""

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from emqa_dask import detectron2_models, models, networks
from emqa_dask.train import detectron2_fit
from emqa_dask.train.checkpoints import WEIGHTS

if TYPE_CHECKING:
    import torch

# The last layers, whose shapes depend on the classes.
HEADS = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits.")
DETECTRON2_HEADS = ("roi_heads.box_predictor.", "roi_heads.mask_head.predictor.")
FAMILIES = ("torchvision", "detectron2")
CONFIG = "config.yaml"  # of detectron2, in the model directory


class Learner(NamedTuple):
    """A network to train, the first part of its card, and what its library does in its own way."""

    net: "torch.nn.Module"
    card: dict[str, Any]
    input_size: Mapping[str, Any]  # min_size and max_size, px, to which images are enlarged
    prepare: Callable | None = None  # see fit_detector()
    make_rounds: Callable | None = None
    texts: Mapping[str, str] = {}  # further files of the model directory
    background: int = 0


def load_start(start: Path, model_card: dict[str, Any], device: str, precision: str) -> Learner:
    """The network of the model directory `start` with its last layers fit for the classes of `model_card`.

    ValueError for a model of another family or task, and for a `precision` that its trainer lacks on `device`.
    """
    n_classes = len(model_card["classes"])
    folder = models.locate_model(str(start))
    start_card = models.load_model_card(folder)
    if start_card.get("task") != model_card["task"] or start_card.get("family") not in FAMILIES:
        model_type = f"{start_card.get('family')} for {start_card.get('task')!r}"
        raise ValueError(f"{folder}: {model_type}: only detectors of {' and '.join(FAMILIES)} train here")
    model_card["training"] |= {
        "started_from": start_card["name"],
        "started_from_digest": models.digest_model_card(folder),
    }
    model_card["input"] = dict(start_card["input"])
    if start_card["family"] == "detectron2":
        return _load_detectron2(folder, start_card, model_card, device, precision)
    with models.blame_model(folder):
        architecture = networks.complete_architecture({**start_card["architecture"], "n_classes": n_classes})
        net = networks.build_detector(architecture)
        skip = HEADS if start_card["architecture"]["n_classes"] != n_classes else ()
        networks.load_weights(net, folder / WEIGHTS, skip=skip)
    return Learner(net, {**model_card, "architecture": architecture}, architecture)


def _load_detectron2(
    folder: Path, start_card: Mapping[str, Any], model_card: dict[str, Any], device: str, precision: str
) -> Learner:
    """The network of a detectron2 model directory, which detectron2's trainer trains."""
    detectron2_fit.check_precision(precision, device)
    n_classes = len(model_card["classes"])
    limits = {name: networks.DEFAULTS[name] for name in ("score_floor", "max_detections")}
    limits |= start_card.get("architecture", {})
    with models.blame_model(folder), tempfile.TemporaryDirectory() as scratch:
        text = detectron2_models.change_classes((folder / CONFIG).read_text(encoding="utf-8"), n_classes)
        config = Path(scratch, CONFIG)
        config.write_text(text, encoding="utf-8")
        net, cfg = detectron2_models.build(config, limits["score_floor"], limits["max_detections"], device)
        has_same_classes = len(start_card["classes"]) == n_classes
        networks.load_weights(net, folder / WEIGHTS, skip=() if has_same_classes else DETECTRON2_HEADS)
    return Learner(
        net,
        {**model_card, "family": "detectron2", "architecture": limits},
        {"min_size": cfg.INPUT.MIN_SIZE_TEST, "max_size": cfg.INPUT.MAX_SIZE_TEST},
        detectron2_fit.make_optimiser,
        partial(detectron2_fit.Detectron2Rounds, cfg=cfg),
        {CONFIG: text},
        background=-1,
    )
