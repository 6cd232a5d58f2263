"""Marks of pictures that are no micrographs: symmetry of diffraction, emptiness of count maps, tones of photographs."""

import cv2
import numpy as np
from scipy import fft


def diffraction(view: np.ndarray) -> dict[str, float]:
    """How much the view (h, w) looks like a diffraction pattern about a centre that need not be the image's.

    `inversion_symmetry`: Friedel's law, the largest normalised self-convolution of the log image near the middle (1 =
    every point has its partner). `centre_excess`: how much brighter the disk of 8 % of the side around that centre
    is than the frame's outer part, in grey ranges. `radial_fraction`: fraction of the log image's variance that the
    distance from the centre explains.
    """
    none = {"inversion_symmetry": 0.0, "centre_excess": 0.0, "radial_fraction": 0.0}
    if min(view.shape) < 32:
        return none
    scale = 160 / max(view.shape)
    size = max(16, round(view.shape[1] * scale)), max(16, round(view.shape[0] * scale))
    small = cv2.resize(view, size, interpolation=cv2.INTER_AREA)
    bright = np.clip(small - np.quantile(small, 0.02), 0, None)
    top = float(bright.max())
    if top <= 1e-6:
        return none
    log = np.log(bright / top + 0.01)
    log -= log.mean()
    h, w = log.shape
    transform = fft.rfft2(log, s=(2 * h, 2 * w), workers=1)
    folded = fft.irfft2(transform * transform, s=(2 * h, 2 * w), workers=1)
    near = folded[int(0.7 * h) : int(1.3 * h), int(0.7 * w) : int(1.3 * w)]
    peak = np.unravel_index(near.argmax(), near.shape)
    cy = (peak[0] + int(0.7 * h)) / 2
    cx = (peak[1] + int(0.7 * w)) / 2
    variance = float((log**2).sum())
    if variance <= 1e-9:
        return none
    r = np.hypot(np.arange(h)[:, None] - cy, np.arange(w) - cx)
    ring = np.minimum(r.astype(int), min(h, w) // 2)
    n = np.bincount(ring.ravel())
    profile = np.bincount(ring.ravel(), log.ravel()) / np.maximum(n, 1)
    side = min(h, w)
    inner = bright[r < 0.08 * side]
    outer = bright[r > 0.4 * side]
    excess = (inner.mean() - outer.mean()) / top if inner.size and outer.size else 0.0
    return {
        "inversion_symmetry": float(near.max() / variance),
        "centre_excess": float(excess),
        "radial_fraction": float((n * profile**2).sum() / variance),
    }


EMPTY = 0.02


def counts(image: np.ndarray) -> dict[str, float]:
    """Emptiness: fraction of pixels near the lowest level and how lonely the others are, on full-resolution pixels.

    `empty_fraction`: pixels at the minimum or within 2 % of the range (to the 99.5 percentile) above it. `loneliness`:
    1 - correlation between a pixel's being occupied and its neighbours' (4 px along both axes apart): near 1 for sparse
    counts, near 0 for dark ground between solid objects.
    """
    low = image.min() if image.size else 0
    # JPEG lifts empty pixels a little; a hit must not lift the limit with the range.
    high = np.quantile(image[::4, ::4], 0.995) if image.size else 0
    filled = (image > low + EMPTY * (high - low)).astype(np.float32)
    share = float(filled.mean()) if image.size else 0.0
    if min(image.shape) < 16 or share in (0.0, 1.0):
        return {"empty_fraction": 1 - share, "loneliness": 0.0}
    centred = filled - share
    rows, columns = (centred[:-4] * centred[4:]).mean(), (centred[:, :-4] * centred[:, 4:]).mean()
    return {"empty_fraction": 1 - share, "loneliness": float(1 - (rows + columns) / (2 * share * (1 - share)))}


SCENE = (
    "tone_share",
    "unevenness",
    "busy_with_tone",
    "upright",
    "gradient_tail",
    "gradient_median",
    "flat_share",
    "scene_entropy_bits",
    "scene_peak",
    "fine_tail",
    "coarse_tail",
    "octave_ratio",
    "tone_variety",
    "octave_skew",
    "quiet_noise",
    "coherence",
    "coherence_upright",
)


def scene(view: np.ndarray) -> dict[str, float]:
    """The marks (SCENE) of a photographed scene, on a copy of 256 px on the shorter side; NaN below 64 px.

    Photographs use the whole grey range, have large even areas beside busy ones, tones that differ from place to place,
    long edges, many along the axes, and hardly any noise in their quietest parts. Meanings are in
    `tables.IMAGE_STATISTICS`; `predict.flags` weighs them.
    """
    if min(view.shape) < 64 or max(view.shape) > 8 * min(view.shape):
        return dict.fromkeys(SCENE, np.nan)
    scale = 256 / min(view.shape)
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = np.clip(cv2.resize(view, None, fx=scale, fy=scale, interpolation=way), 0, 1)
    variance = float(small.var())
    if variance <= 1e-9:
        return dict.fromkeys(SCENE, np.nan)
    gy = small[2:, 1:-1] - small[:-2, 1:-1]
    gx = small[1:-1, 2:] - small[1:-1, :-2]
    size = np.hypot(gx, gy)
    half, most, nearly = (float(v) for v in np.quantile(size[::2, ::2], (0.5, 0.9, 0.98)))
    middling = (size > half) & (size < most)
    angle = np.mod(np.arctan2(gy[middling], gx[middling]), np.pi / 2)
    along = np.minimum(angle, np.pi / 2 - angle) < np.pi / 24
    h, w = (side // 16 * 16 for side in small.shape)
    blocks = small[:h, :w].reshape(h // 16, 16, w // 16, 16)
    means = blocks.mean((1, 3))
    busy = np.log(blocks.std((1, 3)) + 0.01)
    tones = np.histogram(small, bins=64, range=(0, 1))[0] / small.size
    filled = tones[tones > 0]
    spreads = []
    tails = []
    skews = []
    level = small
    for _ in range(3):
        smooth = cv2.GaussianBlur(level, (0, 0), 1.2)
        band = level - smooth
        power = band * band
        mean = float(power.mean())
        spreads.append(float(np.log(np.sqrt(mean) + 1e-3)))
        tails.append(float(np.log(max(float((power * power).mean()), 1e-18) / max(mean**2, 1e-18))))
        skews.append(float((power * band).mean()) / max(mean, 1e-9) ** 1.5)
        level = smooth[::2, ::2]
    together = means.std() * busy.std()
    return {
        "tone_share": float(means.var()) / variance,
        "unevenness": float(busy.std()),
        "busy_with_tone": float(((means - means.mean()) * (busy - busy.mean())).mean() / together) if together else 0.0,
        "upright": float(along.mean() * 6) if along.size else 1.0,
        "gradient_tail": float(np.log(max(nearly, 0.004) / max(half, 0.004))),
        "gradient_median": float(np.log(half + 0.004)),
        "flat_share": float((size < 0.03).mean()),
        "scene_entropy_bits": float(-(filled * np.log2(filled)).sum()),
        "scene_peak": float(tones.max()),
        "fine_tail": tails[0],
        "coarse_tail": tails[1],
        "octave_ratio": spreads[1] - spreads[2],
        "tone_variety": _tone_variety(small),
        "octave_skew": float(abs(np.tanh(skews[1] / 2))),
        "quiet_noise": _quiet_noise(view),
        **_coherence(small),
    }


def _tone_variety(small: np.ndarray) -> float:
    """Jensen-Shannon divergence of the histograms (16 bins) of 64 x 64 px tiles, nats: 0 where all tiles are alike."""
    h, w = (side // 64 for side in small.shape)
    levels = np.minimum((small[: 64 * h, : 64 * w] * 16).astype(np.int64), 15)
    tile = np.arange(64 * h)[:, None] // 64 * w + np.arange(64 * w) // 64
    share = np.bincount((tile * 16 + levels).ravel(), minlength=16 * h * w).reshape(-1, 16) / 4096

    def entropy(p):
        return -(p * np.log(np.maximum(p, 1e-12))).sum(axis=-1)

    return float(entropy(share.mean(axis=0)) - entropy(share).mean())


def _quiet_noise(view: np.ndarray) -> float:
    """Log of the noise in the quietest twentieth of the blocks: finest diagonal Haar coefficients, in grey ranges.

    Shot noise is everywhere in a micrograph; a photograph's even areas have next to none.
    """
    h, w = (side // 32 * 32 for side in view.shape)
    a, b, c, d = (view[y:h:2, x:w:2] for y in (0, 1) for x in (0, 1))
    diagonal = (a - b - c + d) / 2
    power = (diagonal * diagonal).reshape(h // 32, 16, w // 32, 16).mean((1, 3))
    return float(np.log(np.sqrt(np.quantile(power, 0.05)) + 0.002))


def _coherence(small: np.ndarray) -> dict[str, float]:
    """Mean coherence of the structure tensor over 5 px (Bigun & Granlund 1987); how upright its strong edges are."""
    smooth = cv2.GaussianBlur(small, (0, 0), 1.5)
    gx = smooth[1:-1, 2:] - smooth[1:-1, :-2]
    gy = smooth[2:, 1:-1] - smooth[:-2, 1:-1]
    xx, yy, xy = (cv2.GaussianBlur(product, (0, 0), 5)[::4, ::4] for product in (gx * gx, gy * gy, gx * gy))
    energy = xx + yy
    along = xx - yy
    across = 2 * xy
    turn = np.hypot(along, across)
    coherence = turn / (energy + 1e-6)
    weight = coherence * (energy > np.quantile(energy, 0.75))
    upright = 2 * (along / np.maximum(turn, 1e-12)) ** 2 - 1  # cos(4 angle)
    return {
        "coherence": float(coherence.mean()),
        "coherence_upright": float((weight * upright).sum() / max(float(weight.sum()), 1e-9)),
    }
