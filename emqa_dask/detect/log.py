"""Detections of the Laplacian-of-Gaussian detector: of an image, of a batch, and of an image read in strips."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pandas as pd

from emqa_dask.backend import run_in_batches, to_device
from emqa_dask.detect import tiles
from emqa_dask.detect.candidates import (
    Candidates,
    centre_intensities,
    find_candidates,
    find_candidates_in_strips,
    find_maxima_on_device,
    make_search_region,
    select_detections,
    select_sigmas,
)
from emqa_dask.detect.normalise import IntensityLimits, convert_to_real
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

    On the CPU images are processed one by one. On `device` "cuda" up to `batch_size` images of one shape are moved to
    the GPU together, half as many after its memory ran out; MemoryError when one image alone is too large,
    RuntimeError where there is no GPU.
    """
    if device == "cpu":
        return (detect_image(image, settings) for image in images)
    return run_in_batches(lambda batch: _detect_batch(batch, settings, device), images, batch_size)


def _detect_batch(images: list[np.ndarray], settings: Detect, device: str) -> Iterator[pd.DataFrame]:
    images = [convert_to_real(np.asarray(image)) for image in images]
    shape = images[0].shape
    sigmas = select_sigmas(settings, shape)
    if len({image.shape for image in images}) > 1 or images[0].size > tiles.WHOLE_PX or len(sigmas) == 0:
        yield from (detect_image(image, settings, device=device) for image in images)
        return
    pixels = to_device(np.stack([centre_intensities(image, settings) for image in images]), device)
    for n, image in enumerate(images):
        region = make_search_region(image, settings, tiles.Strip(0, 0, shape[0], shape[0]), shape)
        maxima = find_maxima_on_device(pixels[n], sigmas, region, settings, device)
        yield select_detections(Candidates(maxima, sigmas, shape, settings), settings)


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
    sees the whole image at once. On `device` "cuda" the exact path runs there, one transfer in and one table out;
    RuntimeError where there is no GPU.
    """
    return select_detections(find_candidates_in_strips(read, shape, settings, limits, strip_px, device), settings)
