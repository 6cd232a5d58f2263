"""Whether a picture is a micrograph, a photograph or a drawing, by its content: the bundled network `picture-kinds`.

The network sees a grey thumbnail. Colour and headers are evidence of their own, which `triage.picture_evidence` adds.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from emqa_dask import models, networks

if TYPE_CHECKING:
    import torch

KINDS = ("micrograph", "photograph", "drawing")  # drawing: plots, diagrams, text, screenshots
PROBABILITIES = ("photograph_probability", "drawing_probability")  # columns of tables.IMAGE_STATISTICS
SIDE_PX = 128  # of the thumbnail: a multiple of 32, the stride of the network
MIN_SIDE_PX = 96  # px, of the picture; smaller ones show too little to tell
WEIGHTS = "weights.safetensors"


def estimate_picture_kinds(view: np.ndarray) -> dict[str, float]:
    """The values of PROBABILITIES for a view (h, w), whose grey range is 0 to 1.

    NaN below 96 px and without contrast.
    """
    import torch

    if min(view.shape) < MIN_SIDE_PX or float(np.ptp(view)) <= 1e-6:
        return dict.fromkeys(PROBABILITIES, np.nan)
    network = _load_network()
    with torch.inference_mode():
        logits = compute_logits(network, torch.from_numpy(make_thumbnail(view))[None, None])
        shares = logits.softmax(dim=1)[0].numpy()
    return {name: float(shares[KINDS.index(name.split("_")[0])]) for name in PROBABILITIES}


def make_thumbnail(view: np.ndarray) -> np.ndarray:
    """`view` (h, w) as float32 (128, 128), from 0 to 1; each side is scaled by itself, and nothing is cropped."""
    interpolation = cv2.INTER_AREA if min(view.shape) >= SIDE_PX else cv2.INTER_LINEAR
    small = cv2.resize(np.clip(view, 0, 1).astype(np.float32), (SIDE_PX, SIDE_PX), interpolation=interpolation)
    return np.clip(small, 0, 1)


def build_network(n_stages: int) -> "torch.nn.ModuleDict":
    """The first stages of EfficientNet-Lite0 and a linear head on the means of their maps; random weights."""
    from torch import nn

    from emqa_dask.efficientnet_lite import STAGE_CHANNELS, EfficientNetLite0

    backbone = EfficientNetLite0(1)
    backbone.stages = backbone.stages[:n_stages]
    head = nn.Linear(sum(STAGE_CHANNELS[:n_stages]), len(KINDS))
    return nn.ModuleDict({"backbone": backbone, "head": head}).eval()


def embed_thumbnails(network: "torch.nn.ModuleDict", thumbnails: "torch.Tensor") -> "torch.Tensor":
    """The means (n, n_features) of the maps of all stages, for thumbnails (n, 1, 128, 128) from 0 to 1."""
    import torch

    values = network["backbone"].stem((thumbnails - 0.5) / 0.5)
    means = []
    for stage in network["backbone"].stages:
        values = stage(values)
        means.append(values.mean(dim=(2, 3)))
    return torch.cat(means, dim=1)


def compute_logits(network: "torch.nn.ModuleDict", thumbnails: "torch.Tensor") -> "torch.Tensor":
    """Logits (n, 3) of KINDS."""
    return network["head"](embed_thumbnails(network, thumbnails))


@lru_cache(maxsize=1)
def _load_network() -> "torch.nn.ModuleDict":
    directory = models.PICTURE_MODEL
    model_card = models.read_model_card(directory)
    with models.blame_model(directory):
        network = build_network(model_card["architecture"]["n_stages"])
        networks.load_weights(network, models.check_file(directory, WEIGHTS, model_card))
    return network.eval()
