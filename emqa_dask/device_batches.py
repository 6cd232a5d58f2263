"""Functions of a batch on the GPU, applied to images of any shapes: one upload for those of one shape and dtype."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from emqa_dask.backend import run_in_batches, to_device, use_device
from emqa_dask.pixel_types import convert_for_device


def map_on_device(
    function: Callable[[Any, np.dtype], Iterable[Any]], images: Iterable[np.ndarray], device: str, batch_size: int
) -> Iterator[Any]:
    """The result of `function` for each of `images` (h, w), in order; at most `batch_size` images are drawn at a time.

    `function(batch, dtype)` gives one result per image of `batch` (n, h, w) on `device` ("cpu" or "cuda"); `dtype` is
    that of the images as they were acquired. A batch that the GPU's memory cannot hold is halved. Other threads of this
    process may use the GPU between batches, and while results are taken.
    """
    return run_in_batches(partial(_compute_by_kind, function, device), images, batch_size)


def _compute_by_kind(function: Callable, device: str, images: Sequence[np.ndarray]) -> list[Any]:
    positions_by_kind: dict[tuple, list[int]] = {}
    for n, image in enumerate(images):
        positions_by_kind.setdefault((image.shape, image.dtype), []).append(n)
    by_position: dict[int, Any] = {}
    for (_, dtype), positions in positions_by_kind.items():
        batch = np.stack([convert_for_device(images[n]) for n in positions])
        with use_device(device):
            results = list(function(to_device(batch, device), dtype))
        by_position.update(zip(positions, results, strict=True))
    return [by_position[n] for n in range(len(images))]
