"""Detections of the Laplacian-of-Gaussian detector: of an image, and of several."""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from emqa_dask.detect.candidates import (
    find_candidates,
    find_candidates_in_batch,
    select_detections,
)
from emqa_dask.detect.normalise import IntensityLimits
from emqa_dask.device_batches import map_on_device
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
    arrays = (np.asarray(image) for image in images)
    results = map_on_device(lambda batch, _: find_candidates_in_batch(batch, settings), arrays, device, batch_size)
    return (select_detections(candidates, settings) for candidates in results)
