"""A camera: electrons to numbers. Shot noise, MTF, gain pattern, read-out noise, seam, quantisation, JPEG softness."""

import cv2
import numpy as np

from emqa_dask.synthetic.sample import draw_log_uniform


def expose(
    rng: np.random.Generator,
    intensity: np.ndarray,
    *,
    dose_e_per_px: float,
    mtf_sigma_px: float = 0.5,
    gain_spread: float = 0.0,
    read_noise_e: float = 0.0,
    seam: bool = False,
) -> np.ndarray:
    """Electrons that the camera reports for a relative `intensity` (about 1 on average): float32, same shape.

    Shot noise is Poisson (normal above 40 electrons a pixel, skewness 0.16), then blurred by the point spread of the
    scintillator, multiplied by an imperfect gain reference, and given read-out noise. `seam` draws the line where two
    halves of the chip meet. An infinite dose gives the noiseless image with mean 1.
    """
    if np.isinf(dose_e_per_px):
        return cv2.GaussianBlur(intensity, (0, 0), mtf_sigma_px) if mtf_sigma_px > 0.2 else intensity.astype(np.float32)
    expected = np.clip(intensity, 0, None).astype(np.float32) * np.float32(dose_e_per_px)
    if dose_e_per_px > 40:
        electrons = expected + np.sqrt(expected) * rng.standard_normal(expected.shape, dtype=np.float32)
    else:
        electrons = rng.poisson(expected).astype(np.float32)
    if mtf_sigma_px > 0.2:
        electrons = cv2.GaussianBlur(electrons, (0, 0), mtf_sigma_px)
    if gain_spread > 0 or read_noise_e > 0:  # both white: one draw of the sum's deviation
        deviation = np.sqrt(np.float32(gain_spread**2) * electrons**2 + np.float32(read_noise_e**2))
        electrons += deviation * rng.standard_normal(electrons.shape, dtype=np.float32)
    if seam:
        electrons[:, int(rng.integers(electrons.shape[1] // 8, electrons.shape[1]))] *= rng.uniform(0.75, 0.95)
    return electrons


def draw_settings(rng: np.random.Generator, *, low_dose: float = 20.0, high_dose: float = 3000.0) -> dict:
    """Settings for `expose` as people's cameras have them: dose log-uniform from hopeless to clean."""
    dose = draw_log_uniform(rng, low_dose, high_dose)
    return {
        "dose_e_per_px": dose,
        "mtf_sigma_px": draw_log_uniform(rng, 0.3, 1.5),
        "gain_spread": float(rng.choice([0.0, 0.005, 0.02], p=[0.5, 0.3, 0.2])),
        "read_noise_e": float(rng.uniform(0, 0.3) * np.sqrt(dose)),
        "seam": bool(rng.random() < 0.08),
    }


def digitise(rng: np.random.Generator, electrons: np.ndarray, dtype: str) -> np.ndarray:
    """`electrons` as stored: uint16 counts with an offset, float32 counts, or a stretched uint8 with a gamma.

    uint16 fills only part of its range, as cameras do; uint8 clips under 0.2 % of the pixels at each end, as people's
    exports do. Raises ValueError for another dtype.
    """
    if dtype == "float32":
        return (electrons * np.float32(draw_log_uniform(rng, 0.5, 20))).astype(np.float32)
    if dtype == "uint16":
        top = max(float(electrons.max()), 1e-6)
        scale = draw_log_uniform(rng, 2000, 50000) / top
        offset = rng.uniform(0, 300)
        return np.clip(np.rint(electrons * np.float32(scale) + np.float32(offset)), 0, 65535).astype(np.uint16)
    if dtype != "uint8":
        raise ValueError(f"dtype {dtype!r} is not one of uint8, uint16, float32")
    clip = draw_log_uniform(rng, 0.005, 0.15)
    low, high = np.percentile(electrons[::4, ::4], [clip, 100 - clip])
    head = rng.uniform(0, 0.15)
    unit = np.clip((electrons - low) / max(high - low, 1e-6), 0, 1) * np.float32(1 - head) + np.float32(head / 2)
    gamma = rng.uniform(0.75, 1.35)
    return np.rint(255 * unit ** np.float32(gamma)).astype(np.uint8)


def compress_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """A uint8 image after JPEG at `quality` (1-100): the loss that exported micrographs carry; same shape and dtype."""
    _, buffer = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    return cv2.imdecode(buffer, cv2.IMREAD_GRAYSCALE)


def record(rng: np.random.Generator, intensity: np.ndarray, dtype: str, settings: dict) -> np.ndarray:
    """`expose` then `digitise`, and for half of the uint8 images the softness of a JPEG: the image as archived."""
    image = digitise(rng, expose(rng, intensity, **settings), dtype)
    quality = int(rng.integers(55, 97))
    return compress_jpeg(image, quality) if dtype == "uint8" and rng.random() < 0.5 else image
