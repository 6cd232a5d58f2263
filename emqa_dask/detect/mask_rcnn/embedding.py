"""Embedding of an image: means and standard deviations of the backbone's feature maps."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


def pool_maps(
    maps: "Sequence[torch.Tensor]", image_shape: tuple[int, int], padded_shape: tuple[int, int]
) -> "torch.Tensor":
    """Embeddings (n, 2 sum(c)) float32 on the CPU, of feature maps (n, c, h, w): means of all maps, then deviations.

    The maps are of n images of `image_shape`, which were padded to `padded_shape` at the bottom and on the right. The
    padding does not count.
    """
    import torch

    means = []
    deviations = []
    for values in maps:
        rows, columns = (
            max(1, math.ceil(length * n / padded_length))
            for length, padded_length, n in zip(image_shape, padded_shape, values.shape[-2:])
        )
        # In float32: a sum over a map of 16 bits loses digits.
        deviation, mean = torch.std_mean(values[..., :rows, :columns].float(), dim=(-2, -1), correction=0)
        means.append(mean)
        deviations.append(deviation)
    return torch.cat([*means, *deviations], dim=1).cpu()


def average_embeddings(embeddings: Sequence[NDArray], weights: Sequence[float]) -> NDArray[np.float32]:
    """Embedding (d,) of an image from those of its tiles, by their weights: their areas. Empty without a tile."""
    if not len(embeddings):
        return np.zeros(0, np.float32)
    return np.average(np.stack(embeddings).astype(np.float64), axis=0, weights=weights).astype(np.float32)
