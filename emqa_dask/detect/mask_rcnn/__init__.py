"""Mask R-CNN: load_detector(model directory) gives a Detector; back ends torchvision and detectron2."""

from functools import lru_cache
from pathlib import Path

from emqa_dask import models
from emqa_dask.detect.mask_rcnn.card import Card, read
from emqa_dask.detect.mask_rcnn.detector import Detector
from emqa_dask.settings.stages import PRECISIONS

__all__ = ["Card", "Detector", "load_detector", "read"]


def load_detector(name: str | Path, device: str = "cpu", precision: str = "float32") -> Detector:
    """The detector in a model directory, or a bundled one by its name, on `device` ("cpu" or "cuda").

    The same directory, unchanged, is loaded once per process. `precision` "bfloat16" or "float16" runs the layers in
    16 bits where PyTorch holds that safe: faster on hardware made for it, and scores then move by some 0.01. Raises
    models.ModelError, naming the file, for what the card or the weights have wrong (see card.read), ModelNotFound
    without card, models.MissingPackage when the family's library is not installed, RuntimeError when "cuda" has no GPU.
    """
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device is {device!r}: it has to be 'cpu' or 'cuda'")
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}: it is one of {', '.join(PRECISIONS)}")
    card = read(name)
    return _loaded(str(card.directory.resolve()), card.digest, device, precision)


@lru_cache(maxsize=4)
def _loaded(directory: str, digest: str, device: str, precision: str) -> Detector:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("device 'cuda' was asked for, but there is no usable GPU here")
    card = read(directory)
    with models.blame_model(card.directory):
        if card.family == "torchvision":
            from emqa_dask.detect.mask_rcnn.with_torchvision import load
        else:
            from emqa_dask.detect.mask_rcnn.with_detectron2 import load
        return Detector(card, load(card, device, precision), device)
