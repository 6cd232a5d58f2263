"""What a back end gives: a network that finds objects in a batch of equal images, and how its masks are pasted."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emqa_dask.detect.mask_rcnn.device_masks import MaskRuns
from emqa_dask.detect.mask_rcnn.masks import Crop, Runs

if TYPE_CHECKING:
    import torch


class Predictions(NamedTuple):
    """Objects in one image, best score first; float32 tensors on the CPU, but for the masks."""

    boxes: "torch.Tensor"  # (n, 4): x0, y0, x1, y1; px of the image as it went in
    scores: "torch.Tensor"  # (n,)
    classes: "torch.Tensor"  # (n,) int64: 0 is the first name on the card
    masks: "torch.Tensor"  # (n, m, m): probabilities, stretched over the box; on the network's device
    embedding: "torch.Tensor"  # (d,): see embedding.pool_maps
    class_margins: "torch.Tensor | None" = None  # (n,): lead over the second class; None: not measured
    stability: "torch.Tensor | None" = None  # (n,) float64: see stability.compute_stability; None: not measured
    runs: list[Runs] | None = None  # of the n masks in the piece; None: the masks are not pasted yet


class Network(NamedTuple):
    """A loaded network. Images are (h, w) float32, all of one size, as detect.normalise.normalise gives them."""

    predict_objects: Callable[[list[np.ndarray]], list[Predictions]]
    paste_masks: Callable[["torch.Tensor", "torch.Tensor", tuple[int, int]], Iterator[Crop]]
    compute_network_shape: Callable[
        [tuple[int, int]], tuple[int, int]
    ]  # the size at which an image of (h, w) goes through the layers
    predict_boxes: Callable[[list[np.ndarray]], list[Predictions]] | None = None  # the same without masks, and faster
    # pastes the masks of a batch on their device; None: paste_masks() does it one by one, which is faster on a CPU
    find_runs: Callable[["torch.Tensor", "torch.Tensor", NDArray[np.int64]], MaskRuns] | None = None


def autocast(device: str, precision: str):
    """The context in which the layers run; "float32" leaves all as it is."""
    import torch

    return torch.autocast(device, getattr(torch, precision), enabled=precision != "float32")
