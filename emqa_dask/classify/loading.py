"""Loads ensembles from model directories."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from emqa_dask import classifiers, models, networks
from emqa_dask.classify import classifier_card, object_kinds
from emqa_dask.classify.ensemble import BATCH_WINDOWS, Ensemble
from emqa_dask.settings.stages import PRECISIONS

if TYPE_CHECKING:
    import torch


def load_ensemble(
    name: str | Path,
    device: str = "cpu",
    *,
    method: str | None = None,
    classes: Sequence[str] | None = None,
    precision: str = "float32",
) -> Ensemble:
    """Load an ensemble of classifiers from a model directory.

    The same directory, unchanged, is loaded once per process. Members that are missing or corrupt are left out;
    `Ensemble.member_summary` names them.

    Parameters
    ----------
    name
        Model directory, as written by ``emqa train ensemble``, or the name of a bundled ensemble.
    device
        ``"cpu"`` or ``"cuda"``.
    method
        Replaces the card's method: ``"ensemble"``; ``"softmax"`` uses the first member alone; ``"dropout"`` uses
        stochastic passes of the first member, whose network must have dropout.
    classes
        Class names that the caller expects, in their order.
    precision
        Of the networks: ``"float32"``, ``"bfloat16"`` or ``"float16"``. The last two are faster where the hardware
        supports them; probabilities then differ by about 0.01.

    Returns
    -------
    Ensemble
        Its `predict_probabilities` gives the softmax of every member.

    Raises
    ------
    emqa_dask.models.ModelNotFound
        If there is no card.
    emqa_dask.models.ModelError
        If the card is invalid, or fewer members are usable than its ``min_members``.
    ValueError
        If device, method or precision is unknown, or `classes` are not those of the card.
    RuntimeError
        If ``"cuda"`` is requested and there is no usable GPU.

    References
    ----------
    Lakshminarayanan, Pritzel, Blundell, Simple and scalable predictive uncertainty estimation using deep ensembles,
    NeurIPS 2017. Gal, Ghahramani, Dropout as a Bayesian approximation, ICML 2016.
    """
    _check_options(device, method, precision)
    model_card = classifier_card.read_classifier_card(name)
    if classes is not None:
        model_card.check_classes(classes)
    # A member may vanish while the card stays, so the usable files are part of the cache's key.
    method = method or model_card.method
    return _load_ensemble(
        str(model_card.directory.resolve()), model_card.digest, model_card.files, device, method, precision
    )


def _check_options(device: str, method: str | None, precision: str) -> None:
    """Raises ValueError for an unknown device, method or precision."""
    if device not in BATCH_WINDOWS:
        raise ValueError(f"device is {device!r}: it has to be 'cpu' or 'cuda'")
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}: it is one of {', '.join(PRECISIONS)}")
    if method is not None and method not in classifier_card.METHODS:
        raise ValueError(f"method is {method!r}: it is one of {', '.join(classifier_card.METHODS)}")


@lru_cache(maxsize=4)
def _load_ensemble(
    directory: str, digest: str, files: tuple[str, ...], device: str, method: str, precision: str
) -> Ensemble:
    """The ensemble; `digest` and `files` are part of the cache's key only."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("device 'cuda' was asked for, but there is no usable GPU here")
    model_card = classifier_card.read_classifier_card(directory)
    if method == "dropout" and not model_card.architecture["dropout"]:
        raise models.ModelError(f"{directory}: method 'dropout' needs a network trained with dropout: take another one")
    nets, faults = _load_members(model_card)
    usable = tuple(file for file in model_card.files if file not in faults)
    model_card = replace(model_card, files=usable, faults=faults, method=method)
    classifier_card.check_members(model_card)
    nets = nets if method == "ensemble" else nets[:1]
    return Ensemble(model_card, nets, device, precision=precision, backbone=_load_backbone(model_card))


def _load_backbone(model_card: classifier_card.ClassifierCard) -> "torch.nn.ModuleDict | None":
    """The network that all members share; None for members that are whole networks."""
    if model_card.architecture["backbone"] != classifiers.PICTURE_BACKBONE:
        return None
    with models.blame_model(model_card.directory):
        if model_card.backbone_digest != models.digest_model_card(models.PICTURE_MODEL):
            raise ValueError("its members are heads on another network picture-kinds than this version's")
    return object_kinds.load_backbone()


def _load_members(model_card: classifier_card.ClassifierCard) -> tuple[list["torch.nn.Module"], dict[str, str]]:
    """The networks of the usable members, and the faults of the others by file."""
    from safetensors import SafetensorError

    nets = []
    faults = dict(model_card.faults)
    for file in model_card.files:
        with models.blame_model(model_card.directory):
            net = classifiers.build_classifier(model_card.architecture)
        try:
            networks.load_weights(net, model_card.directory / file)
        except (ValueError, OSError, SafetensorError) as error:
            faults[file] = str(error)
        else:
            nets.append(net)
    return nets, faults
