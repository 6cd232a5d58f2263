"""Kind of the objects that a micrograph shows, by its content: the bundled head `object-kinds`.

The features are those of the bundled network `picture-kinds`, of a larger view than the thumbnail that it judges.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from emqa_dask import classifiers, models, networks
from emqa_dask.tables import OBJECT_KIND_NAMES

if TYPE_CHECKING:
    import torch

VIEW_PX = 384  # side of the square that the network sees; with 128 px, faint objects cannot be told apart
WEIGHTS = "weights.safetensors"


def estimate_object_kinds(image: NDArray, device: str = "cpu") -> NDArray[np.float32]:
    """Probabilities (5,) of OBJECT_KIND_NAMES for a micrograph (h, w); empty for a blank image."""
    view = make_view(image)
    if view is None:
        return np.zeros(0, np.float32)
    network = _load_network(device)
    features = compute_features(network, view, device)
    logits = network["head"].weight.detach().cpu().numpy() @ features + network["head"].bias.detach().cpu().numpy()
    shares = np.exp(logits - logits.max())
    return (shares / shares.sum()).astype(np.float32)


def make_view(image: NDArray) -> NDArray[np.float32] | None:
    """The middle square of a micrograph, scaled to VIEW_PX, 0 to 1 between percentiles; None for a blank image."""
    finite_values = image[np.isfinite(image)]
    low, high = np.percentile(finite_values, [0.5, 99.5]) if finite_values.size else (0, 0)
    if not high > low:
        return None
    pixels = np.nan_to_num(image, nan=(low + high) / 2, posinf=high, neginf=low).astype(np.float32)
    side = min(pixels.shape)
    y0, x0 = ((n - side) // 2 for n in pixels.shape)
    square = np.clip((pixels[y0 : y0 + side, x0 : x0 + side] - low) / (high - low), 0, 1).astype(np.float32)
    interpolation = cv2.INTER_AREA if side > VIEW_PX else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(square), (VIEW_PX, VIEW_PX), interpolation=interpolation)


def compute_features(network: "torch.nn.ModuleDict", view: NDArray[np.float32], device: str) -> NDArray[np.float32]:
    """The means (784,) of the maps of all stages of the network, for a view of make_view()."""
    import torch

    with torch.inference_mode():
        batch = torch.from_numpy(view)[None, None].to(device)
        return classifiers.pool_picture_stages(network, batch)[0].cpu().numpy()


def load_backbone(device: str = "cpu") -> "torch.nn.ModuleDict":
    """The network `picture-kinds` as it ships, with its own head."""
    directory = models.PICTURE_MODEL
    model_card = models.read_model_card(directory)
    with models.blame_model(directory):
        architecture = model_card["architecture"]
        network = classifiers.build_picture_network(architecture["n_stages"], len(architecture["kinds"]))
        networks.load_weights(network, models.check_file(directory, "weights.safetensors", model_card))
    return network.to(device).eval()


@lru_cache(maxsize=2)
def _load_network(device: str) -> "torch.nn.ModuleDict":
    from torch import nn

    directory = models.OBJECT_MODEL
    model_card = models.read_model_card(directory)
    network = load_backbone()
    with models.blame_model(directory):
        if model_card["backbone"] != models.digest_model_card(models.PICTURE_MODEL):
            raise ValueError("its features are of another network picture-kinds than this version's")
        network["head"] = nn.Linear(network["head"].in_features, len(OBJECT_KIND_NAMES))
        networks.load_weights(network["head"], models.check_file(directory, WEIGHTS, model_card))
    return network.to(device).eval()
