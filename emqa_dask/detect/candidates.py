"""Candidates of the LoG detector: maxima above a floor; threshold, overlap and polarity select detections from them."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from emqa_dask import tables
from emqa_dask.backend import get_array_modules, to_device
from emqa_dask.detect import log_batch, log_fast, scales, tiles
from emqa_dask.detect.batch_intensity import centre_batch, compute_batch_limits
from emqa_dask.detect.normalise import IntensityLimits, find_finite, normalise
from emqa_dask.detect.prune import count_affordable, prune_largest_first
from emqa_dask.detect.scales import Maxima, SearchRegion
from emqa_dask.detect.tiles import Block, Strip
from emqa_dask.pixel_types import convert_for_device, convert_to_real
from emqa_dask.settings import Detect

CANDIDATES_PER_DETECTION = 20  # maxima of each polarity that are kept and pruned, per detection that may be given
FREE_SETTINGS = ("threshold", "overlap", "polarity", "max_detections")  # that may differ from those of the search


class Candidates(NamedTuple):
    """Maxima of one image's scale space above a floor, before the choice of a polarity and before pruning."""

    maxima: Maxima  # above settings.threshold, strongest first; at most compute_max_candidates() of each polarity
    sigmas: np.ndarray  # the scales that maxima.scale counts, px
    shape: tuple[int, int]  # of the image, px
    settings: Detect  # of the search; its threshold is the floor


def find_candidates(
    image: np.ndarray, settings: Detect, limits: IntensityLimits | None = None, device: str = "cpu"
) -> Candidates:
    """Candidates of one micrograph, from which `select_detections` makes the rows of `log.detect_image`.

    `image` (h, w; any real dtype, on the host) is normalised as `settings` says (`limits`: by these intensities). It is
    searched once for maxima above `settings.threshold`: with polarity "bright" or "dark" for those only, else for both.
    Scales larger than the image's longer side are left out. No maximum lies on a NaN or infinite pixel, nor closer to
    the edges than `settings.exclude_border`. Memory is bounded whatever the threshold. Empty, constant and all-NaN
    images give none. Raises ValueError for images that are not two-dimensional and real.
    """
    image = convert_to_real(np.asarray(image))
    return find_candidates_in_strips(lambda y0, y1: image[y0:y1], image.shape, settings, limits, device=device)


def find_candidates_in_strips(
    read: Callable[[int, int], np.ndarray],
    shape: tuple[int, int],
    settings: Detect,
    limits: IntensityLimits | None = None,
    strip_px: int | None = None,
    device: str = "cpu",
) -> Candidates:
    """Candidates of an image of `shape` that is read in strips: those of the whole image, for any `strip_px`.

    `read(y0, y1)` gives rows y0 <= y < y1, all columns. Every strip is searched with the rows around it that its widest
    kernel covers, and keeps the maxima that lie in the rows it owns.
    """
    percentiles = settings.low_percentile, settings.high_percentile
    limits = tiles.sample_intensity_limits(read, shape, percentiles) if limits is None else limits
    sigmas = select_sigmas(settings, shape)
    maxima = scales.NO_MAXIMA
    if len(sigmas) == 0:
        return Candidates(maxima, sigmas, shape, settings)
    for strip in _plan_strips(sigmas, shape, strip_px):
        image = convert_to_real(np.asarray(read(strip.first, strip.last)))
        block = _make_full_width_block(strip, shape)
        part = _find_maxima(image, limits, sigmas, block, shape, settings, device)
        maxima = _add_maxima(maxima, part, strip, settings)
    return Candidates(maxima, sigmas, shape, settings)


def find_candidates_in_rectangle(
    image: np.ndarray,
    settings: Detect,
    corners: tuple[int, int, int, int],
    limits: IntensityLimits,
    device: str = "cpu",
) -> Candidates:
    """Those candidates of `image` (h, w; as for `find_candidates`) that lie in y0 <= y < y1, x0 <= x < x1.

    `corners` are y0, x0, y1, x1, inside the image. Only the pixels around them that the widest kernel covers are
    searched. `limits` are the intensities of the whole image that become 0 and 1.
    """
    sigmas = select_sigmas(settings, image.shape)
    if len(sigmas) == 0:
        return Candidates(scales.NO_MAXIMA, sigmas, image.shape, settings)
    steps = [log_fast.choose_grid_step(sigma, image.shape) for sigma in sigmas]
    block = tiles.make_block(image.shape, corners, log_fast.compute_halo(sigmas.max()) + 1, max(steps))
    maxima = _find_maxima(block.cut_pixels(image), limits, sigmas, block, image.shape, settings, device)
    maxima = maxima._replace(y=maxima.y + block.rows.first, x=maxima.x + block.columns.first)
    return Candidates(maxima, sigmas, image.shape, settings)


def find_candidates_in_batch(images: Any, settings: Detect) -> list[Candidates]:
    """Candidates of each of `images` (n, h, w; real, as acquired), an array on the device that searches them.

    They are those of `find_candidates`, and few more (see `log_batch.find_batch_maxima`). Only the table of maxima
    leaves the device. Images above `tiles.WHOLE_PX` pixels are searched one by one, in strips of rows.
    """
    shape = tuple(images.shape[1:])
    sigmas = select_sigmas(settings, shape)
    if images.size == 0 or len(sigmas) == 0:
        return [Candidates(scales.NO_MAXIMA, sigmas, shape, settings)] * len(images)
    is_large = math.prod(shape) > tiles.WHOLE_PX
    if is_large and len(images) > 1:
        return [part for n in range(len(images)) for part in find_candidates_in_batch(images[n : n + 1], settings)]
    xp, _ = get_array_modules(images)
    sample = images.take(xp.asarray(tiles.list_sample_rows(shape)), axis=1) if is_large else images
    limits = compute_batch_limits(sample, settings.low_percentile, settings.high_percentile)
    maxima = [scales.NO_MAXIMA] * len(images)
    for strip in _plan_strips(sigmas, shape):
        rows = images[:, strip.first : strip.last]
        parts = _find_maxima_on_device(rows, limits, sigmas, _make_full_width_block(strip, shape), shape, settings)
        maxima = [_add_maxima(own, part, strip, settings) for own, part in zip(maxima, parts, strict=True)]
    return [Candidates(own, sigmas, shape, settings) for own in maxima]


def _plan_strips(sigmas: np.ndarray, shape: tuple[int, int], strip_px: int | None = None) -> Iterator[Strip]:
    """Strips of an image of `shape` for a search with `sigmas`."""
    steps = [log_fast.choose_grid_step(sigma, shape) for sigma in sigmas]
    return tiles.plan_strips(shape, log_fast.compute_halo(sigmas.max()) + 1, max(steps), strip_px)


def _add_maxima(maxima: Maxima, part: Maxima, strip: Strip, settings: Detect) -> Maxima:
    """The strongest of `maxima` of an image and those of a strip, whose y counts from the first row it reads."""
    part = part._replace(y=part.y + strip.first)
    return scales.keep_strongest([maxima, part], compute_max_candidates(settings))


def _make_full_width_block(strip: Strip, shape: tuple[int, int]) -> Block:
    return Block(strip, Strip(0, 0, shape[1], shape[1]))


def _find_maxima(
    image: np.ndarray,
    limits: IntensityLimits,
    sigmas: np.ndarray,
    block: Block,
    shape: tuple[int, int],
    settings: Detect,
    device: str,
) -> Maxima:
    """Maxima of `image`, the pixels that `block` reads of an image of `shape`; y and x count from the first of them."""
    if device != "cpu":
        batch = to_device(convert_for_device(image)[None], device)
        return _find_maxima_on_device(batch, limits, sigmas, block, shape, settings)[0]
    pixels = centre_intensities(image, settings, limits)
    region = make_search_region(settings, block, shape, find_finite(image))
    return log_fast.find_scale_maxima(pixels, sigmas, **_make_search(settings, sigmas, shape, region))


def _find_maxima_on_device(
    images: Any, limits: IntensityLimits, sigmas: np.ndarray, block: Block, shape: tuple[int, int], settings: Detect
) -> list[Maxima]:
    """`_find_maxima` of each of `images` (n, rows, columns) on their device."""
    pixels, is_finite = centre_batch(images, limits)
    region = make_search_region(settings, block, shape, is_finite)
    return log_batch.find_batch_maxima(pixels, sigmas, **_make_search(settings, sigmas, shape, region))


def _make_search(settings: Detect, sigmas: np.ndarray, shape: tuple[int, int], region: SearchRegion) -> dict[str, Any]:
    """Arguments of a search for maxima in an image of `shape`."""
    floor, polarity = search_threshold_and_polarity(settings)
    return {
        "threshold": floor,
        "polarity": polarity,
        "steps": [log_fast.choose_grid_step(sigma, shape) for sigma in sigmas],
        "max_per_polarity": compute_max_candidates(settings),
        "region": region,
    }


def compute_max_candidates(settings: Detect) -> int:
    """Largest number of maxima of each polarity that a search keeps.

    It is one more than detections are selected from: a search that reaches it had more.
    """
    return CANDIDATES_PER_DETECTION * settings.max_detections + 1


def search_threshold_and_polarity(settings: Detect) -> tuple[float, str]:
    """The floor and the polarity of a search: just below the threshold, which is compared in float64 later."""
    floor = float(np.nextafter(np.float32(settings.threshold), np.float32(-np.inf)))
    return floor, "both" if settings.polarity == "auto" else settings.polarity


def select_sigmas(settings: Detect, shape: tuple[int, int]) -> np.ndarray:
    """The scales of `settings` that are no larger than the longer side of an image of `shape`, px."""
    sigmas = scales.compute_sigmas(settings.min_sigma, settings.max_sigma, settings.num_sigma, settings.log_scale)
    return sigmas[sigmas <= max(shape)]


def make_search_region(settings: Detect, block: Block, shape: tuple[int, int], is_finite: Any) -> SearchRegion:
    """The pixels of a block of an image of `shape` that may hold a maximum: its own ones, finite, off the border.

    `is_finite` is the mask of the pixels that the block reads; None: all are.
    """
    bounds = [
        (max(strip.start, border) - strip.first, min(strip.stop, size - border) - strip.first)
        for strip, border, size in zip(block, scales.parse_border(settings.exclude_border), shape)
    ]
    return SearchRegion(*bounds[0], *bounds[1], is_finite)


def centre_intensities(image: np.ndarray, settings: Detect, limits: IntensityLimits | None = None) -> np.ndarray:
    """`image` on the normalised scale, less 0.5.

    Truncated kernels answer a flat image with 0.002 of its value: centred, bright and dark stay mirror images.
    """
    return normalise(image, settings.low_percentile, settings.high_percentile, limits) - np.float32(0.5)


def select_detections(candidates: Candidates, settings: Detect) -> pd.DataFrame:
    """Rows that `log.detect_image` gives under `settings`, from the candidates of one search.

    The threshold may be any from the candidates' floor up. Overlap and polarity are free (a polarity that was not
    searched is refused), and max_detections may be lower. All else has to be as in the search, or ValueError names the
    setting. Attributes of the table: see `log.detect_image`. No candidates give no rows.
    """
    _check_settings(candidates.settings, settings)
    maxima, is_full = _select_maxima(candidates, settings)
    maxima = prune_maxima(maxima, candidates.sigmas, settings.overlap)
    rows = scales.tabulate_refined_maxima(maxima, candidates.sigmas, settings.log_scale)
    is_capped = bool(is_full or len(rows) > settings.max_detections)
    rows = add_boxes(rows.head(settings.max_detections), candidates.shape)
    rows.attrs["is_capped"] = is_capped
    rows.attrs["too_many_blobs"] = bool(is_full)
    return rows


def _select_maxima(candidates: Candidates, settings: Detect) -> tuple[Maxima, bool]:
    """Candidates above the threshold and of the polarity, as many as pruning can take; whether some were cut."""
    maxima = scales.select_maxima(candidates.maxima, candidates.maxima.response > settings.threshold)
    keep, is_full = cap_candidates(maxima, candidates.sigmas, settings)
    return scales.select_maxima(maxima, keep), is_full


def cap_candidates(maxima: Maxima, sigmas: np.ndarray, settings: Detect) -> tuple[np.ndarray, bool]:
    """Indices of the `maxima` of the polarity, as many as pruning can take; whether some were left out."""
    limit = CANDIDATES_PER_DETECTION * settings.max_detections
    keep = np.arange(len(maxima.y))
    if settings.polarity in ("bright", "dark"):
        keep = keep[maxima.polarity == scales.parse_polarity(settings.polarity)[0]]
    n_by_sign = {sign: int((maxima.polarity[keep] == sign).sum()) for sign in (1, -1)}
    keep = keep[scales.list_first_of_polarities(maxima.polarity[keep], limit)]
    if settings.polarity == "auto":
        keep = keep[maxima.polarity[keep] == scales.select_stronger_polarity(scales.select_maxima(maxima, keep))]
    # Noise searched at a threshold near zero has millions of maxima: pruning sees the strongest of them only.
    n_kept = min(limit, len(keep))
    strongest = keep[:n_kept]
    n_kept = count_affordable(maxima.y[strongest], maxima.x[strongest], sigmas[maxima.scale[strongest]])
    is_full = n_kept < len(keep) or any(n_by_sign[sign] > limit for sign in np.unique(maxima.polarity[keep]))
    return keep[:n_kept], is_full


def prune_maxima(maxima: Maxima, sigmas: np.ndarray, overlap: float | None) -> Maxima:
    """`maxima` without the blobs that overlap a larger one, which is kept, by more than `overlap`; None keeps all."""
    if overlap is None:
        return maxima
    return scales.select_maxima(maxima, prune_largest_first(maxima.y, maxima.x, sigmas[maxima.scale], overlap))


def add_boxes(rows: pd.DataFrame, shape: tuple[int, int]) -> pd.DataFrame:
    """Blobs of an image of `shape` as rows of `tables.DETECTIONS`, all columns but micrograph_id."""
    columns: dict[str, Any] = {name: column.to_numpy() for name, column in rows.items()}
    radius = math.sqrt(2) * columns["sigma_px"]
    for axis, size in zip("yx", shape):
        columns[f"{axis}0"] = np.maximum(columns[f"{axis}_px"] + 0.5 - radius, 0)
        columns[f"{axis}1"] = np.minimum(columns[f"{axis}_px"] + 0.5 + radius, size)
    columns |= {"area_px": math.pi * radius**2, "score": compute_score(columns["response"]), "diameter_px": 2 * radius}
    columns |= dict.fromkeys(("class_margin", "stability", "circularity", "diameter_nm"), np.full(len(rows), math.nan))
    columns |= {"label": "blob", "detector": "log", "mask_rle": None}
    names = [name for name in tables.DETECTIONS.names if name != "micrograph_id"]
    return pd.DataFrame({name: columns[name] for name in names}, index=rows.index)


def compute_score(response: np.ndarray) -> np.ndarray:
    """Contrast of the uniform disk that gives `response`, as a fraction of the normalised intensity range, 0...1.

    A disk of contrast c answers c (r/sigma)^2 exp(-r^2 / (2 sigma^2)) at its centre, at most 2c/e, at
    sigma = r / sqrt(2). Contrasts above the range count as 1. NaN stays NaN.
    """
    return np.clip(np.asarray(response, np.float64) / (2 / math.e), 0, 1)


def _check_settings(searched: Detect, settings: Detect) -> None:
    """ValueError where candidates that were found by `searched` do not hold the detections of `settings`."""
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
    for field in dataclasses.fields(searched):
        value = getattr(settings, field.name)
        searched_value = getattr(searched, field.name)
        if field.name not in FREE_SETTINGS and value != searched_value:
            raise ValueError(
                f"{field.name} is {value!r}: the candidates were searched with {searched_value!r}; search again"
            )
