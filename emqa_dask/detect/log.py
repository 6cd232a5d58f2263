"""Blobs by the Laplacian of Gaussian: find_blobs (exact, any device), detect_image(s) (fast), what a score means."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from emqa_dask import tables
from emqa_dask.backend import backend, in_batches, to_device, to_host
from emqa_dask.detect import log_fast, scales, tiles
from emqa_dask.detect.normalise import Limits, is_finite, normalise, real
from emqa_dask.detect.prune import prune
from emqa_dask.detect.scales import Maxima
from emqa_dask.settings import Detect

CANDIDATES = 20  # times max_detections: the most blobs that pruning looks at


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
) -> pd.DataFrame:
    """Blobs of `image`: maxima over place and scale of -sigma^2 times the Laplacian of Gaussian, overlaps pruned.

    `image` is (h, w), any real dtype, numpy or cupy; integers are scaled by their dtype's maximum, floats taken as they
    are. `threshold` (None: the lowest response) and `threshold_rel` (of the highest response) bound the response, the
    larger counts. `overlap` is the shared fraction of the smaller disk's area above which the smaller blob goes; None
    prunes nothing. Returns columns y_px, x_px, sigma_px, response (float64) and polarity (int8, +1 or -1), strongest
    first, equals by polarity, row, column, scale; nothing found gives no rows. Raises ValueError for images that are
    not two-dimensional or hold NaN or infinity (`normalise` replaces those), and for settings that make no sense.

    With polarity "bright" the rows are those of `skimage.feature.blob_log` 0.26, blob for blob; "dark" are those of the
    negated image, with their response counted positive; "both" is the union of the two, pruned together: the larger
    disk stays whatever its polarity, so a bright rim does not outlive the dark cavity that it surrounds.
    Lindeberg, Int. J. Comput. Vision 30 (1998) 79.
    """
    xp, _ = backend(image)
    image = as_float(image)
    if not bool(xp.isfinite(image).all()):
        raise ValueError("the image holds NaN or infinite pixels: detect.normalise.normalise replaces them")
    sigmas = scales.sigma_list(min_sigma, max_sigma, num_sigma, log_scale, image.dtype)
    border = scales.border_px(exclude_border)
    found = scales.inside(scale_maxima(image, sigmas, threshold, polarity, threshold_rel), image.shape, border)
    return scales.table(pruned(found, sigmas, overlap), sigmas)


def pruned(found: Maxima, sigmas: np.ndarray, overlap: float | None) -> Maxima:
    """`found` without the blobs that overlap a larger one by more than `overlap`; None keeps all."""
    if overlap is None:
        return found
    keep = prune(found.y.astype(sigmas.dtype), found.x.astype(sigmas.dtype), sigmas[found.scale], overlap)
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


def scale_maxima(
    image: Any, sigmas: np.ndarray, threshold: float | None, polarity: str, threshold_rel: float | None = None
) -> Maxima:
    """Local maxima (3 x 3 x 3, plateaus whole) of the scale space of a float `image`, on its device, strongest first.

    A window of three scales slides over `sigmas`, so memory is that of a few images, whatever their number.
    """
    xp, ndi = backend(image)
    sides = scales.signs(polarity)
    if image.size == 0:
        return scales.NOTHING
    n_values = image.size * len(sigmas)
    found: dict[int, list] = {sign: [] for sign in sides}
    n_maxima, lowest, highest = dict.fromkeys(sides, 0), dict.fromkeys(sides, math.inf), dict.fromkeys(sides, -math.inf)

    def layer(k: int) -> tuple[Any, dict[int, Any]]:
        # The scale stays a numpy scalar of the image's dtype: a kernel from a rounded sigma^2 is scikit-image's, too.
        response = -ndi.gaussian_laplace(image, sigmas[k]) * float(sigmas[k] ** 2)
        return response, {sign: ndi.maximum_filter(sign * response, size=3, mode="nearest") for sign in sides}

    before, here = None, layer(0)
    for k in range(len(sigmas)):
        after = layer(k + 1) if k + 1 < len(sigmas) else None
        for sign in sides:
            value = sign * here[0]
            is_peak = value == here[1][sign]
            for beside in (before, after):
                if beside is not None:
                    is_peak &= value >= beside[1][sign]
            n_maxima[sign] += int(is_peak.sum())
            lowest[sign] = min(lowest[sign], float(value.min()))
            highest[sign] = max(highest[sign], float(value.max()))
            if threshold is not None:
                is_peak &= value > threshold
            y, x = xp.nonzero(is_peak)
            found[sign].append((y, x, xp.full(y.shape, k), value[y, x]))
        before, here = here, after

    every = []
    for sign in sides:
        y, x, scale, value = (to_host(xp.concatenate(part)) for part in zip(*found[sign]))
        limit = lowest[sign] if threshold is None else threshold
        if threshold_rel is not None:
            limit = max(limit, threshold_rel * highest[sign])
        # Where every value is a maximum the scale space is constant, and nothing is a blob; a single value has no
        # surroundings, and scikit-image only asks whether it passes the threshold.
        keep = (value > limit) & (n_values == 1 or n_maxima[sign] < n_values)
        every.append(scales.maxima(sign, y[keep], x[keep], scale[keep], value[keep]))
    return scales.ordered(every)


def detect_image(image: np.ndarray, settings: Detect, limits: Limits | None = None) -> pd.DataFrame:
    """The blobs of one micrograph as rows of `tables.DETECTIONS` without micrograph_id, strongest first.

    `image` is (h, w) of any real dtype on the host; it is normalised as `settings` says, and `settings.threshold` is on
    that scale. The box is that of the disk of radius sqrt(2) sigma, cut at the image's edges, in px from the upper left
    corner of the first pixel (so a centre at row y lies at y + 0.5); area_px is the whole disk's. No blob lies on a NaN
    or infinite pixel. `attrs["is_capped"]` of the table says whether more than `settings.max_detections` were found;
    the strongest are kept. Polarity "auto" is bright or dark, whichever answers more strongly in the whole image.
    Empty, constant and all-NaN images give no rows. `limits` are the intensities that become 0 and 1, where they are
    known from elsewhere. Raises ValueError for images that are not two-dimensional and real.
    """
    image = real(np.asarray(image))
    return detect_strips(lambda y0, y1: image[y0:y1], image.shape, settings, limits)


def detect_images(images: Iterable[np.ndarray], settings: Detect, batch_size: int = 1) -> Iterator[pd.DataFrame]:
    """The rows of `detect_image` for each of `images`, in order, whatever `batch_size`.

    On the CPU they are dealt with one by one as they come. On `settings.device` "cuda" up to `batch_size` images of one
    shape travel to the GPU together, and half as many from the moment that its memory runs out; MemoryError when one
    image alone is too large, RuntimeError where there is no GPU.
    """
    if settings.device == "cpu":
        return (detect_image(image, settings) for image in images)
    return in_batches(lambda batch: _detect_batch(batch, settings), images, batch_size)


def _detect_batch(images: list[np.ndarray], settings: Detect) -> Iterator[pd.DataFrame]:
    images = [real(np.asarray(image)) for image in images]
    if len({image.shape for image in images}) > 1 or images[0].size > tiles.WHOLE_PX:
        yield from (detect_image(image, settings) for image in images)
        return
    sigmas, sides = _searched(settings)
    pixels = to_device(np.stack([_centred(image, settings) for image in images]), settings.device)
    for n, image in enumerate(images):
        part = scale_maxima(pixels[n], sigmas, settings.threshold, sides)
        yield detections(scales.ordered([_finite(part, image)]), sigmas, image.shape, settings)


def detect_strips(
    read: Callable[[int, int], np.ndarray],
    shape: tuple[int, int],
    settings: Detect,
    limits: Limits | None = None,
    strip_px: int | None = None,
) -> pd.DataFrame:
    """`detect_image` of an image of `shape` of which only strips are in memory; the same rows for any `strip_px`.

    `read(y0, y1)` gives rows y0 <= y < y1, all columns. Every strip is searched with the rows around it that its widest
    kernel touches, and keeps the blobs whose centre it owns, so that no blob is cut, lost or counted twice; pruning
    then sees the whole image at once. On `settings.device` "cuda" the exact path runs there, one transfer in and one
    table out; RuntimeError where there is no GPU.
    """
    percentiles = settings.low_percentile, settings.high_percentile
    limits = tiles.sampled_limits(read, shape, percentiles) if limits is None else limits
    sigmas, sides = _searched(settings)
    steps = [log_fast.step_px(sigma, shape) for sigma in sigmas]
    found = [scales.NOTHING]
    for first, start, stop, last in tiles.strips(shape, log_fast.halo_px(sigmas.max()) + 1, max(steps), strip_px):
        image = real(np.asarray(read(first, last)))
        pixels = _centred(image, settings, limits)
        if settings.device == "cpu":
            part = log_fast.scale_maxima(pixels, sigmas, settings.threshold, sides, steps)
        else:
            part = scale_maxima(to_device(pixels, settings.device), sigmas, settings.threshold, sides)
        part = _finite(scales.chosen(part, (part.y >= start - first) & (part.y < stop - first)), image)
        found.append(part._replace(y=part.y + first))
    return detections(scales.ordered(found), sigmas, shape, settings)


def _searched(settings: Detect) -> tuple[np.ndarray, str]:
    """The scales and the polarity to search; "auto" is decided when both have been found."""
    sigmas = scales.sigma_list(settings.min_sigma, settings.max_sigma, settings.num_sigma, settings.log_scale)
    return sigmas, "both" if settings.polarity == "auto" else settings.polarity


def _centred(image: np.ndarray, settings: Detect, limits: Limits | None = None) -> np.ndarray:
    """`image` on the normalised scale, less 0.5.

    Truncated kernels answer a flat image with 0.002 of its value: centred, bright and dark stay mirror images.
    """
    return normalise(image, settings.low_percentile, settings.high_percentile, limits) - np.float32(0.5)


def _finite(found: Maxima, image: np.ndarray) -> Maxima:
    """`found` without the maxima on pixels of `image` that are NaN or infinite."""
    known = is_finite(image)
    return found if known is None else scales.chosen(found, known[found.y, found.x])


def detections(found: Maxima, sigmas: np.ndarray, shape: tuple[int, int], settings: Detect) -> pd.DataFrame:
    """Scale space maxima of an image of `shape` as the rows that `detect_image` describes: pruned, capped, boxed."""
    found = scales.inside(found, shape, scales.border_px(settings.exclude_border))
    if settings.polarity == "auto":
        found = scales.one_polarity(found)
    # Noise searched at a threshold near zero has millions of maxima: pruning sees the strongest of them only.
    n_pruned = CANDIDATES * settings.max_detections
    is_capped = len(found.y) > n_pruned
    found = pruned(scales.chosen(found, slice(n_pruned)), sigmas, settings.overlap)
    is_capped |= len(found.y) > settings.max_detections
    rows = scales.table(scales.chosen(found, slice(settings.max_detections)), sigmas)
    radius = math.sqrt(2) * rows["sigma_px"]
    for axis, size in zip("yx", shape):
        rows[f"{axis}0"] = (rows[f"{axis}_px"] + 0.5 - radius).clip(lower=0)
        rows[f"{axis}1"] = (rows[f"{axis}_px"] + 0.5 + radius).clip(upper=size)
    rows["area_px"] = math.pi * radius**2
    rows["score"] = score(rows["response"])
    rows["label"] = "blob"
    rows = rows[[name for name in tables.DETECTIONS.names if name != "micrograph_id"]]
    rows.attrs["is_capped"] = is_capped
    return rows


def score(response: np.ndarray) -> np.ndarray:
    """Contrast of the uniform disk that gives `response`, as a fraction of the normalised intensity range, 0...1.

    A disk of contrast c answers c (r/sigma)^2 exp(-r^2 / (2 sigma^2)) at its centre, at most 2c/e, at
    sigma = r / sqrt(2). Contrasts above the range count as 1. NaN stays NaN.
    """
    return np.clip(np.asarray(response, np.float64) / (2 / math.e), 0, 1)
