"""Functions of a batch on the GPU, applied to images of any shapes: one upload for those of one shape and dtype."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from emqa_dask.backend import run_in_batches, to_device, use_device
from emqa_dask.detect.normalise import convert_for_device


def map_on_device(
    function: Callable[[Any, np.dtype], Sequence[Any]], images: Sequence[np.ndarray], device: str
) -> list[Any]:
    """The result of `function` for each of `images` (h, w), in order.

    `function(batch, dtype)` returns one result per image of `batch` (n, h, w) on `device` ("cpu" or "cuda"); `dtype` is
    that of the images as they were acquired. A batch that the GPU's memory cannot hold is halved. Other threads of this
    process may use the GPU between batches.
    """
    positions_by_kind: dict[tuple, list[int]] = {}
    for n, image in enumerate(images):
        positions_by_kind.setdefault((image.shape, image.dtype), []).append(n)
    results: list[Any] = [None] * len(images)
    for (_, dtype), positions in positions_by_kind.items():
        same_kind = [convert_for_device(images[n]) for n in positions]
        batch_results = run_in_batches(partial(_compute, function, dtype, device), same_kind, len(same_kind))
        for n, result in zip(positions, batch_results, strict=True):
            results[n] = result
    return results


def _compute(function: Callable, dtype: np.dtype, device: str, images: list[np.ndarray]) -> Sequence[Any]:
    batch = np.stack(images)
    with use_device(device):
        return function(to_device(batch, device), dtype)
