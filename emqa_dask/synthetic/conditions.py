"""Other conditions of acquisition and processing put on an image's pixels, its content kept: CONDITIONS, reacquire().

Other than faults, they are no defects: people record and save like this, only not as the training images were.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from emqa_dask.synthetic import fields
from emqa_dask.synthetic.faults import estimate_noise_level
from emqa_dask.synthetic.sample import draw_log_uniform


def reacquire(
    rng: np.random.Generator, unit: NDArray[np.float32], names: Sequence[str] | None = None
) -> NDArray[np.float32]:
    """The content of `unit` (h, w), float32, grey range 0 to 1, under one to three other conditions; new array.

    `names` are the CONDITIONS to choose from; default: all. KeyError for another name.
    """
    order = {name: k for k, name in enumerate(CONDITIONS)}
    names = sorted(CONDITIONS if names is None else names, key=order.__getitem__)
    n = min(len(names), int(rng.choice([1, 2, 3], p=[0.55, 0.3, 0.15])))
    weights = np.array([3.0 if name in FREQUENT else 1.0 for name in names])
    for k in np.sort(rng.choice(len(names), size=n, replace=False, p=weights / weights.sum())):
        unit = np.asarray(CONDITIONS[names[k]](rng, unit), np.float32)
    return unit


def _zoom_image(rng: np.random.Generator, unit: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """`unit` enlarged by `factor`, or shrunk and continued by reflection, about a random place; noise as before."""
    h, w = unit.shape
    y, x = (rng.uniform(0, n * max(0.0, 1 - 1 / factor)) for n in (h, w))
    maps = np.meshgrid(x + np.arange(w) / factor, y + np.arange(h) / factor)
    source = cv2.GaussianBlur(unit, (0, 0), 0.45 / factor) if factor < 1 else unit
    maps = [m.astype(np.float32) for m in maps]
    image = cv2.remap(source, *maps, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    return _add_noise(rng, image, max(estimate_noise_level(unit) ** 2 - estimate_noise_level(image) ** 2, 0) ** 0.5)


def _add_noise(rng, unit, sigma, grain_px=0.0):
    return unit + np.float32(sigma) * fields.draw_white_noise(rng, unit.shape, grain_px)


def _change_magnification(rng, unit):
    factor = draw_log_uniform(rng, 1.3, 2)
    return _zoom_image(rng, unit, factor if rng.random() < 0.5 else 1 / factor)


def _blur_image(rng, unit):
    """Optics blur and detectors add their noise after; or the whole was smoothed. Along one axis more: astigmatism."""
    sigma_x_px = draw_log_uniform(rng, 0.8, 4)
    sigma_y_px = sigma_x_px if rng.random() < 0.6 else sigma_x_px * rng.uniform(0.1, 0.6)
    soft = cv2.GaussianBlur(unit, (0, 0), sigmaX=sigma_x_px, sigmaY=sigma_y_px)
    return _add_noise(rng, soft, estimate_noise_level(unit)) if rng.random() < 0.5 else soft


def _add_drift(rng, unit):
    length = draw_log_uniform(rng, 3, 14)
    half_width_px = int(np.ceil(length / 2))
    angle = rng.uniform(0, np.pi)
    kernel = np.zeros((2 * half_width_px + 1,) * 2, np.float32)
    ends = [[round(16 * (half_width_px + s * f(angle) * length / 2)) for f in (np.cos, np.sin)] for s in (-1, 1)]
    cv2.line(kernel, *ends, 1.0, 1, cv2.LINE_AA, shift=4)
    image = cv2.filter2D(unit, -1, kernel / max(kernel.sum(), 1e-6), borderType=cv2.BORDER_REFLECT)
    return _add_noise(rng, image, estimate_noise_level(unit))


def _add_scan_jitter(rng, unit):
    """Lines of a scan that are out of place, each by itself or with its neighbours."""
    h, w = unit.shape
    steps = fields.draw_white_noise(rng, (h, 1), rng.choice([0.0, 2.0])) * np.float32(draw_log_uniform(rng, 0.3, 2.5))
    x, y = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
    return cv2.remap(unit, x + steps, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def _add_shading(rng, unit):
    return unit + np.float32(draw_log_uniform(rng, 0.25, 1)) * fields.draw_gradient(rng, unit.shape)


def _add_charging(rng, unit):
    h = unit.shape[0]
    steps = rng.standard_normal(h) * (rng.random(h) < 8 / np.sqrt(h))
    rows = np.float32(draw_log_uniform(rng, 0.08, 0.4)) * (steps + 0.15 * rng.standard_normal(h)).astype(np.float32)
    return unit + cv2.GaussianBlur(rows[:, None], (1, 0), 0.7 + 3 * rng.random())


def _lower_dose(rng, unit):
    electrons = draw_log_uniform(rng, 2, 40)
    counts = rng.poisson(electrons * np.clip(unit + 0.15, 0.02, None)).astype(np.float32) / np.float32(electrons)
    spread = draw_log_uniform(rng, 0.3, 1.5)  # of the scintillator
    return cv2.GaussianBlur(counts, (0, 0), spread) if spread > 0.6 else counts


def _raise_noise(rng, unit):
    return _add_noise(rng, unit, draw_log_uniform(rng, 0.06, 0.4), rng.choice([0.0, 0.0, 0.6, 1.2]))


def _add_line_pattern(rng, unit):
    """A pattern that the detector or the mains lay over the image: columns, rows, or a wave along them."""
    n = unit.shape[1]
    if rng.random() < 0.5:
        line = fields.draw_white_noise(rng, (1, n))
    else:
        line = np.sin(2 * np.pi * (np.arange(n, dtype=np.float32) / draw_log_uniform(rng, 3, 20) + rng.random()))[None]
    amount = np.float32(draw_log_uniform(rng, 0.04, 0.25))
    return unit + amount * (line if rng.random() < 0.5 else cv2.resize(line, (*unit.shape[:1], 1)).T)


def _add_impulse_noise(rng, unit):
    """Hot and dead pixels, x-rays."""
    uniform_draws = rng.random(unit.shape)
    impulse_fraction = draw_log_uniform(rng, 0.002, 0.05)
    bright_fraction, dark_fraction = rng.permutation([1.0, rng.random()]) * impulse_fraction
    return np.where(
        uniform_draws < bright_fraction,
        draw_log_uniform(rng, 1, 2),
        np.where(uniform_draws > 1 - dark_fraction, rng.uniform(-0.3, 0), unit),
    )


def _add_double_image(rng, unit):
    angle = rng.uniform(0, 2 * np.pi)
    length = draw_log_uniform(rng, 2, 10)
    shift = np.array([[1, 0, length * np.cos(angle)], [0, 1, length * np.sin(angle)]], np.float32)
    image = cv2.warpAffine(unit, shift, unit.shape[::-1], borderMode=cv2.BORDER_REFLECT)
    second_image_weight = np.float32(rng.uniform(0.3, 0.5))
    return (1 - second_image_weight) * unit + second_image_weight * image


def _change_transfer(rng, unit):
    """Another band of frequencies gets through: a sharp limit, a contrast transfer that oscillates, no low ones."""
    h, w = unit.shape
    padded_image = np.pad(unit, ((0, h), (0, w)), mode="symmetric")
    q = np.hypot(fft.fftfreq(2 * h)[:, None], fft.rfftfreq(2 * w)[None])
    transfer_kind = rng.integers(3)
    if transfer_kind == 0:
        gain = q < draw_log_uniform(rng, 0.08, 0.3)
    elif transfer_kind == 1:
        gain = np.cos(np.pi / 2 * (q / draw_log_uniform(rng, 0.03, 0.2)) ** 2)
    else:
        gain = 1 - np.exp(-((q / draw_log_uniform(rng, 0.01, 0.06)) ** 2))
    gain = np.where(q == 0, 1, gain)
    return fft.irfft2(fft.rfft2(padded_image) * gain, s=padded_image.shape)[:h, :w]


def _bin_pixels(rng, unit):
    factor = int(rng.integers(2, 4))
    size = tuple(max(8, n // factor) for n in unit.shape[::-1])
    interpolations = [cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC]
    binned_image = cv2.resize(unit, size, interpolation=cv2.INTER_AREA)
    return cv2.resize(binned_image, unit.shape[::-1], interpolation=interpolations[int(rng.integers(3))])


def _invert_greys(rng, unit):
    return 1 - unit


def _apply_gamma(rng, unit):
    exponent = draw_log_uniform(rng, 1.6, 3.5)
    return np.clip(unit, 0, 1) ** np.float32(exponent if rng.random() < 0.5 else 1 / exponent)


def _change_gain(rng, unit):
    """Other brightness and contrast, as set at the detector: other grey values, none of them lost."""
    return np.float32(draw_log_uniform(rng, 0.25, 1.5)) * unit + np.float32(rng.uniform(-0.4, 0.8))


def _clip_greys(rng, unit):
    low, high = np.quantile(unit, [rng.uniform(0, 0.25), 1 - rng.uniform(0, 0.25)])
    return np.clip((unit - low) / max(high - low, 0.05), 0, 1)


def _level_background(rng, unit):
    """Tones evened out over the image, as background subtraction and local contrast do."""
    reach = draw_log_uniform(rng, 4, 24)
    flat = unit - cv2.GaussianBlur(unit, (0, 0), reach)
    if rng.random() < 0.5:
        flat = flat / np.sqrt(cv2.GaussianBlur(flat * flat, (0, 0), reach) + 0.003)
    low, high = np.quantile(flat, [0.005, 0.995])
    return (flat - low) / max(high - low, 1e-6)


def _equalise_histogram(rng, unit):
    """Of the histogram, over the whole image or in tiles."""
    pixels = np.rint(255 * np.clip(unit, 0, 1)).astype(np.uint8)
    if rng.random() < 0.5:
        return cv2.equalizeHist(pixels).astype(np.float32) / 255
    tiles = int(rng.integers(2, 9))
    return cv2.createCLAHE(float(draw_log_uniform(rng, 2, 20)), (tiles, tiles)).apply(pixels).astype(np.float32) / 255


def _sharpen_image(rng, unit):
    return unit + np.float32(draw_log_uniform(rng, 0.8, 4)) * (
        unit - cv2.GaussianBlur(unit, (0, 0), rng.uniform(0.8, 2.5))
    )


def _denoise_image(rng, unit):
    filter_kind = rng.integers(3)
    if filter_kind == 0:
        return cv2.medianBlur(np.ascontiguousarray(unit), int(rng.choice([3, 5])))
    if filter_kind == 1:
        pixels = np.rint(255 * np.clip(unit, 0, 1)).astype(np.uint8)
        return (
            cv2.fastNlMeansDenoising(pixels, None, float(draw_log_uniform(rng, 5, 40)), 5, 11).astype(np.float32) / 255
        )
    return cv2.bilateralFilter(unit, 5, float(draw_log_uniform(rng, 0.1, 0.6)), 2.0)


def _quantise_greys(rng, unit):
    n = np.float32(draw_log_uniform(rng, 5, 40))
    return np.rint(np.clip(unit, 0, 1) * n) / n


def _compress_jpeg(rng, unit):
    pixels = np.rint(255 * np.clip(unit, 0, 1)).astype(np.uint8)
    _, buffer = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(4, 30))])
    return cv2.imdecode(buffer, cv2.IMREAD_GRAYSCALE).astype(np.float32) / 255


# In the order in which they happen: optics, stage, scan, detector, software.
CONDITIONS: dict[str, Callable] = {
    "magnification": _change_magnification,
    "blur": _blur_image,
    "drift": _add_drift,
    "jitter": _add_scan_jitter,
    "double_image": _add_double_image,
    "transfer": _change_transfer,
    "shading": _add_shading,
    "charging": _add_charging,
    "dose": _lower_dose,
    "noise": _raise_noise,
    "pattern": _add_line_pattern,
    "impulses": _add_impulse_noise,
    "binning": _bin_pixels,
    "inversion": _invert_greys,
    "gamma": _apply_gamma,
    "gain": _change_gain,
    "clipping": _clip_greys,
    "levelling": _level_background,
    "equalisation": _equalise_histogram,
    "sharpening": _sharpen_image,
    "denoising": _denoise_image,
    "coarse_levels": _quantise_greys,
    "compression": _compress_jpeg,
}
FREQUENT = ("magnification", "blur", "drift", "dose", "noise", "gain")  # what sessions mostly differ in
