"""find_blobs(): blobs of an image by the Laplacian of Gaussian, as scikit-image finds them or faster."""

from typing import Any

import numpy as np
import pandas as pd

from emqa_dask.backend import get_array_modules
from emqa_dask.detect import log_exact, log_fast, scales
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
    """Blobs of an image: maxima over place and scale of the scale-normalised Laplacian of Gaussian.

    The response is -sigma^2 times the Laplacian of Gaussian. A disk of radius r has its maximum at sigma = r / sqrt(2).

    Parameters
    ----------
    image : array (h, w)
        Any real dtype, numpy or cupy. Integers are divided by the largest value of their dtype.
    min_sigma, max_sigma : float
        Smallest and largest scale, px.
    num_sigma : int
        Number of scales.
    threshold : float or None
        Lower bound of the response; None: the lowest response of the scale space.
    overlap : float or None
        Shared fraction of the smaller disk's area above which the smaller blob is removed; None keeps all.
    log_scale : bool
        Whether scales are spaced geometrically instead of linearly.
    exclude_border : int, tuple of two int, or False
        Width of the border without blobs, px; for rows and columns.
    polarity : {"bright", "dark", "both"}
        Blobs brighter than their surroundings, darker, or both, pruned together: a bright rim does not outlive the
        larger, dark cavity that it surrounds.
    threshold_rel : float or None
        Lower bound of the response as a fraction of the highest one; the larger of both bounds counts.
    method : {"exact", "fast"}
        "exact" gives the blobs of `skimage.feature.blob_log` 0.26, also on a GPU. "fast", for numpy arrays, computes in
        float32, large scales on coarser grids; place, scale and response are those of the top of a quadratic surface
        through the 27 values around a maximum, and the largest blobs are kept first, whatever the order of the maxima.

    Returns
    -------
    pandas.DataFrame
        Columns y_px, x_px, sigma_px, response (float64) and polarity (int8, +1 or -1), strongest first; no rows when
        nothing is found. `attrs["too_many_blobs"]` is True when only the strongest maxima were examined: more than
        `MAX_BLOBS` of one polarity, or more than `prune.MAX_DISK_PAIRS` pairs near each other.

    Raises
    ------
    ValueError
        If the image is not two-dimensional and real or holds NaN or infinity (`detect.normalise.normalise` replaces
        these), if max_sigma exceeds its longer side, or if an argument is out of range.

    References
    ----------
    Lindeberg, Int. J. Comput. Vision 30 (1998) 79.
    """
    image = _check_image(image, method)
    sigmas = scales.compute_sigmas(min_sigma, max_sigma, num_sigma, log_scale, image.dtype)
    border = scales.parse_border(exclude_border)
    scales.parse_polarity(polarity)
    if image.size and max_sigma > max(image.shape):
        raise ValueError(f"max_sigma is {max_sigma} px, the image {image.shape[0]} x {image.shape[1]} px: lower it")
    find_maxima = _find_fast_maxima if method == "fast" else _find_exact_maxima
    maxima = find_maxima(image, sigmas, threshold, polarity, threshold_rel)
    n_maxima = len(maxima.y)
    maxima = scales.cap_maxima(maxima, MAX_BLOBS)
    is_full = len(maxima.y) < n_maxima
    maxima = scales.drop_border(maxima, image.shape, border)
    if overlap is not None:
        n_affordable = count_affordable(maxima.y, maxima.x, sigmas[maxima.scale])
        is_full |= n_affordable < len(maxima.y)
        maxima = scales.select_maxima(maxima, slice(n_affordable))
        prune = prune_maxima if method == "fast" else _prune_as_skimage
        maxima = prune(maxima, sigmas, overlap)
    if method == "fast":
        rows = scales.tabulate_refined_maxima(maxima, sigmas, log_scale)
    else:
        rows = scales.tabulate_maxima(maxima, sigmas)
    rows.attrs["too_many_blobs"] = is_full
    return rows


def _check_image(image: Any, method: str) -> Any:
    """`image` as float32 or float64, after the checks of find_blobs()."""
    if method not in ("exact", "fast"):
        raise ValueError(f"method is {method!r}: it has to be 'exact' or 'fast'")
    xp, _ = get_array_modules(image)
    if method == "fast" and xp is not np:
        raise ValueError(
            "method 'fast' is for numpy arrays: use method='exact' on a GPU, or move the image with .get()"
        )
    image = convert_to_float(image)
    if not bool(xp.isfinite(image).all()):
        raise ValueError("the image holds NaN or infinite pixels: detect.normalise.normalise replaces them")
    return image.astype(np.float32, copy=False) if method == "fast" else image


def _find_exact_maxima(image, sigmas, threshold, polarity, threshold_rel) -> Maxima:
    return log_exact.find_scale_maxima(
        image, sigmas, threshold, polarity, threshold_rel, max_per_polarity=MAX_BLOBS + 1
    )


def _find_fast_maxima(image, sigmas, threshold, polarity, threshold_rel) -> Maxima:
    """As _find_exact_maxima() in float32; none in a constant image."""
    if image.size == 0 or image.min() == image.max():
        return scales.NO_MAXIMA
    maxima = log_fast.find_scale_maxima(image, sigmas, threshold, polarity, max_per_polarity=MAX_BLOBS + 1)
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
    kind = image.dtype.kind
    if kind == "f":
        return image.astype(np.float32 if image.dtype.itemsize <= 4 else np.float64, copy=False)
    if kind == "b":
        return image.astype(np.float64)
    if kind not in "iu":
        raise ValueError(f"the image's dtype is {image.dtype}: it has to be real numbers")
    scaled = image.astype(np.float64) * (1.0 / np.iinfo(image.dtype).max)
    return xp.maximum(scaled, -1.0) if kind == "i" else scaled
