"""Statistics of one image, for flags, forests and people: tones, detail, overlays, marks of non-micrographs."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from emqa_dask.backend import use_device
from emqa_dask.featurise import foreign, overlays
from emqa_dask.featurise.image_parts import ImageParts, compute_unit, split_image
from emqa_dask.featurise.landmarks import compute_landmarks
from emqa_dask.featurise.picture_kinds import draw_thumbnail, estimate_picture_kinds
from emqa_dask.featurise.region_map import TileStatistics, summarise_tiles
from emqa_dask.featurise.signature import N_BYTES, encode_signature
from emqa_dask.featurise.spectrum import summarise_power
from emqa_dask.featurise.tones import compute_tones, find_bright_end
from emqa_dask.landmark_codes import LANDMARKS_BYTES
from emqa_dask.tables import IMAGE_STATISTICS, TILE_COLUMNS


def image_statistics(image: np.ndarray, *, colour_fraction: float = 0.0) -> dict[str, float]:
    """Statistics of one micrograph: the numbers of `tables.IMAGE_STATISTICS`.

    Numbers about contrast are in units of the grey range (0.5 to 99.5 percentile), so gain and offset do not change
    them. Non-finite pixels are counted, then replaced by the median. Cost is bounded: at most 16 tiles of 256 px and a
    view of 1024 px are evaluated.

    Parameters
    ----------
    image : array (h, w)
        Any integer, float or bool dtype.
    colour_fraction : float
        Fraction of pixels with colour in the file that the image came from.

    Returns
    -------
    dict of str to float
        NaN where the image is too small for a number. An image without finite pixels has `nonfinite_fraction`,
        `short_side_px` and `colour_fraction`, and NaN elsewhere.

    Raises
    ------
    ValueError
        If the image is not two-dimensional.

    References
    ----------
    Welch, IEEE Trans. Audio Electroacoust. 15 (1967) 70: the power spectrum.
    Bigun & Granlund, ICCV 1987, 433: the coherence of the structure tensor.
    """
    features = image_features(image, colour_fraction=colour_fraction)
    return {name: features[name] for name in IMAGE_STATISTICS}


def image_features(image: np.ndarray, *, colour_fraction: float = 0.0) -> dict[str, Any]:
    """A row's part of `tables.FEATURES` in one pass: `image_statistics`, and signature, landmarks and tiles of it."""
    (features,) = compute_features_of_images([image], [colour_fraction])
    return features


def compute_features_of_images(
    images: Sequence[np.ndarray], colour_fractions: Sequence[float] | None = None
) -> list[dict[str, Any]]:
    """`image_features` of each of `images` (h, w), of any shapes, on the host; the network sees them together."""
    for image in images:
        if image.ndim != 2:
            raise ValueError(f"image has {image.ndim} dimensions: a micrograph has 2")
    summaries = [_summarise_parts(split_image(image)) for image in images]
    return _complete_features(summaries, [min(image.shape) for image in images], colour_fractions, "cpu")


def compute_features_of_parts(
    parts: Sequence[ImageParts | float],
    short_sides_px: Sequence[int],
    colour_fractions: Sequence[float],
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """`image_features` of images from what split_image() or split_images() kept of them; the network on `device`.

    With split_images() numbers agree with those of `image_features` within 1e-4 relative, those that count pixels
    within 1e-3 or, of directions and tones, 1e-2. Float32 images whose contrast is below 1e-3 of their level are
    rounded otherwise.
    """
    return _complete_features([_summarise_parts(own) for own in parts], short_sides_px, colour_fractions, device)


class _Summary(NamedTuple):
    """What is left of an image for the network, and what needs no network."""

    statistics: dict[str, float]
    signature: bytes
    landmarks: bytes
    tiles: TileStatistics | None  # None without finite pixels
    thumbnail: np.ndarray | None  # that the network sees


def _complete_features(
    summaries: Sequence[_Summary], short_sides_px: Sequence[int], colour_fractions: Sequence[float] | None, device: str
) -> list[dict[str, Any]]:
    """`image_features` of each of `summaries`; the network runs on `device`."""
    with use_device(device):
        kinds = estimate_picture_kinds([summary.thumbnail for summary in summaries], device)
    colour_fractions = [0.0] * len(summaries) if colour_fractions is None else colour_fractions
    features: list[dict[str, Any]] = []
    for summary, kind, side, fraction in zip(summaries, kinds, short_sides_px, colour_fractions, strict=True):
        numbers = summary.statistics | kind | {"short_side_px": side, "colour_fraction": fraction}
        row: dict[str, Any] = {name: float(numbers.get(name, np.nan)) for name in IMAGE_STATISTICS}
        tiles = summary.tiles or (None, None)
        features.append(
            row
            | {"signature": summary.signature, "landmarks": summary.landmarks}
            | dict(zip(TILE_COLUMNS, tiles, strict=True))
        )
    return features


def _summarise_parts(parts: ImageParts | float) -> _Summary:
    if isinstance(parts, float):
        return _Summary({"nonfinite_fraction": parts}, bytes(N_BYTES), bytes(LANDMARKS_BYTES), None, None)
    unit = float(compute_unit(parts.span))
    view = parts.view
    out = {"nonfinite_fraction": parts.nonfinite_fraction} | parts.hits
    out |= compute_tones(parts.grey, parts.dtype, parts.low, parts.span)
    if parts.power is not None:
        out |= summarise_power(parts.power, parts.n_tiles)
    banner_rows = overlays.measure_banner_rows(view)
    picture = view[: len(view) - banner_rows]
    out["banner_rows"] = banner_rows * parts.factor
    bright_level = min(find_bright_end(parts.grey, parts.dtype)[1] - parts.low, parts.span) * unit
    out["saturated_fraction"] *= overlays.measure_acquired_share(view, bright_level, banner_rows)
    runs = overlays.find_edge_runs(view)
    out |= overlays.find_scale_bar(view, parts.factor, runs)
    out["line_horizontal"] = overlays.measure_longest_line(runs, view.shape[1])
    out["line_vertical"] = overlays.measure_longest_line(overlays.find_edge_runs(view.T), view.shape[0])
    out |= overlays.count_stripes(view, banner_rows)
    out |= foreign.diffraction_statistics(view) | foreign.scene_statistics(picture)
    signature = encode_signature(parts.tone_means, parts.grain_tile)
    landmarks = compute_landmarks(view, len(picture))
    tiles = summarise_tiles(parts.cell_means, parts.shape)
    return _Summary(out, signature, landmarks, tiles, draw_thumbnail(picture))
