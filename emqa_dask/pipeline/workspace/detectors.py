"""Detectors of a run by their names in tables, and the largest number of detections of each."""

import functools

from emqa_dask import models
from emqa_dask.settings import Detect


@functools.lru_cache(maxsize=16)
def _read_max_detections(networks: tuple[str, ...]) -> dict[str, int]:
    """Largest number of detections of every network, by the name on its card."""
    limits: dict[str, int] = {}
    for name in networks:
        from emqa_dask.detect import mask_rcnn  # a run without networks does well without torch

        model_card = mask_rcnn.read_detector_card(models.locate_model(name))
        if model_card.name in limits or model_card.name == "log":
            raise ValueError(f"detect.detectors: two are named {model_card.name!r}; rename one in its card.toml")
        limits[model_card.name] = model_card.max_detections
    return limits


def name_detectors(settings: Detect) -> dict[str, int]:
    """Names of the detectors in order -> largest number of detections of each.

    Raises FileNotFoundError for a missing model and ValueError for a card with an impossible value.
    """
    limits = iter(_read_max_detections(settings.networks).items())
    return dict(("log", settings.max_detections) if name == "log" else next(limits) for name in settings.candidates)


def check_classes(settings: Detect) -> None:
    """Raises ValueError for a name in detect.classes that no network of the run has on its card."""
    from emqa_dask.detect import mask_rcnn

    names = {
        name
        for network in settings.networks
        for name in mask_rcnn.read_detector_card(models.locate_model(network)).classes
    }
    unknown = sorted(set(settings.classes) - names)
    if unknown:
        text = f"those of the networks are {', '.join(sorted(names))}" if names else "no network runs"
        raise ValueError(f"detect.classes: {', '.join(unknown)}: {text}")
