"""find_blobs(): blobs of an image by the Laplacian of Gaussian, as scikit-image finds them or faster.

The fast method computes in float32, large scales on coarser grids. Place, scale and response are those of the top of a
quadratic surface through the 27 values around a maximum. The largest blobs are kept first, whatever the order of the
maxima. At most `MAX_BLOBS` maxima of each polarity and `prune.MAX_DISK_PAIRS` pairs near each other are examined.
"""

import math
from typing import Any

import numpy as np
import pandas as pd

from emqa_dask.backend import get_array_modules
from emqa_dask.detect import log_batch, log_exact, log_fast, scales
from emqa_dask.detect.candidates import prune_maxima
from emqa_dask.detect.prune import count_affordable, prune_as_skimage
from emqa_dask.detect.scales import Maxima

MAX_BLOBS = 1_000_000  # of each polarity, kept before pruning: bounds memory at about 0.2 GB


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
    """Blobs of an image: maxima over place and scale of -sigma^2 times its Laplacian of Gaussian.

    Parameters
    ----------
    image : array (h, w)
        Any real dtype, numpy or cupy. Integers are divided by the largest value of their dtype.
    min_sigma, max_sigma, num_sigma : float, float, int
        Smallest and largest scale, px, and number of scales. A disk of radius r has its maximum at r / sqrt(2).
    threshold, threshold_rel : float or None
        Lower bounds of the response, absolute (None: its lowest value) and relative to its highest; the larger counts.
    overlap : float or None
        Shared fraction of the smaller disk's area above which the smaller blob is removed; None keeps all.
    log_scale : bool
        Whether scales are spaced geometrically instead of linearly.
    exclude_border : int, tuple of two int, or False
        Width of the border without blobs, px; for rows and columns.
    polarity : {"bright", "dark", "both"}
        Blobs brighter than their surroundings, darker, or both, pruned together.
    method : {"exact", "fast"}
        "exact" gives the blobs of `skimage.feature.blob_log` 0.26; "fast" computes in float32. Both run on a GPU.

    Returns
    -------
    pandas.DataFrame
        Columns y_px, x_px, sigma_px, response (float64) and polarity (int8, +1 or -1), strongest first.
        `attrs["too_many_blobs"]` is True where only the strongest maxima were examined.

    Raises
    ------
    ValueError
        If the image is not two-dimensional, real and finite, or if an argument is out of range.

    References
    ----------
    Lindeberg, Int. J. Comput. Vision 30 (1998) 79.
    """
    image = _check_image(image, method)
    sigmas = scales.compute_sigmas(min_sigma, max_sigma, num_sigma, log_scale, image.dtype)
    border = scales.parse_border(exclude_border)
    _check_search(image, max_sigma, polarity)
    maxima = _find_maxima(image, sigmas, threshold, polarity, threshold_rel, method)
    capped_maxima = scales.cap_maxima(maxima, MAX_BLOBS)
    blobs, is_limited = _prune(scales.drop_border(capped_maxima, image.shape, border), sigmas, overlap, method)
    rows = _tabulate(blobs, sigmas, log_scale, method)
    rows.attrs["too_many_blobs"] = is_limited or len(capped_maxima.y) < len(maxima.y)
    return rows


def _tabulate(blobs: Maxima, sigmas: np.ndarray, log_scale: bool, method: str) -> pd.DataFrame:
    if method == "fast":
        return scales.tabulate_refined_maxima(blobs, sigmas, log_scale)
    return scales.tabulate_maxima(blobs, sigmas)


def _prune(maxima: Maxima, sigmas: np.ndarray, overlap: float | None, method: str) -> tuple[Maxima, bool]:
    """The blobs that remain, and whether weak maxima were left out because too many pairs lie near each other.

    A bright rim does not outlive the larger, dark cavity that it surrounds: both polarities are pruned together.
    """
    if overlap is None:
        return maxima, False
    n_affordable = count_affordable(maxima.y, maxima.x, sigmas[maxima.scale])
    strongest = scales.select_maxima(maxima, slice(n_affordable))
    prune = prune_maxima if method == "fast" else _prune_as_skimage
    return prune(strongest, sigmas, overlap), n_affordable < len(maxima.y)


def _check_search(image: Any, max_sigma: float, polarity: str) -> None:
    """ValueError unless the polarity is known and the largest scale is at most the image's longer side."""
    scales.parse_polarity(polarity)
    if image.size and max_sigma > max(image.shape):
        raise ValueError(f"max_sigma is {max_sigma} px, the image {image.shape[0]} x {image.shape[1]} px: lower it")


def _check_image(image: Any, method: str) -> Any:
    """`image` as float32 or float64, after the checks of find_blobs()."""
    if method not in ("exact", "fast"):
        raise ValueError(f"method is {method!r}: it has to be 'exact' or 'fast'")
    xp, _ = get_array_modules(image)
    image = convert_to_float(image)
    if not bool(xp.isfinite(image).all()):
        raise ValueError("the image holds NaN or infinite pixels: detect.normalise.normalise replaces them")
    return image.astype(np.float32, copy=False) if method == "fast" else image


def _find_maxima(image, sigmas, threshold, polarity, threshold_rel, method) -> Maxima:
    """The strongest maxima; one more than `MAX_BLOBS` of a polarity shows that some were left out."""
    if method == "fast":
        return _find_fast_maxima(image, sigmas, threshold, polarity, threshold_rel)
    return log_exact.find_scale_maxima(
        image, sigmas, threshold, polarity, threshold_rel, max_per_polarity=MAX_BLOBS + 1
    )


def _find_fast_maxima(image, sigmas, threshold, polarity, threshold_rel) -> Maxima:
    """As log_exact.find_scale_maxima() in float32; none in a constant image."""
    if image.size == 0 or bool(image.min() == image.max()):
        return scales.NO_MAXIMA
    xp, _ = get_array_modules(image)
    if xp is np:
        maxima = log_fast.find_scale_maxima(image, sigmas, threshold, polarity, max_per_polarity=MAX_BLOBS + 1)
    else:
        floor = -math.inf if threshold is None else threshold
        (maxima,) = log_batch.find_batch_maxima(image[None], sigmas, floor, polarity, max_per_polarity=MAX_BLOBS + 1)
    if threshold_rel is None:
        return maxima
    keep = np.zeros(len(maxima.y), bool)
    for sign in scales.parse_polarity(polarity):
        has_sign = maxima.polarity == sign
        keep |= has_sign & (maxima.response > threshold_rel * maxima.response[has_sign].max(initial=0))
    return scales.select_maxima(maxima, keep)


def _prune_as_skimage(maxima: Maxima, sigmas: np.ndarray, overlap: float) -> Maxima:
    y, x = (axis.astype(sigmas.dtype) for axis in (maxima.y, maxima.x))
    return scales.select_maxima(maxima, prune_as_skimage(y, x, sigmas[maxima.scale], overlap))


def convert_to_float(image: Any) -> Any:
    """`image` (h, w) as float32 or float64, scaled as `skimage.util.img_as_float` does; bad shapes raise ValueError."""
    xp, _ = get_array_modules(image)
    if getattr(image, "ndim", None) != 2:
        raise ValueError(f"the image has shape {np.shape(image)}: it has to be two-dimensional")
    dtype_kind = image.dtype.kind
    if dtype_kind == "f":
        return image.astype(np.float32 if image.dtype.itemsize <= 4 else np.float64, copy=False)
    if dtype_kind == "b":
        return image.astype(np.float64)
    if dtype_kind not in "iu":
        raise ValueError(f"the image's dtype is {image.dtype}: it has to be real numbers")
    scaled = image.astype(np.float64) * (1.0 / np.iinfo(image.dtype).max)
    return xp.maximum(scaled, -1.0) if dtype_kind == "i" else scaled
