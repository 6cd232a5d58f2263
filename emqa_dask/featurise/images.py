"""Statistics of one image, for flags, forests and people: tones, detail, overlays, marks of non-micrographs."""

import numpy as np

from emqa_dask.featurise import foreign, overlays
from emqa_dask.featurise.hits import count_impulses, count_statistics, cut_middle
from emqa_dask.featurise.picture_kinds import estimate_picture_kinds
from emqa_dask.featurise.signature import compute_signature
from emqa_dask.featurise.spectrum import compute_spectrum_statistics, cut_tiles
from emqa_dask.featurise.tones import NO_SPAN, compute_tones, count_levels, find_bright_end, find_grey_range
from emqa_dask.tables import IMAGE_STATISTICS

SAMPLE_PX = 1 << 18  # pixels that histograms are made from, taken on a regular grid


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
    return _compute_features(image, colour_fraction)[0]


def image_features(image: np.ndarray, *, colour_fraction: float = 0.0) -> dict[str, float | bytes]:
    """`image_statistics` and the `signature` of the same image in one pass: a row's part of `tables.FEATURES`."""
    statistics, signature = _compute_features(image, colour_fraction)
    return {**statistics, "signature": signature}


def _compute_features(image: np.ndarray, colour_fraction: float) -> tuple[dict[str, float], bytes]:
    if image.ndim != 2:
        raise ValueError(f"image has {image.ndim} dimensions: a micrograph has 2")
    out = dict.fromkeys(IMAGE_STATISTICS, np.nan)
    out |= {"short_side_px": float(min(image.shape)), "colour_fraction": float(colour_fraction)}
    pixels, out["nonfinite_fraction"] = _clean_image(image)
    if pixels.size == 0 or out["nonfinite_fraction"] == 1:
        return out, compute_signature(pixels)
    stride = int(np.ceil(np.sqrt(pixels.size / SAMPLE_PX)))
    is_small_integer = image.dtype.kind in "biu" and image.dtype.itemsize <= 2
    grey = count_levels((image if is_small_integer else pixels)[::stride, ::stride])
    low, span = find_grey_range(grey)
    out |= compute_tones(grey, image.dtype, low, span)
    signature = compute_signature(pixels)
    out |= count_statistics(cut_middle(pixels))
    # Hits and hot pixels stay far above the rest, but not so far that float32 cannot hold their squares.
    np.clip(pixels, np.float32(low - span), np.float32(low + 20 * span), out=pixels)
    unit = np.float32(1 / span if span > NO_SPAN else 0)
    tiles = cut_tiles(pixels)
    tiles -= np.float32(low)
    tiles *= unit
    out |= compute_spectrum_statistics(np.clip(tiles, -0.5, 1.5, out=tiles))
    out |= count_impulses((cut_middle(pixels) - np.float32(low)) * unit)
    view, factor = overlays.make_view(pixels, low, low + span)
    banner_rows = overlays.measure_banner_rows(view)
    out["banner_rows"] = banner_rows * factor
    bright_level = min(find_bright_end(grey, image.dtype)[1] - low, span) * float(unit)
    out["saturated_fraction"] *= overlays.measure_acquired_share(view, bright_level, banner_rows)
    runs = overlays.find_edge_runs(view)
    out |= overlays.find_scale_bar(view, factor, runs)
    out["line_horizontal"] = overlays.measure_longest_line(runs, view.shape[1])
    out["line_vertical"] = overlays.measure_longest_line(
        overlays.find_edge_runs(np.ascontiguousarray(view.T)), view.shape[0]
    )
    out |= overlays.count_stripes(view, banner_rows)
    out |= foreign.diffraction_statistics(view) | foreign.scene_statistics(view[: len(view) - banner_rows])
    out |= estimate_picture_kinds(view[: len(view) - banner_rows])
    return {name: float(out[name]) for name in IMAGE_STATISTICS}, signature


def _clean_image(image: np.ndarray) -> tuple[np.ndarray, float]:
    """`image` as float32 without NaN and infinities, and their fraction; float64 is brought into float32's range."""
    if image.dtype.kind in "biu":
        return image.astype(np.float32, order="C"), 0.0
    is_finite = np.isfinite(image)
    n_finite = np.count_nonzero(is_finite)
    nonfinite_fraction = 1 - n_finite / image.size if image.size else 0.0
    values = image
    if n_finite < image.size:
        values = np.where(is_finite, image, np.median(image[is_finite]) if n_finite else 0)
    largest = max(float(values.max(initial=0)), -float(values.min(initial=0)))
    scale = 1.0 if 1e-20 < largest < 1e30 or largest == 0 else 1 / largest
    return np.ascontiguousarray(values * scale, dtype=np.float32), nonfinite_fraction
