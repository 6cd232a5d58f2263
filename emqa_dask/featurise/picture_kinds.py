"""Whether a picture is a micrograph, a photograph or a drawing, by its content: the bundled network `picture-kinds`.

The network sees a grey thumbnail. Colour and headers are evidence of their own, which `triage.picture_evidence` adds.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from emqa_dask import models
from emqa_dask.featurise import picture_network

if TYPE_CHECKING:
    import torch

KINDS = ("micrograph", "photograph", "drawing")  # drawing: plots, diagrams, text, screenshots
PROBABILITIES = ("photograph_probability", "drawing_probability")  # columns of tables.IMAGE_STATISTICS
SIDE_PX = 128  # of the thumbnail: a multiple of 32, the stride of the network
MIN_SIDE_PX = 96  # px, of the picture; smaller ones show too little to tell
WEIGHTS = "weights.safetensors"


def estimate_picture_kinds(thumbnails: Sequence[np.ndarray | None], device: str = "cpu") -> list[dict[str, float]]:
    """The values of PROBABILITIES for each thumbnail of draw_thumbnail(), computed together on `device`.

    NaN where there is no thumbnail.
    """
    numbers = [k for k, thumbnail in enumerate(thumbnails) if thumbnail is not None]
    kinds = [dict.fromkeys(PROBABILITIES, np.nan) for _ in thumbnails]
    if not numbers:
        return kinds
    pictures = np.stack([thumbnails[k] for k in numbers])
    if device == "cpu":
        logits = picture_network.compute_logits(_load_host_network(), pictures).astype(np.float64)
    else:
        logits = _compute_logits_on_device(pictures, device)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    for k, share in zip(numbers, shares, strict=True):
        kinds[k] = {name: float(share[KINDS.index(name.split("_")[0])]) for name in PROBABILITIES}
    return kinds


def _compute_logits_on_device(pictures: np.ndarray, device: str) -> np.ndarray:
    """Logits (n, 3) of KINDS, in double precision: the single precision of a GPU may have 10 bits, by a setting."""
    import torch

    with torch.inference_mode():
        batch = torch.from_numpy(pictures[:, None]).to(device, torch.float64)
        return compute_logits(_load_network(device, torch.float64), batch).cpu().numpy()


def draw_thumbnail(view: np.ndarray) -> np.ndarray | None:
    """The thumbnail of a view (h, w), whose grey range is 0 to 1; None below 96 px and without contrast."""
    if min(view.shape) < MIN_SIDE_PX or float(view.max()) - float(view.min()) <= 1e-6:
        return None
    return make_thumbnail(view)


def make_thumbnail(view: np.ndarray) -> np.ndarray:
    """`view` (h, w) as float32 (128, 128), from 0 to 1; each side is scaled by itself, and nothing is cropped."""
    interpolation = cv2.INTER_AREA if min(view.shape) >= SIDE_PX else cv2.INTER_LINEAR
    small = cv2.resize(
        np.clip(view, 0, 1).astype(np.float32, copy=False), (SIDE_PX, SIDE_PX), interpolation=interpolation
    )
    return np.clip(small, 0, 1)


def compute_logits(network: "torch.nn.ModuleDict", thumbnails: "torch.Tensor") -> "torch.Tensor":
    """Logits (n, 3) of KINDS."""
    from emqa_dask import classifiers

    return network["head"](classifiers.pool_picture_stages(network, thumbnails))


@lru_cache(maxsize=1)
def _load_host_network() -> picture_network.PictureNetwork:
    directory = models.PICTURE_MODEL
    model_card = models.read_model_card(directory)
    with models.blame_model(directory):
        path = models.check_file(directory, WEIGHTS, model_card)
        return picture_network.load_network(path, model_card["architecture"]["n_stages"])


@lru_cache(maxsize=2)
def _load_network(device: str, dtype: "torch.dtype") -> "torch.nn.ModuleDict":
    import torch

    from emqa_dask import classifiers, networks

    directory = models.PICTURE_MODEL
    model_card = models.read_model_card(directory)
    with models.blame_model(directory):
        network = classifiers.build_picture_network(model_card["architecture"]["n_stages"], len(KINDS))
        networks.load_weights(network, models.check_file(directory, WEIGHTS, model_card))
    # A convolution followed by its normalisation is one operation, and 1 x 1 convolutions are products of matrices.
    return _fuse_normalisations(network.eval()).to(device, dtype, memory_format=torch.channels_last)


def _fuse_normalisations(network: "torch.nn.ModuleDict") -> "torch.nn.ModuleDict":
    """`network`, in evaluation mode, with every batch normalisation merged into the convolution before it."""
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    for sequence in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for k in range(len(sequence) - 1):
            convolution, normalisation = sequence[k], sequence[k + 1]
            if isinstance(convolution, nn.Conv2d) and isinstance(normalisation, nn.BatchNorm2d):
                sequence[k] = fuse_conv_bn_eval(convolution, normalisation)
                sequence[k + 1] = nn.Identity()
    return network
