"""Blobs by the Laplacian of Gaussian: find_blobs (exact or fast), detect_image(s), detect_strips."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from emqa_dask.backend import backend, in_batches, to_device
from emqa_dask.detect import log_fast, scales, tiles
from emqa_dask.detect.candidates import (
    Candidates,
    candidates,
    candidates_of_strips,
    centred,
    chosen_detections,
    maxima_on_device,
    pruned,
    score,
    searched_pixels,
    searched_sigmas,
)
from emqa_dask.detect.log_exact import scale_maxima
from emqa_dask.detect.normalise import Limits, real
from emqa_dask.detect.prune import affordable, prune
from emqa_dask.settings import Detect

__all__ = [
    "candidates",
    "chosen_detections",
    "detect_image",
    "detect_images",
    "detect_strips",
    "find_blobs",
    "pruned",
    "scale_maxima",
    "score",
]
MOST = 1_000_000  # blobs of each polarity that find_blobs keeps before it prunes


def find_blobs(
    image: Any,
    *,
    min_sigma: float,
    max_sigma: float,
    num_sigma: int,
    threshold: float | None,
    overlap: float | None,
    log_scale: bool = False,
    exclude_border: int | bool | tuple[int, int] = False,
    polarity: str = "bright",
    threshold_rel: float | None = None,
    method: str = "exact",
) -> pd.DataFrame:
    """Blobs of `image`: maxima over place and scale of -sigma^2 times the Laplacian of Gaussian, overlaps pruned.

    `image` is (h, w), any real dtype, numpy or cupy; integers are scaled by their dtype's maximum, floats taken as they
    are. `threshold` (None: the lowest response) and `threshold_rel` (of the highest response) bound the response, the
    larger counts. `overlap` is the shared fraction of the smaller disk's area above which the smaller blob goes; None
    prunes nothing. Returns columns y_px, x_px, sigma_px, response (float64) and polarity (int8, +1 or -1), strongest
    first; nothing found gives no rows.

    Method "exact": with polarity "bright" the rows are those of `skimage.feature.blob_log` 0.26, blob for blob, equals
    by row, column, scale; "dark" are those of the negated image, with their response counted positive; "both" is the
    union of the two, pruned together: the larger disk stays whatever its polarity, so a bright rim does not outlive the
    dark cavity that it surrounds. Method "fast", for numpy arrays: the same search in float32, with large scales on
    coarser grids; place, scale and response are then those of the top of a quadratic surface through each blob's 27
    values, at most half a pixel and half a scale away (`surface.refined`); constant images have no blobs. It prunes
    from the largest blob down (`prune.largest_first`), where scikit-image goes by the order of a Python set.

    `attrs["too_many_blobs"]` says that a threshold is so low that only the strongest were looked at: more than `MOST`
    blobs of one polarity, or more than `prune.PAIRS` near each other. Which, is the same every time.

    Raises ValueError for images that are not two-dimensional or hold NaN or infinity (`normalise` replaces those),
    for a max_sigma beyond the image's longer side, and for settings that make no sense.
    Lindeberg, Int. J. Comput. Vision 30 (1998) 79.
    """
    if method not in ("exact", "fast"):
        raise ValueError(f"method is {method!r}: it has to be 'exact' or 'fast'")
    xp, _ = backend(image)
    if method == "fast" and xp is not np:
        raise ValueError(
            "method 'fast' is for numpy arrays: use method='exact' on a GPU, or move the image with .get()"
        )
    image = as_float(image)
    if not bool(xp.isfinite(image).all()):
        raise ValueError("the image holds NaN or infinite pixels: detect.normalise.normalise replaces them")
    image = image.astype(np.float32, copy=False) if method == "fast" else image
    sigmas = scales.sigma_list(min_sigma, max_sigma, num_sigma, log_scale, image.dtype)
    border = scales.border_px(exclude_border)
    scales.signs(polarity)
    if image.size and max_sigma > max(image.shape):
        raise ValueError(f"max_sigma is {max_sigma} px, the image {image.shape[0]} x {image.shape[1]} px: lower it")
    if method == "fast":
        found = _fast_maxima(image, sigmas, threshold, polarity, threshold_rel)
    else:
        found = scale_maxima(image, sigmas, threshold, polarity, threshold_rel, most=MOST + 1)
    n_found = len(found.y)
    found = scales.capped(found, MOST)
    is_full = len(found.y) < n_found
    found = scales.inside(found, image.shape, border)
    if overlap is not None:
        n = affordable(found.y, found.x, sigmas[found.scale])
        is_full |= n < len(found.y)
        found = scales.chosen(found, slice(n))
        found = pruned(found, sigmas, overlap) if method == "fast" else _pruned_as_there(found, sigmas, overlap)
    rows = scales.refined_table(found, sigmas, log_scale) if method == "fast" else scales.table(found, sigmas)
    rows.attrs["too_many_blobs"] = is_full
    return rows


def _pruned_as_there(found: scales.Maxima, sigmas: np.ndarray, overlap: float) -> scales.Maxima:
    y, x = (axis.astype(sigmas.dtype) for axis in (found.y, found.x))
    return scales.chosen(found, prune(y, x, sigmas[found.scale], overlap))


def _fast_maxima(image, sigmas, threshold, polarity, threshold_rel) -> scales.Maxima:
    if image.size == 0 or image.min() == image.max():
        return scales.NOTHING
    found = log_fast.scale_maxima(image, sigmas, threshold, polarity, most=MOST + 1)
    if threshold_rel is None:
        return found
    keep = np.zeros(len(found.y), bool)
    for sign in scales.signs(polarity):
        side = found.polarity == sign
        keep |= side & (found.response > threshold_rel * found.response[side].max(initial=0))
    return scales.chosen(found, keep)


def as_float(image: Any) -> Any:
    """`image` (h, w) as float32 or float64, scaled as `skimage.util.img_as_float` does; bad shapes raise ValueError."""
    xp, _ = backend(image)
    if getattr(image, "ndim", None) != 2:
        raise ValueError(f"the image has shape {np.shape(image)}: it has to be two-dimensional")
    kind = image.dtype.kind
    if kind == "f":
        return image.astype(np.float32 if image.dtype.itemsize <= 4 else np.float64, copy=False)
    if kind == "b":
        return image.astype(np.float64)
    if kind not in "iu":
        raise ValueError(f"the image's dtype is {image.dtype}: it has to be real numbers")
    scaled = image.astype(np.float64) * (1.0 / np.iinfo(image.dtype).max)
    return xp.maximum(scaled, -1.0) if kind == "i" else scaled


def detect_image(
    image: np.ndarray, settings: Detect, limits: Limits | None = None, device: str = "cpu"
) -> pd.DataFrame:
    """The blobs of one micrograph as rows of `tables.DETECTIONS` without micrograph_id, strongest first.

    `image` is (h, w) of any real dtype on the host; it is normalised as `settings` says, and `settings.threshold` is on
    that scale. Maxima are sought, compared with the threshold and pruned on the pixels and scales of the search; then
    y_px, x_px, sigma_px and response move to the top of the surface around each, at most half a pixel and half a scale
    away (see `surface.refined`). The box is that of the disk of radius sqrt(2) sigma, cut at the image's edges, in px
    from the upper left corner of the first pixel (so a centre at row y lies at y + 0.5); area_px is the whole disk's.
    No blob lies on a NaN or infinite pixel. Polarity "auto" is bright or dark, whichever answers more strongly in the
    whole image. Scales larger than the image's longer side are left out. Empty, constant and all-NaN images give no
    rows. `limits` are the intensities that become 0 and 1, where they are known from elsewhere.
    `device` is "cpu" or "cuda"; RuntimeError where there is no GPU.

    `attrs["is_capped"]` of the table says whether more than `settings.max_detections` were found; the strongest are
    kept. `attrs["too_many_blobs"]` says whether there were over 20 times as many maxima of a polarity, or so many near
    each other, that only the strongest were even pruned: the threshold is in the noise. Memory is bounded whatever the
    threshold. Raises ValueError for images that are not two-dimensional and real.
    """
    return chosen_detections(candidates(image, settings, limits, device), settings)


def detect_images(
    images: Iterable[np.ndarray], settings: Detect, batch_size: int = 1, device: str = "cpu"
) -> Iterator[pd.DataFrame]:
    """The rows of `detect_image` for each of `images`, in order, whatever `batch_size`.

    On the CPU they are dealt with one by one as they come. On `device` "cuda" up to `batch_size` images of one
    shape travel to the GPU together, and half as many from the moment that its memory runs out; MemoryError when one
    image alone is too large, RuntimeError where there is no GPU.
    """
    if device == "cpu":
        return (detect_image(image, settings) for image in images)
    return in_batches(lambda batch: _detect_batch(batch, settings, device), images, batch_size)


def _detect_batch(images: list[np.ndarray], settings: Detect, device: str) -> Iterator[pd.DataFrame]:
    images = [real(np.asarray(image)) for image in images]
    shape = images[0].shape
    sigmas = searched_sigmas(settings, shape)
    if len({image.shape for image in images}) > 1 or images[0].size > tiles.WHOLE_PX or len(sigmas) == 0:
        yield from (detect_image(image, settings, device=device) for image in images)
        return
    pixels = to_device(np.stack([centred(image, settings) for image in images]), device)
    for n, image in enumerate(images):
        where = searched_pixels(image, settings, 0, 0, shape[0], shape)
        found = maxima_on_device(pixels[n], sigmas, where, settings, device)
        yield chosen_detections(Candidates(found, sigmas, shape, settings), settings)


def detect_strips(
    read: Callable[[int, int], np.ndarray],
    shape: tuple[int, int],
    settings: Detect,
    limits: Limits | None = None,
    strip_px: int | None = None,
    device: str = "cpu",
) -> pd.DataFrame:
    """`detect_image` of an image of `shape` of which only strips are in memory; the same rows for any `strip_px`.

    `read(y0, y1)` gives rows y0 <= y < y1, all columns. Every strip is searched with the rows around it that its widest
    kernel touches, and keeps the blobs whose centre it owns, so that no blob is cut, lost or counted twice; pruning
    then sees the whole image at once. On `device` "cuda" the exact path runs there, one transfer in and one
    table out; RuntimeError where there is no GPU.
    """
    return chosen_detections(candidates_of_strips(read, shape, settings, limits, strip_px, device), settings)
