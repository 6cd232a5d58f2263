"""Mask R-CNN: load_detector(model directory) gives a Detector; back ends torchvision and detectron2."""

from functools import lru_cache
from pathlib import Path

from emqa_dask import models
from emqa_dask.detect.mask_rcnn.detector import Detector
from emqa_dask.detect.mask_rcnn.detector_card import DetectorCard, read_detector_card
from emqa_dask.detect.mask_rcnn.stability import check_stability
from emqa_dask.settings.stages import DETECTOR_PRECISIONS

__all__ = ["Detector", "DetectorCard", "load_detector", "read"]


def load_detector(
    name: str | Path, device: str = "cpu", precision: str = "float32", stability_scale: float = 0.0
) -> Detector:
    """The Mask R-CNN of a model directory; unchanged, it is loaded once per process.

    Parameters
    ----------
    name : str or Path
        A model directory, or the name of a bundled model.
    device : {"cpu", "cuda"}
        Where the network runs.
    precision : {"float32", "bfloat16", "float16", "auto"}
        Of the layers where PyTorch considers it safe. 16 bits are faster where hardware has them; scores change by
        about 0.01. "auto": bfloat16 on a GPU where the card states that the objects agree with those in float32.
    stability_scale : float
        Sides of the mirrored copy of an image in which the network has to find its objects again, in units of the
        image's. The second pass costs about the square of it. 0: no second pass, and the stability is NaN.

    Returns
    -------
    Detector
        `detector.detect(images)` gives a table of `tables.DETECTIONS` for each image.

    Raises
    ------
    ValueError
        For an unknown device or precision.
    models.ModelNotFound
        If there is no card.
    models.ModelError
        If the card or the weights are wrong; it names the file (see `read_detector_card`).
    models.MissingPackage
        If the library of the model's family is not installed.
    RuntimeError
        If the device is "cuda" and there is no GPU.

    References
    ----------
    He et al., Mask R-CNN, ICCV 2017, 2980.
    """
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device is {device!r}: it has to be 'cpu' or 'cuda'")
    if precision not in DETECTOR_PRECISIONS:
        raise ValueError(f"precision is {precision!r}: it is one of {', '.join(DETECTOR_PRECISIONS)}")
    model_card = read_detector_card(name)
    if precision == "auto":
        precision = model_card.select_precision(device)
    return _load_cached(
        str(model_card.directory.resolve()), model_card.digest, device, precision, float(stability_scale)
    )


@lru_cache(maxsize=4)
def _load_cached(directory: str, digest: str, device: str, precision: str, stability_scale: float) -> Detector:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("device 'cuda' was asked for, but there is no usable GPU here")
    model_card = read_detector_card(directory)
    with models.blame_model(model_card.directory):
        if model_card.family == "torchvision":
            from emqa_dask.detect.mask_rcnn.with_torchvision import load
        else:
            from emqa_dask.detect.mask_rcnn.with_detectron2 import load
        network = check_stability(load(model_card, device, precision), stability_scale)
        return Detector(model_card, network, device)
