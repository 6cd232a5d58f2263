"""Detections of the Laplacian-of-Gaussian detector: of an image, of a batch, and of an image read in strips."""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pandas as pd

from emqa_dask.backend import run_in_batches, to_device, use_device
from emqa_dask.detect import tiles
from emqa_dask.detect.candidates import (
    Candidates,
    find_candidates,
    find_candidates_in_batch,
    find_candidates_in_strips,
    select_detections,
)
from emqa_dask.detect.normalise import IntensityLimits, convert_for_device
from emqa_dask.settings import Detect


def detect_image(
    image: np.ndarray, settings: Detect, limits: IntensityLimits | None = None, device: str = "cpu"
) -> pd.DataFrame:
    """Detections of one micrograph: rows of `tables.DETECTIONS` without micrograph_id, strongest first.

    `image` is (h, w) of any real dtype on the host. It is normalised as `settings` says; `settings.threshold` is on
    that scale. `limits`: the intensities that become 0 and 1, where they are known from elsewhere. Maxima are searched,
    compared with the threshold and pruned on the pixels and scales of the search. Then y_px, x_px, sigma_px and
    response move to the top of the surface around each maximum, at most half a pixel and half a scale away (see
    `surface.refine_cubes`). The box encloses the disk of radius sqrt(2) sigma and is cut at the image's edges; it
    counts from the upper left corner of the first pixel, so a centre at row y lies at y + 0.5. area_px is that of the
    whole disk. No detection lies on a NaN or infinite pixel. Polarity "auto" is bright or dark, whichever answers more
    strongly in the whole image. Scales larger than the image's longer side are left out. Empty, constant and all-NaN
    images give no rows. `device` is "cpu" or "cuda"; RuntimeError where there is no GPU.

    `attrs["is_capped"]` of the table is True when there were more than `settings.max_detections`; the strongest are
    kept. `attrs["too_many_blobs"]` is True when there were over 20 times as many maxima of a polarity, or so many near
    each other, that only the strongest were pruned: the threshold is in the noise. Memory is bounded whatever the
    threshold. Raises ValueError for images that are not two-dimensional and real.
    """
    return select_detections(find_candidates(image, settings, limits, device), settings)


def detect_images(
    images: Iterable[np.ndarray], settings: Detect, batch_size: int = 1, device: str = "cpu"
) -> Iterator[pd.DataFrame]:
    """The table of `detect_image` for each of `images`, in order, whatever `batch_size`.

    On the CPU images are processed one by one. On `device` "cuda" up to `batch_size` images are searched together if
    they have one shape and dtype, half as many after its memory ran out; MemoryError when one image alone is too large,
    RuntimeError where there is no GPU. One thread of a process at a time uses the GPU.
    """
    if device == "cpu":
        return (detect_image(image, settings) for image in images)
    results = run_in_batches(lambda batch: _search_batch(batch, settings, device), images, batch_size)
    return (select_detections(candidates, settings) for candidates in results)


def _search_batch(images: list[np.ndarray], settings: Detect, device: str) -> list[Candidates]:
    """The candidates of each of `images`: those of one shape and dtype are searched together.

    Other threads may use the device between batches, and while this one selects detections.
    """
    images = [convert_for_device(np.asarray(image)) for image in images]
    positions_by_kind: dict[tuple, list[int]] = {}
    for n, image in enumerate(images):
        positions_by_kind.setdefault((image.shape, image.dtype), []).append(n)
    by_position: dict[int, Candidates] = {}
    for (shape, _), positions in positions_by_kind.items():
        if math.prod(shape) > tiles.WHOLE_PX:
            with use_device(device):
                results = [find_candidates(images[n], settings, device=device) for n in positions]
        else:
            batch = np.stack([images[n] for n in positions])
            with use_device(device):
                results = find_candidates_in_batch(to_device(batch, device), settings)
        by_position.update(zip(positions, results, strict=True))
    return [by_position[n] for n in range(len(images))]


def detect_strips(
    read: Callable[[int, int], np.ndarray],
    shape: tuple[int, int],
    settings: Detect,
    limits: IntensityLimits | None = None,
    strip_px: int | None = None,
    device: str = "cpu",
) -> pd.DataFrame:
    """The table of `detect_image` for an image of `shape` that is read in strips; the same rows for any `strip_px`.

    `read(y0, y1)` gives rows y0 <= y < y1, all columns. Every strip is searched with the rows around it that its widest
    kernel covers, and keeps the maxima whose centre it owns, so that none is cut, lost or counted twice; pruning then
    sees the whole image at once. On `device` "cuda" strips are searched there, one transfer in and one table out;
    RuntimeError where there is no GPU.
    """
    return select_detections(find_candidates_in_strips(read, shape, settings, limits, strip_px, device), settings)
