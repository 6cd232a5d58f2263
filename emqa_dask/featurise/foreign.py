"""Statistics that tell pictures from micrographs: inversion symmetry, tones and edges of a scene."""

import cv2
import numpy as np
from scipy import fft

from emqa_dask.featurise.pixel_loops import compute_haar_power, count_in_bins
from emqa_dask.featurise.quantiles import compute_quantile

DIFFRACTION_SIDE_PX = 160  # of the copy whose symmetry is measured: spots stay visible, the transform stays cheap
SCENE_SIDE_PX = 256  # shorter side of the copy that scene statistics are computed on: independent of magnification
SCENE_STATISTICS = (
    "block_mean_variance_fraction",
    "local_contrast_spread",
    "tone_texture_correlation",
    "axis_alignment",
    "gradient_tail",
    "gradient_median",
    "flat_fraction",
    "scene_entropy_bits",
    "scene_mode_fraction",
    "fine_kurtosis",
    "coarse_kurtosis",
    "octave_ratio",
    "histogram_divergence",
    "octave_skewness",
    "flat_block_noise",
    "coherence",
    "coherent_axis_alignment",
)


def diffraction_statistics(view: np.ndarray) -> dict[str, float]:
    """Similarity of a normalised image (h, w) to a diffraction pattern about any centre near its middle.

    `inversion_symmetry`: maximum of the normalised self-convolution of the log image near the middle (Friedel's law: 1
    = every point has its partner). `centre_excess`: mean brightness of the disk of 8 % of the side around that centre
    less that of the outer part, in grey ranges. `radial_fraction`: fraction of the log image's variance that the
    distance from the centre explains. All 0 below 32 px and for an image without contrast.
    """
    none = {"inversion_symmetry": 0.0, "centre_excess": 0.0, "radial_fraction": 0.0}
    if min(view.shape) < 32:
        return none
    scale = DIFFRACTION_SIDE_PX / max(view.shape)
    size = max(16, round(view.shape[1] * scale)), max(16, round(view.shape[0] * scale))
    small = cv2.resize(view, size, interpolation=cv2.INTER_AREA)
    brightness = np.clip(small - compute_quantile(small, 0.02), 0, None)
    top = float(brightness.max())
    if top <= 1e-6:
        return none
    log = np.log(brightness / top + 0.01)
    log -= log.mean()
    peak, cy, cx = _find_symmetry_centre(log)
    variance = float((log**2).sum())
    if variance <= 1e-9:
        return none
    radius = np.hypot(np.arange(log.shape[0])[:, None] - cy, np.arange(log.shape[1]) - cx)
    return {
        "inversion_symmetry": float(peak / variance),
        "centre_excess": _centre_excess(brightness, radius, top),
        "radial_fraction": float(_compute_radial_variance(log, radius) / variance),
    }


def _find_symmetry_centre(log: np.ndarray) -> tuple[float, float, float]:
    """Maximum of the self-convolution of a zero-mean image (h, w) near its middle, and the centre (y, x) there, px."""
    h, w = log.shape
    shape = [fft.next_fast_len(2 * side, real=True) for side in (h, w)]
    transform = fft.rfft2(log, s=shape, workers=1)
    convolution = fft.irfft2(transform * transform, s=shape, workers=1)
    middle = convolution[int(0.7 * h) : int(1.3 * h), int(0.7 * w) : int(1.3 * w)]
    row, column = np.unravel_index(middle.argmax(), middle.shape)
    return middle.max(), (row + int(0.7 * h)) / 2, (column + int(0.7 * w)) / 2


def _centre_excess(brightness: np.ndarray, radius: np.ndarray, top: float) -> float:
    side = min(brightness.shape)
    centre_brightness = brightness[radius < 0.08 * side]
    ring_brightness = brightness[radius > 0.4 * side]
    return (
        float((centre_brightness.mean() - ring_brightness.mean()) / top)
        if centre_brightness.size and ring_brightness.size
        else 0.0
    )


def _compute_radial_variance(log: np.ndarray, radius: np.ndarray) -> float:
    """Sum of squares of the radial mean of a zero-mean image, over its pixels."""
    ring = np.minimum(radius.astype(int), min(log.shape) // 2)
    n = np.bincount(ring.ravel())
    profile = np.bincount(ring.ravel(), log.ravel()) / np.maximum(n, 1)
    return (n * profile**2).sum()


def scene_statistics(view: np.ndarray) -> dict[str, float]:
    """Statistics (`SCENE_STATISTICS`) that differ between photographs and micrographs, of a normalised image (h, w).

    Photographs use the whole grey range, have large even areas beside detailed ones, tones that differ from place to
    place, long edges, many of them along the axes, and hardly any noise in their flattest parts. All but
    `flat_block_noise` are computed on a copy of 256 px on the shorter side. `tables.IMAGE_STATISTICS` has the meanings.
    NaN below 64 px, beyond an aspect of 1:8 and for an image without contrast.
    """
    if min(view.shape) < 64 or max(view.shape) > 8 * min(view.shape):
        return dict.fromkeys(SCENE_STATISTICS, np.nan)
    scale = SCENE_SIDE_PX / min(view.shape)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = np.clip(cv2.resize(view, None, fx=scale, fy=scale, interpolation=interpolation), 0, 1)
    if float(small.var()) <= 1e-9:
        return dict.fromkeys(SCENE_STATISTICS, np.nan)
    statistics = {
        **_compute_block_statistics(small),
        **_compute_gradient_statistics(small),
        **_compute_histogram_statistics(small),
        **_compute_octave_statistics(small),
        "histogram_divergence": _compute_histogram_divergence(small),
        "flat_block_noise": _estimate_flat_block_noise(view),
        **_compute_coherence(small),
    }
    return {name: statistics[name] for name in SCENE_STATISTICS}


def _compute_block_statistics(small: np.ndarray) -> dict[str, float]:
    """Means and standard deviations of blocks of 16 x 16 px: how tones and texture vary over the image."""
    h, w = (side // 16 * 16 for side in small.shape)
    blocks = small[:h, :w].reshape(h // 16, 16, w // 16, 16)
    means = blocks.mean(axis=3).mean(axis=1)
    squares = np.square(blocks - means[:, None, :, None])
    log_contrast = np.log(np.sqrt(squares.mean(axis=3).mean(axis=1)) + np.float32(0.01))
    deviations = means.std() * log_contrast.std()
    covariance = ((means - means.mean()) * (log_contrast - log_contrast.mean())).mean()
    return {
        "block_mean_variance_fraction": float(means.var()) / float(small.var()),
        "local_contrast_spread": float(log_contrast.std()),
        "tone_texture_correlation": float(covariance / deviations) if deviations else 0.0,
    }


def _compute_gradient_statistics(small: np.ndarray) -> dict[str, float]:
    """Magnitudes and directions of gradients by central differences, in grey ranges per 2 px."""
    gy = small[2:, 1:-1] - small[:-2, 1:-1]
    gx = small[1:-1, 2:] - small[1:-1, :-2]
    magnitude = np.hypot(gx, gy)
    median, q90, q98 = (float(v) for v in np.quantile(np.sort(magnitude[::2, ::2], axis=None), (0.5, 0.9, 0.98)))
    is_moderate = (magnitude > median) & (magnitude < q90)
    angle = np.mod(np.arctan2(gy[is_moderate], gx[is_moderate]), np.pi / 2)
    is_aligned = np.minimum(angle, np.pi / 2 - angle) < np.pi / 24
    return {
        "axis_alignment": float(is_aligned.mean() * 6) if is_aligned.size else 1.0,
        "gradient_tail": float(np.log(max(q98, 0.004) / max(median, 0.004))),
        "gradient_median": float(np.log(median + 0.004)),
        "flat_fraction": float((magnitude < 0.03).mean()),
    }


def _compute_histogram_statistics(small: np.ndarray) -> dict[str, float]:
    histogram = count_in_bins(small.ravel(), np.ones(small.size, np.int64), np.linspace(0, 1, 65)) / small.size
    filled = histogram[histogram > 0]
    return {
        "scene_entropy_bits": float(-(filled * np.log2(filled)).sum()),
        "scene_mode_fraction": float(histogram.max()),
    }


def _compute_octave_statistics(small: np.ndarray) -> dict[str, float]:
    """Spread, kurtosis and skewness of the three finest octaves of a Laplacian pyramid."""
    log_spreads = []
    log_kurtoses = []
    skewnesses = []
    level = small
    for _ in range(3):
        smooth = cv2.GaussianBlur(level, (0, 0), 1.2)
        band = level - smooth
        power = band * band
        mean = float(power.mean())
        log_spreads.append(float(np.log(np.sqrt(mean) + 1e-3)))
        log_kurtoses.append(float(np.log(max(float((power * power).mean()), 1e-18) / max(mean**2, 1e-18))))
        skewnesses.append(float((power * band).mean()) / max(mean, 1e-9) ** 1.5)
        level = smooth[::2, ::2]
    return {
        "fine_kurtosis": log_kurtoses[0],
        "coarse_kurtosis": log_kurtoses[1],
        "octave_ratio": log_spreads[1] - log_spreads[2],
        "octave_skewness": float(abs(np.tanh(skewnesses[1] / 2))),
    }


def _compute_histogram_divergence(small: np.ndarray) -> float:
    """Jensen-Shannon divergence of the histograms (16 bins) of 64 x 64 px tiles, nats: 0 where all tiles are alike."""
    h, w = (side // 64 for side in small.shape)
    levels = np.minimum((small[: 64 * h, : 64 * w] * 16).astype(np.int64), 15)
    tile = np.arange(64 * h)[:, None] // 64 * w + np.arange(64 * w) // 64
    bin_fractions = np.bincount((tile * 16 + levels).ravel(), minlength=16 * h * w).reshape(-1, 16) / 4096

    def entropy(p):
        return -(p * np.log(np.maximum(p, 1e-12))).sum(axis=-1)

    return float(entropy(bin_fractions.mean(axis=0)) - entropy(bin_fractions).mean())


def _estimate_flat_block_noise(view: np.ndarray) -> float:
    """Log of the noise in the flattest twentieth of the blocks: finest diagonal Haar coefficients, in grey ranges.

    Shot noise is everywhere in a micrograph; a photograph's even areas have next to none.
    """
    return float(np.log(np.sqrt(np.quantile(compute_haar_power(view), 0.05)) + 0.002))


def _compute_coherence(small: np.ndarray) -> dict[str, float]:
    """Mean coherence of the structure tensor over 5 px, and cos(4 angle) of its strong edges.

    Bigun & Granlund, ICCV 1987, 433.
    """
    smooth = cv2.GaussianBlur(small, (0, 0), 1.5)
    gx = smooth[1:-1, 2:] - smooth[1:-1, :-2]
    gy = smooth[2:, 1:-1] - smooth[:-2, 1:-1]
    xx, yy, xy = (cv2.GaussianBlur(product, (0, 0), 5)[::4, ::4] for product in (gx * gx, gy * gy, gx * gy))
    energy = xx + yy
    difference = xx - yy
    anisotropy = np.sqrt(difference * difference + 4 * xy * xy)
    coherence = anisotropy / (energy + 1e-6)
    weight = coherence * (energy > compute_quantile(energy, 0.75))
    alignment = 2 * (difference / np.maximum(anisotropy, 1e-12)) ** 2 - 1  # cos(4 angle)
    return {
        "coherence": float(coherence.mean()),
        "coherent_axis_alignment": float((weight * alignment).sum() / max(float(weight.sum()), 1e-9)),
    }
