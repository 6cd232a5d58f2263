"""Maxima of the scale space with scikit-image's arithmetic: by numba on the host, by (xp, ndi) on other devices."""

import math
from collections import deque
from typing import Any

import numpy as np

from emqa_dask.backend import get_array_modules
from emqa_dask.detect import batch_peaks, filters, peaks, scales
from emqa_dask.detect.peaks import Layer
from emqa_dask.detect.scales import Maxima


def find_scale_maxima(
    image: Any,
    sigmas: np.ndarray,
    threshold: float | None,
    polarity: str,
    threshold_rel: float | None = None,
    max_per_polarity: int | None = None,
) -> Maxima:
    """Local maxima (3 x 3 x 3, plateaus whole) of the scale space of a float `image`, on its device, strongest first.

    `sigmas` have the image's dtype. `threshold` (None: the lowest value) and `threshold_rel` (of the highest value)
    are those of `skimage.feature.blob_log`. Three scales are in memory at a time, and of each polarity at most
    `max_per_polarity` maxima, also while they are collected (None: all). An image without pixels
    gives none.
    """
    xp, _ = get_array_modules(image)
    signs = scales.parse_polarity(polarity)
    if image.size == 0 or len(sigmas) == 0:
        return scales.NO_MAXIMA
    # As numpy compares an array with a number: in the array's dtype.
    floor = -math.inf if threshold is None else float(image.dtype.type(threshold))
    collect = _collect_on_host if xp is np else _collect_on_device
    maxima, n_peaks, lowest = collect(image, sigmas, signs, floor, max_per_polarity)
    n_values = image.size * len(sigmas)
    maxima_by_sign = []
    for sign in signs:
        part = scales.select_maxima(maxima, maxima.polarity == sign)
        limit = lowest[sign] if threshold is None else floor
        if threshold_rel is not None and len(part.response):
            highest = image.dtype.type(part.response.max())
            limit = max(limit, float(threshold_rel * highest))
        # Where every value is a maximum the scale space is constant, and nothing is a blob; a single value has no
        # neighbours, and scikit-image only compares it with the threshold.
        keep = (part.response > limit) & (n_values == 1 or n_peaks[sign] < n_values)
        maxima_by_sign.append(scales.select_maxima(part, keep))
    return scales.sort_maxima(maxima_by_sign)


def _collect_on_host(image, sigmas, signs, floor, max_per_polarity) -> tuple[Maxima, dict, dict]:
    """Maxima above `floor`; per sign their number, and the lowest value if floor is -inf."""
    lowest = dict.fromkeys(signs, math.inf)

    def compute_layers():
        ring = deque(maxlen=peaks.N_LAYERS_IN_MEMORY)
        for sigma in sigmas:
            free = ring[0] if len(ring) == peaks.N_LAYERS_IN_MEMORY else None
            response = filters.gaussian_laplace(image, sigma, free)
            ring.append(response)
            if floor == -math.inf:
                for sign in signs:
                    lowest[sign] = min(lowest[sign], float(response.min() if sign > 0 else -response.max()))
            yield Layer(response, 1)

    maxima, n_peaks = peaks.collect_peaks(compute_layers(), image.shape, signs, floor, max_per_polarity)
    return maxima, n_peaks, lowest


def _collect_on_device(image, sigmas, signs, floor, max_per_polarity) -> tuple[Maxima, dict, dict]:
    """As _collect_on_host() on (xp, ndi); the maxima are moved once, as one table."""
    _, ndi = get_array_modules(image)
    lowest = dict.fromkeys(signs, math.inf)

    def compute_layers():
        for sigma in sigmas:
            # It stays a numpy scalar of the image's dtype: a kernel from a rounded sigma^2 is scikit-image's, too.
            response = -ndi.gaussian_laplace(image, sigma) * float(sigma**2)
            if floor == -math.inf:
                for sign in signs:
                    lowest[sign] = min(lowest[sign], float((sign * response).min()))
            yield response[None]

    (maxima,), n_peaks = batch_peaks.collect_batch_peaks(compute_layers(), image[None], signs, floor, max_per_polarity)
    return maxima, n_peaks, lowest
