"""A signature of an image's content for the search for near-duplicates: coarse tones and the grain of its middle."""

from typing import Any

import cv2
import numpy as np

TONE_PX = 16
GRAIN_PX = 64
RIM_PX = 10  # around the grain: the Gaussians reach that far
N_BYTES = TONE_PX**2 + GRAIN_PX**2 // 8


def compute_signature(image: np.ndarray) -> bytes:
    """768 bytes for a finite 2-D float32 image: 16 x 16 tones (int8) and 64 x 64 signs of the grain (bits).

    Tones: block means, mean 0, 32 = one standard deviation; they survive gain, offset, depth, re-compression and small
    shifts. Grain: sign of a difference of Gaussians (sigma 1 and 3 px) in the middle of the image at full resolution:
    the same frame saved again keeps it, another exposure of the same place does not. A constant image gives zeros, and
    so does the grain of an image below 64 px or of a flat middle.
    """
    if min(image.shape) == 0:
        return bytes(N_BYTES)
    means = cv2.resize(image, (TONE_PX, TONE_PX), interpolation=cv2.INTER_AREA).astype(np.float64)
    return encode_signature(means, cut_grain_tile(image))


def encode_signature(means: np.ndarray, grain_tile: np.ndarray) -> bytes:
    """The signature from block means (16, 16), float64, and the tile of cut_grain_tile()."""
    spread = means.std()
    flat = spread <= 1e-7 * max(float(np.abs(means).max()), 1e-30)
    tones = np.zeros_like(means) if flat else (means - means.mean()) / spread
    coarse = np.clip(np.rint(32 * tones), -127, 127).astype(np.int8)
    return coarse.tobytes() + np.packbits(_compute_grain_signs(grain_tile)).tobytes()


def cut_grain_tile(images: Any) -> Any:
    """The middle (..., 84, 84) of `images` (..., h, w), with 10 px of rim; empty where the images are smaller."""
    h, w = images.shape[-2:]
    side = GRAIN_PX + 2 * RIM_PX
    if min(h, w) < side:
        return images[..., :0, :0]
    y, x = (h - GRAIN_PX) // 2 - RIM_PX, (w - GRAIN_PX) // 2 - RIM_PX
    return images[..., y : y + side, x : x + side]


def _compute_grain_signs(tile: np.ndarray) -> np.ndarray:
    if not tile.size:
        return np.zeros((GRAIN_PX, GRAIN_PX), bool)
    fine = cv2.GaussianBlur(tile, (0, 0), 1.0) - cv2.GaussianBlur(tile, (0, 0), 3.0)
    fine = fine[RIM_PX:-RIM_PX, RIM_PX:-RIM_PX]
    # Rounding leaves a pattern in a flat middle that two images can share.
    return fine > 0 if np.abs(fine).max() > 1e-5 * max(float(np.abs(tile).max()), 1e-30) else np.zeros(fine.shape, bool)
