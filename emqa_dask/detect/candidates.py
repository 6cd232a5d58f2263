"""What the LoG detector finds above a floor, and what a threshold, an overlap and a polarity choose of it."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from emqa_dask import tables
from emqa_dask.backend import to_device
from emqa_dask.detect import log_exact, log_fast, scales, tiles
from emqa_dask.detect.normalise import Limits, is_finite, normalise, real
from emqa_dask.detect.prune import affordable, largest_first
from emqa_dask.detect.scales import Maxima, Where
from emqa_dask.settings import Detect

CANDIDATES = 20  # times max_detections: the most blobs of each polarity that are kept and pruned


class Candidates(NamedTuple):
    """Every maximum of one image's scale space above a floor, before the choice of a polarity and before pruning."""

    found: Maxima  # above settings.threshold, strongest first; of each polarity at most CANDIDATES * max_detections + 1
    sigmas: np.ndarray  # the scales that found.scale counts, px
    shape: tuple[int, int]  # of the image, px
    settings: Detect  # of the search; its threshold is the floor


def candidates(image: np.ndarray, settings: Detect, limits: Limits | None = None, device: str = "cpu") -> Candidates:
    """The candidates of one micrograph, from which `chosen_detections` makes the rows of `log.detect_image`.

    `image` (h, w; any real dtype, on the host) is normalised as `settings` says (`limits`: by these intensities), and
    searched once for maxima above `settings.threshold`: with polarity "bright" or "dark" for those only, else for both.
    Scales larger than the image's longer side are left out. No maximum lies on a NaN or infinite pixel, nor closer to
    the edges than `settings.exclude_border`. Memory is bounded whatever the threshold: see Candidates.found. Empty,
    constant and all-NaN images give none. Raises ValueError for images that are not two-dimensional and real.
    """
    image = real(np.asarray(image))
    return candidates_of_strips(lambda y0, y1: image[y0:y1], image.shape, settings, limits, device=device)


def candidates_of_strips(
    read: Callable[[int, int], np.ndarray],
    shape: tuple[int, int],
    settings: Detect,
    limits: Limits | None = None,
    strip_px: int | None = None,
    device: str = "cpu",
) -> Candidates:
    """`candidates` of an image of `shape` of which only strips are in memory: the same for any `strip_px`.

    `read(y0, y1)` gives rows y0 <= y < y1, all columns. Every strip is searched with the rows around it that its widest
    kernel touches, and keeps the maxima that lie in the rows it owns.
    """
    percentiles = settings.low_percentile, settings.high_percentile
    limits = tiles.sampled_limits(read, shape, percentiles) if limits is None else limits
    sigmas = searched_sigmas(settings, shape)
    if len(sigmas) == 0:
        return Candidates(scales.NOTHING, sigmas, shape, settings)
    steps = [log_fast.step_px(sigma, shape) for sigma in sigmas]
    found = scales.NOTHING
    for first, start, stop, last in tiles.strips(shape, log_fast.halo_px(sigmas.max()) + 1, max(steps), strip_px):
        image = real(np.asarray(read(first, last)))
        pixels = centred(image, settings, limits)
        where = searched_pixels(image, settings, first, start, stop, shape)
        if device == "cpu":
            part = log_fast.scale_maxima(
                pixels, sigmas, *asked(settings), steps=steps, where=where, most=most(settings)
            )
        else:
            part = maxima_on_device(to_device(pixels, device), sigmas, where, settings, device)
        found = scales.strongest([found, part._replace(y=part.y + first)], most(settings))
    return Candidates(found, sigmas, shape, settings)


def maxima_on_device(pixels, sigmas: np.ndarray, where: Where, settings: Detect, device: str) -> Maxima:
    """The maxima of `pixels`, which lie on `device`, by the exact path; `where` lies on the host."""
    if where.known is not None:
        where = where._replace(known=to_device(where.known, device))
    return log_exact.scale_maxima(pixels, sigmas, *asked(settings), most=most(settings), where=where)


def most(settings: Detect) -> int:
    """How many maxima of each polarity a search keeps: one more than are chosen from, which tells that it was full."""
    return CANDIDATES * settings.max_detections + 1


def asked(settings: Detect) -> tuple[float, str]:
    """The floor and the polarity of a search: just below the threshold, which is compared in float64 later."""
    floor = float(np.nextafter(np.float32(settings.threshold), np.float32(-np.inf)))
    return floor, "both" if settings.polarity == "auto" else settings.polarity


def searched_sigmas(settings: Detect, shape: tuple[int, int]) -> np.ndarray:
    """The scales of `settings` that are no larger than the longer side of an image of `shape`, px."""
    sigmas = scales.sigma_list(settings.min_sigma, settings.max_sigma, settings.num_sigma, settings.log_scale)
    return sigmas[sigmas <= max(shape)]


def searched_pixels(
    image: np.ndarray, settings: Detect, first: int, start: int, stop: int, shape: tuple[int, int]
) -> Where:
    """Where in a strip of rows first... of an image of `shape` maxima count: in rows start...stop, known, off edges."""
    rows, columns = scales.border_px(settings.exclude_border)
    y0 = max(start, rows) - first
    y1 = min(stop, shape[0] - rows) - first
    return Where(y0, y1, columns, shape[1] - columns, is_finite(image))


def centred(image: np.ndarray, settings: Detect, limits: Limits | None = None) -> np.ndarray:
    """`image` on the normalised scale, less 0.5.

    Truncated kernels answer a flat image with 0.002 of its value: centred, bright and dark stay mirror images.
    """
    return normalise(image, settings.low_percentile, settings.high_percentile, limits) - np.float32(0.5)


def chosen_detections(candidates: Candidates, settings: Detect) -> pd.DataFrame:
    """The rows that `log.detect_image` gives under `settings`, from candidates that were found once.

    The threshold may be anything from the candidates' floor up; overlap and polarity are free (a polarity that was not
    searched is refused), and max_detections may be lower; all else has to be as in the search, or ValueError says what
    is not. Attributes of the table: see `log.detect_image`. No candidates give no rows.
    """
    _check(candidates, settings)
    limit = CANDIDATES * settings.max_detections
    found = scales.chosen(candidates.found, candidates.found.response > settings.threshold)
    if settings.polarity in ("bright", "dark"):
        found = scales.chosen(found, found.polarity == scales.signs(settings.polarity)[0])
    n_of = {sign: int((found.polarity == sign).sum()) for sign in (1, -1)}
    found = scales.capped(found, limit)
    if settings.polarity == "auto":
        found = scales.one_polarity(found)
    # Noise searched at a threshold near zero has millions of maxima: pruning sees the strongest of them only.
    n_kept = min(limit, len(found.y))
    n_kept = affordable(found.y[:n_kept], found.x[:n_kept], candidates.sigmas[found.scale[:n_kept]])
    is_full = n_kept < len(found.y) or any(n_of[sign] > limit for sign in np.unique(found.polarity))
    kept = pruned(scales.chosen(found, slice(n_kept)), candidates.sigmas, settings.overlap)
    rows = scales.refined_table(kept, candidates.sigmas, settings.log_scale)
    is_capped = bool(is_full or len(rows) > settings.max_detections)
    rows = boxed(rows.head(settings.max_detections), candidates.shape)
    rows.attrs["is_capped"] = is_capped
    rows.attrs["too_many_blobs"] = bool(is_full)
    return rows


def pruned(found: Maxima, sigmas: np.ndarray, overlap: float | None) -> Maxima:
    """`found` without the blobs that overlap a larger one that stays by more than `overlap`; None keeps all."""
    if overlap is None:
        return found
    return scales.chosen(found, largest_first(found.y, found.x, sigmas[found.scale], overlap))


def boxed(rows: pd.DataFrame, shape: tuple[int, int]) -> pd.DataFrame:
    """Blobs of an image of `shape` as rows of `tables.DETECTIONS`, all but their micrograph_id."""
    rows = rows.copy()
    radius = math.sqrt(2) * rows["sigma_px"]
    for axis, size in zip("yx", shape):
        rows[f"{axis}0"] = (rows[f"{axis}_px"] + 0.5 - radius).clip(lower=0)
        rows[f"{axis}1"] = (rows[f"{axis}_px"] + 0.5 + radius).clip(upper=size)
    rows["area_px"] = math.pi * radius**2
    rows["score"] = score(rows["response"])
    rows["label"] = "blob"
    rows["detector"] = "log"
    rows["mask_rle"] = None
    rows["circularity"] = math.nan
    rows["diameter_px"] = 2 * radius
    rows["diameter_nm"] = math.nan
    return rows[[name for name in tables.DETECTIONS.names if name != "micrograph_id"]]


def score(response: np.ndarray) -> np.ndarray:
    """Contrast of the uniform disk that gives `response`, as a fraction of the normalised intensity range, 0...1.

    A disk of contrast c answers c (r/sigma)^2 exp(-r^2 / (2 sigma^2)) at its centre, at most 2c/e, at
    sigma = r / sqrt(2). Contrasts above the range count as 1. NaN stays NaN.
    """
    return np.clip(np.asarray(response, np.float64) / (2 / math.e), 0, 1)


def _check(candidates: Candidates, settings: Detect) -> None:
    searched = candidates.settings
    if settings.threshold < searched.threshold:
        raise ValueError(
            f"threshold is {settings.threshold}: the candidates were searched above {searched.threshold}; search again"
        )
    if settings.max_detections > searched.max_detections:
        raise ValueError(
            f"max_detections is {settings.max_detections}: the candidates were searched for {searched.max_detections}"
        )
    if searched.polarity in ("bright", "dark") and settings.polarity != searched.polarity:
        raise ValueError(
            f"polarity is {settings.polarity!r}: the candidates were searched for {searched.polarity!r} blobs only"
        )
    free = ("threshold", "overlap", "polarity", "max_detections")
    for field in dataclasses.fields(searched):
        asked_for = getattr(settings, field.name)
        had = getattr(searched, field.name)
        if field.name not in free and asked_for != had:
            raise ValueError(f"{field.name} is {asked_for!r}: the candidates were searched with {had!r}; search again")
