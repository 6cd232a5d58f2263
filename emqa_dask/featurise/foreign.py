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
    cy, cx = (peak[0] + int(0.7 * h)) / 2, (peak[1] + int(0.7 * w)) / 2
    variance = float((log**2).sum())
    if variance <= 1e-9:
        return none
    r = np.hypot(np.arange(h)[:, None] - cy, np.arange(w) - cx)
    ring = np.minimum(r.astype(int), min(h, w) // 2)
    n = np.bincount(ring.ravel())
    profile = np.bincount(ring.ravel(), log.ravel()) / np.maximum(n, 1)
    side = min(h, w)
    inner, outer = bright[r < 0.08 * side], bright[r > 0.4 * side]
    excess = (inner.mean() - outer.mean()) / top if inner.size and outer.size else 0.0
    return {
        "inversion_symmetry": float(near.max() / variance),
        "centre_excess": float(excess),
        "radial_fraction": float((n * profile**2).sum() / variance),
    }


def counts(image: np.ndarray) -> dict[str, float]:
    """Emptiness: fraction of pixels at the lowest grey level and how lonely the others are, on full-resolution pixels.

    `empty_fraction`: pixels at the minimum. `loneliness`: 1 - correlation between a pixel's being occupied and its
    neighbours' (4 px along both axes apart): near 1 for sparse counts, near 0 for dark ground between solid objects.
    """
    low = image.min() if image.size else 0
    filled = (image > low).astype(np.float32)
    share = float(filled.mean()) if image.size else 0.0
    if min(image.shape) < 16 or share in (0.0, 1.0):
        return {"empty_fraction": 1 - share, "loneliness": 0.0}
    centred = filled - share
    rows, columns = (centred[:-4] * centred[4:]).mean(), (centred[:, :-4] * centred[:, 4:]).mean()
    return {"empty_fraction": 1 - share, "loneliness": float(1 - (rows + columns) / (2 * share * (1 - share)))}


def scene(view: np.ndarray) -> dict[str, float]:
    """Marks of a photographed scene. Blocks are a 16th of the view.

    `tone_share`: variance of the blocks' means over the whole variance. `unevenness`: spread (std) of the log of the
    blocks' gradient energy. `upright`: share of gradient energy within 7.5 degrees of the axes, times 6, so that no
    preference gives 1. `gradient_tail`: 99.5 percentile of the gradient over its median.
    """
    names = ("tone_share", "unevenness", "upright", "gradient_tail")
    if min(view.shape) < 64:
        return dict.fromkeys(names, np.nan)
    scale = min(1.0, 256 / min(view.shape))
    small = cv2.resize(view, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else view
    gy, gx = small[2:, 1:-1] - small[:-2, 1:-1], small[1:-1, 2:] - small[1:-1, :-2]
    energy = gy**2 + gx**2
    total = float(energy.sum())
    if total <= 1e-9:
        return dict.fromkeys(names, 0.0)
    angle = np.mod(np.arctan2(gy, gx), np.pi / 2)
    near = np.minimum(angle, np.pi / 2 - angle) < np.pi / 24
    blocks = cv2.resize(small, (16, 16), interpolation=cv2.INTER_AREA)
    busy = cv2.resize(energy, (16, 16), interpolation=cv2.INTER_AREA)
    magnitude = np.sqrt(energy)
    return {
        "tone_share": float(blocks.var() / max(float(small.var()), 1e-9)),
        "unevenness": float(np.log(busy + 1e-5).std()),
        "upright": float(energy[near].sum() / total * 6),
        "gradient_tail": float(np.quantile(magnitude, 0.995) / max(float(np.median(magnitude)), 1e-4)),
    }
