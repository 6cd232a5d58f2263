"""Content of an image, independent of its acquisition: embedding and families of the bundled network `content`."""

from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from emqa_dask import classifiers, models, networks

if TYPE_CHECKING:
    import torch

WEIGHTS = "weights.safetensors"
IMAGE_PX = 224  # side of the square from the middle of a scaled image that is embedded as a whole
BATCH_PX = 2**20  # of the windows that go through the network at once


def embed_windows(windows: NDArray[np.float32], device: str = "cpu") -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Embeddings (n, 128) of windows (n, h, w), and the log odds (n,) of a picture that is no micrograph.

    Trained on drawn pictures, each recorded in many ways: windows of one picture are near to each other, those of
    others far (Khosla et al., NeurIPS 2020; synthetic.contents and conditions), so that what is far from a set of
    images differs from it in content. See benchmarks/fit_content.py.
    """
    import torch

    net, is_foreign_family = _load_network(device)
    batches = []
    n = max(1, BATCH_PX // max(1, int(np.prod(windows.shape[1:]))))
    with torch.inference_mode():
        for start in range(0, len(windows), n):
            batch = torch.from_numpy(stretch_contrast(windows[start : start + n])[:, None]).to(device)
            logits, embedding = net(batch, embedding=True)
            batches.append((embedding.cpu().numpy(), compute_foreign_log_odds(logits, is_foreign_family).cpu().numpy()))
    if not batches:
        return np.zeros((0, 128), np.float32), np.zeros(0, np.float32)
    return tuple(np.concatenate(part) for part in zip(*batches))


def embed_image(image: NDArray, device: str = "cpu") -> NDArray[np.float32]:
    """Embedding (128,) of the middle square of a micrograph (h, w), scaled to IMAGE_PX; empty for a blank image."""
    finite_values = image[np.isfinite(image)]
    low, high = np.percentile(finite_values, [1, 99]) if finite_values.size else (0, 0)
    if not high > low:
        return np.zeros(0, np.float32)
    pixels = np.nan_to_num(image, nan=(low + high) / 2, posinf=high, neginf=low).astype(np.float32)
    side = min(pixels.shape)
    y0, x0 = ((n - side) // 2 for n in pixels.shape)
    interpolation = cv2.INTER_AREA if side > IMAGE_PX else cv2.INTER_LINEAR
    square = np.ascontiguousarray(pixels[y0 : y0 + side, x0 : x0 + side])
    return embed_windows(cv2.resize(square, (IMAGE_PX, IMAGE_PX), interpolation=interpolation)[None], device)[0][0]


def compute_foreign_log_odds(logits: "torch.Tensor", is_foreign_family: "torch.Tensor") -> "torch.Tensor":
    """Log odds (n,) of the families `is_foreign_family` (k,) bool against the others, from their logits (n, k)."""
    return logits[:, is_foreign_family].logsumexp(dim=-1) - logits[:, ~is_foreign_family].logsumexp(dim=-1)


def stretch_contrast(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Windows (n, h, w) with their 1st and 99th percentile at -0.5 and 0.5, cut off a quarter beyond them."""
    low, high = np.percentile(windows, [1, 99], axis=(-2, -1), keepdims=True)
    return (np.clip((windows - low) / np.maximum(high - low, 1e-6), -0.25, 1.25) - 0.5).astype(np.float32)


@lru_cache(maxsize=2)
def _load_network(device: str):
    import torch

    directory = models.CONTENT_MODEL
    model_card = models.read_model_card(directory)
    with models.blame_model(directory):
        families = model_card["families"]["names"]
        net = classifiers.build_content_network(len(families))
        networks.load_weights(net, models.check_file(directory, WEIGHTS, model_card))
        is_foreign_family = torch.tensor([name in model_card["families"]["foreign"] for name in families])
    return net.to(device).eval(), is_foreign_family.to(device)
