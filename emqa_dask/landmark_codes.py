"""Bytes of the landmarks of an image, for the modules that write and read them: order, units and number."""

import numpy as np
from numpy.typing import NDArray

N_LANDMARKS = 32  # of an image at most; two saved versions of a frame share about 20 of them
DESCRIPTION_BITS = 48
SCALE_STEPS = 32  # of the stored scale for each octave
SCALE_UNIT = 1024  # the scale that is stored as 0 is the square root of the image's area divided by this number
SCALE_SHIFT = 56  # bits before the scale in a code
LANDMARK = np.dtype(
    [
        ("code", "<u8"),  # 48 bits of description, 1 bit for brightness, the last 8 for the scale; 0: no landmark
        ("y", "<u2"),  # in 1/65535 of the image's height
        ("x", "<u2"),  # in 1/65535 of the image's width
    ]
)
LANDMARKS_BYTES = N_LANDMARKS * LANDMARK.itemsize


def encode_landmarks(
    bits: NDArray, is_bright: NDArray, scales: NDArray, places: NDArray, shape: tuple[float, float]
) -> bytes:
    """LANDMARKS_BYTES for n landmarks of an image of `shape`, the strongest first.

    bits: (n, DESCRIPTION_BITS) bool; is_bright: (n,) bool; scales: (n,) and places: (n, 2), y and x, in units of the
    shape, the outer edge of the first pixel at 0.
    """
    landmarks = np.zeros(N_LANDMARKS, LANDMARK)
    n = len(scales)
    code = bits @ (np.uint64(1) << np.arange(DESCRIPTION_BITS, dtype=np.uint64))
    code |= is_bright.astype(np.uint64) << np.uint64(DESCRIPTION_BITS)
    steps = np.rint(SCALE_STEPS * np.log2(SCALE_UNIT * scales / np.sqrt(shape[0] * shape[1])))
    landmarks["code"][:n] = code | np.clip(steps, 1, 255).astype(np.uint64) << np.uint64(SCALE_SHIFT)
    fractions = np.clip(places / np.asarray(shape), 0, 1)
    landmarks["y"][:n], landmarks["x"][:n] = np.rint(65535 * fractions).T
    return landmarks.tobytes()


def decode_places(landmarks: NDArray, heights_px: NDArray, widths_px: NDArray) -> NDArray[np.float64]:
    """(n, N_LANDMARKS, 3) y, x and scale in px of `landmarks` (n, N_LANDMARKS) of images of n heights and widths."""
    scale_codes = (landmarks["code"] >> np.uint64(SCALE_SHIFT)).astype(float)
    height = np.asarray(heights_px, float)[:, None]
    width = np.asarray(widths_px, float)[:, None]
    y = landmarks["y"] / 65535 * height - 0.5
    x = landmarks["x"] / 65535 * width - 0.5
    return np.stack([y, x, np.sqrt(height * width) / SCALE_UNIT * 2 ** (scale_codes / SCALE_STEPS)], axis=-1)
