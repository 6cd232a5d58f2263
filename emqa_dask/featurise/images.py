"""Statistics of one image, for flags, forests and people: tones, detail, overlays, marks of non-micrographs."""

import cv2
import numpy as np

from emqa_dask.featurise import foreign, overlays
from emqa_dask.featurise.picture_kinds import estimate_picture_kinds
from emqa_dask.featurise.signature import compute_signature
from emqa_dask.featurise.spectrum import compute_spectrum_statistics, cut_tiles
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
    return _compute_tone_statistics(image, colour_fraction)[0]


def image_features(image: np.ndarray, *, colour_fraction: float = 0.0) -> dict[str, float | bytes]:
    """`image_statistics` and the `signature` of the same image in one pass: a row's part of `tables.FEATURES`."""
    statistics, pixels = _compute_tone_statistics(image, colour_fraction)
    return {**statistics, "signature": compute_signature(pixels)}


def _compute_tone_statistics(image: np.ndarray, colour_fraction: float) -> tuple[dict[str, float], np.ndarray]:
    if image.ndim != 2:
        raise ValueError(f"image has {image.ndim} dimensions: a micrograph has 2")
    out = dict.fromkeys(IMAGE_STATISTICS, np.nan)
    out |= {"short_side_px": float(min(image.shape)), "colour_fraction": float(colour_fraction)}
    pixels, out["nonfinite_fraction"] = _clean_image(image)
    if pixels.size == 0 or out["nonfinite_fraction"] == 1:
        return out, np.zeros((0, 0), np.float32)
    stride = int(np.ceil(np.sqrt(pixels.size / SAMPLE_PX)))
    sample = np.sort(pixels[::stride, ::stride], axis=None)
    low, high = (float(v) for v in _compute_quantiles(sample, (0.005, 0.995)))
    span = high - low
    if span <= 1e-30:  # over 99 % of the pixels are equal: let the rest speak
        low, high = float(sample[0]), float(sample[-1])
        span = high - low
    out |= _compute_tones(sample, image.dtype, low, span)
    unit = np.float32(1 / span if span > 1e-30 else 0)
    # Hits and hot pixels stay far above the rest, but not so far that float32 cannot hold their squares.
    bounded = np.clip(pixels, np.float32(low - span), np.float32(low + 20 * span))
    tiles = (cut_tiles(bounded) - np.float32(low)) * unit
    out |= compute_spectrum_statistics(np.clip(tiles, -0.5, 1.5))
    view, factor = overlays.make_view(bounded, low, high)
    banner_rows = overlays.measure_banner_rows(view)
    out["banner_rows"] = banner_rows * factor
    bright_level = min(_find_bright_end(sample, image.dtype)[1] - low, span) * float(unit)
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
    out |= foreign.count_statistics(_cut_middle(pixels)) | _count_impulses(
        (_cut_middle(bounded) - np.float32(low)) * unit
    )
    return {name: float(out[name]) for name in IMAGE_STATISTICS}, pixels


def _clean_image(image: np.ndarray) -> tuple[np.ndarray, float]:
    """`image` as float32 without NaN and infinities, and their fraction; float64 is brought into float32's range."""
    if image.dtype.kind in "biu":
        return np.ascontiguousarray(image, dtype=np.float32), 0.0
    is_finite = np.isfinite(image)
    nonfinite_fraction = 1 - float(is_finite.mean()) if image.size else 0.0
    values = (
        image
        if nonfinite_fraction == 0
        else np.where(is_finite, image, np.median(image[is_finite]) if is_finite.any() else 0)
    )
    largest = float(np.abs(values).max(initial=0))
    scale = 1.0 if 1e-20 < largest < 1e30 or largest == 0 else 1 / largest
    return np.ascontiguousarray(values * scale, dtype=np.float32), nonfinite_fraction


def _compute_quantiles(ordered: np.ndarray, fractions) -> np.ndarray:
    return ordered[np.rint(np.asarray(fractions) * (len(ordered) - 1)).astype(int)]


def _count_below(ordered: np.ndarray, value: float) -> int:
    # In the array's own dtype: a float64 key would make searchsorted convert the whole array.
    return int(np.searchsorted(ordered, ordered.dtype.type(value)))


def _cut_middle(pixels: np.ndarray) -> np.ndarray:
    h, w = pixels.shape
    y, x = min(h, 1024), min(w, 1024)
    return pixels[(h - y) // 2 : (h - y) // 2 + y, (w - x) // 2 : (w - x) // 2 + x]


def _compute_tones(ordered: np.ndarray, dtype: np.dtype, low: float, span: float) -> dict[str, float]:
    """Statistics of sorted grey values; `low` and `span` are the grey range."""
    n = len(ordered)
    min_value = float(ordered[0])
    if span <= 1e-30:
        top = _share_of_range(min_value, dtype)
        return {
            "contrast": 0.0,
            "entropy_bits": 0.0,
            "n_levels": 1.0,
            "top_level": top,
            "mode_fraction": 1.0,
            "saturated_fraction": 0.0,
            "saturated_density_ratio": 0.0,
            "floor_fraction": 1.0,
            "skewness": 0.0,
        }
    upper, inner_low, inner_high = (float(v) for v in _compute_quantiles(ordered, (0.999, 0.001, 0.999)))
    clipped_values = ordered[
        _count_below(ordered, inner_low) : len(ordered) - _count_below(-ordered[::-1], -inner_high)
    ]
    histogram = np.histogram(np.clip(ordered, low, low + span), bins=256, range=(low, low + span))[0] / n
    filled = histogram[histogram > 0]
    end, _, width = _find_bright_end(ordered, dtype)
    second, third = (_count_below(ordered, end - k * width) for k in (1, 4))
    top_band = (n - second) / n
    band_fraction = (second - third) / n
    centred = (np.clip(ordered, low, low + span) - low) / span
    centred = centred - centred.mean()
    deviation = float(centred.std())
    return {
        "contrast": span / max(abs(low) + abs(low + span), 1e-30),
        "entropy_bits": float(-(filled * np.log2(filled)).sum()),
        "n_levels": float(1 + np.count_nonzero(np.diff(clipped_values))),
        "top_level": _share_of_range(upper, dtype),
        "mode_fraction": float(np.convolve(histogram, np.ones(3)).max()),
        "saturated_fraction": float(top_band),
        "saturated_density_ratio": float(top_band / max(band_fraction / 3, 1e-4)),
        "floor_fraction": _count_below(ordered, min_value + width) / n,
        "skewness": float((centred * centred * centred).mean() / deviation**3) if deviation > 1e-6 else 0.0,
    }


def _find_bright_end(ordered: np.ndarray, dtype: np.dtype) -> tuple[float, float, float]:
    """(end, start, width) of the grey values that count as saturated: the last 1.2 % of the range, up to `end`.

    Detectors clip at one value; JPEG spreads it by a few levels. The pile is the density there over the one below it.
    """
    end = max(float(ordered[-1]), 250.0) if dtype == np.uint8 else float(ordered[-1])
    width = 0.012 * float(ordered[-1] - ordered[0])
    return end, end - width, width


def _share_of_range(value: float, dtype: np.dtype) -> float:
    return value / np.iinfo(dtype).max if dtype.kind in "iu" else np.nan


_RING = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], np.uint8)


def _count_impulses(image: np.ndarray) -> dict[str, float]:
    """Pixels that overtop all eight neighbours by far more than noise makes others do, and by 20 % of the range."""
    if min(image.shape) < 8:
        return {"impulses_per_mpx": 0.0}
    excess = (image - cv2.dilate(image, _RING))[2:-2, 2:-2]
    part = np.sort(excess[::3, ::3], axis=None)
    centre, high = (float(v) for v in _compute_quantiles(part, (0.5, 0.985)))
    y, x = np.nonzero(excess > max(centre + 4 * (high - centre), 0.25))
    if len(y) == 0:
        return {"impulses_per_mpx": 0.0}
    # The neighbours of an atom or of a bright speck are raised too; those of a hit are like the ground farther out.
    y, x = y[:20000] + 2, x[:20000] + 2
    padded = np.pad(image, 3, mode="edge")
    patch = np.lib.stride_tricks.sliding_window_view(padded, (7, 7))[y, x]
    peak = patch[:, 3, 3]
    neighbour_sum = patch[:, 2:5, 2:5].sum((1, 2))
    wide = patch.sum((1, 2))
    surround = (wide - neighbour_sum) / 40
    neighbour_mean = (neighbour_sum - peak) / 8
    alone = neighbour_mean - surround < 0.12 * (peak - surround)
    return {"impulses_per_mpx": float(alone.sum() * 1e6 / excess.size)}
