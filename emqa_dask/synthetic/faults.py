"""Faults put on good micrographs, and their labels; foreign images, which are no micrographs."""

import math

import cv2
import numpy as np
from scipy import fft, ndimage

from emqa_dask.synthetic import overlays
from emqa_dask.synthetic.foreign import FOREIGN, make_foreign_image

__all__ = ["FAULTS", "FOREIGN", "apply_fault", "estimate_noise_level", "make_foreign_image", "make_near_duplicate"]

FAULTS = {
    "blur": "out of focus: the specimen's detail is gone, the detector's noise is not",
    "drift": "the stage moved in a straight line during the exposure",
    "astigmatism": "two different defoci along two axes: elliptical contrast transfer, or an elliptical probe",
    "saturation": "too bright for the detector: a part of the pixels is clipped at its end",
    "under_exposure": "a few electrons per pixel: dark, on a handful of grey levels",
    "blank": "beam off, shutter closed or empty vacuum: detector noise, at most a slow shading",
    "charging": "an insulating specimen charges: bright and dark stripes along the scan and flares",
    "x_rays": "x-rays or cosmic rays hit the detector: saturated single pixels and short streaks",
    "banner": "the instrument's information bar was saved with the image",
    "scale_bar": "a scale bar with its text was burned into the image",
    "duplicate": "the same pixels a second time, under another name",
    "near_duplicate": "the same frame again: other gain, a small shift, re-compressed",
    **FOREIGN,
}


def estimate_noise_level(image: np.ndarray) -> float:
    """Standard deviation of the white noise in a 2-D image, from the median of its diagonal second differences.

    Donoho & Johnstone 1994 (median of the finest diagonal wavelet coefficients / 0.6745). 0 for images below 3 x 3.
    """
    if min(image.shape) < 3:
        return 0.0
    y = image.astype(np.float64)
    d = (y[:-1:2, :-1:2][: y.shape[0] // 2] - y[:-1:2, 1::2] - y[1::2, :-1:2] + y[1::2, 1::2]) / 2
    return float(np.median(np.abs(d)) / 0.6745)


def _to_dtype(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    if np.issubdtype(like.dtype, np.integer):
        span = np.iinfo(like.dtype)
        return np.clip(np.rint(values), span.min, span.max).astype(like.dtype)
    return values.astype(like.dtype)


def _apply_exposure(signal: np.ndarray, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`signal` with the noise that `image` has: optics spoil the signal, and the detector adds its noise after."""
    noise = estimate_noise_level(image)
    mean = max(float(signal.mean() - min(signal.min(), 0)), 1e-12)
    grain = noise * np.sqrt(np.clip(signal / mean, 0.3, 3.0)) if signal.min() >= 0 else noise
    return _to_dtype(signal + grain * rng.standard_normal(signal.shape), image)


def _blur_image(image, rng, severity):
    sigma = severity * rng.uniform(0.012, 0.020) * np.sqrt(image.size)
    return _apply_exposure(ndimage.gaussian_filter(image.astype(np.float64), sigma, mode="reflect"), image, rng)


def _add_drift(image, rng, severity):
    length = severity * rng.uniform(0.028, 0.06) * np.sqrt(image.size)
    angle = rng.uniform(0, np.pi)
    n = int(np.ceil(length)) | 1
    half = n // 2 + 1
    kernel = np.zeros((2 * half + 1, 2 * half + 1))
    t = np.linspace(-length / 2, length / 2, 8 * n)
    yy = half + t * np.sin(angle)
    xx = half + t * np.cos(angle)
    for dy in (0, 1):  # bilinear deposit of the path
        for dx in (0, 1):
            iy = np.floor(yy).astype(int) + dy
            ix = np.floor(xx).astype(int) + dx
            np.add.at(kernel, (iy, ix), (1 - abs(yy - iy)) * (1 - abs(xx - ix)))
    kernel /= kernel.sum()
    signal = cv2.filter2D(image.astype(np.float64), -1, kernel, borderType=cv2.BORDER_REFLECT)
    return _apply_exposure(signal, image, rng)


def _add_astigmatism(image, rng, severity):
    h, w = image.shape
    angle = rng.uniform(0, np.pi)
    pad = int(0.06 * np.sqrt(h * w)) + 1
    padded_image = np.pad(image.astype(np.float64), pad, mode="reflect")
    qy = fft.fftfreq(padded_image.shape[0])[:, None]
    qx = fft.rfftfreq(padded_image.shape[1])[None]
    q2 = qy**2 + qx**2
    azimuth = np.cos(2 * (np.arctan2(qy, qx) - angle))  # +1 on the first axis, -1 on the second
    size = np.sqrt(h * w)
    if rng.random() < 0.5:  # TEM: first zeros of the contrast transfer at two different frequencies
        long_zero_period_px = severity * rng.uniform(36, 52)
        short_zero_period_px = rng.uniform(5, 10)
        a1, a2 = (0.5 * (size / 512 * p / 2) ** 2 for p in (long_zero_period_px, short_zero_period_px))
        phase = np.pi * ((a1 + a2) / 2 + (a1 - a2) / 2 * azimuth) * q2
        transfer = np.cos(phase) * np.exp(-phase / 5)  # coherence fails first where defocus is large
    else:  # STEM and SEM: an elliptical probe
        long_px = severity * rng.uniform(0.014, 0.022) * size
        short_px = long_px / rng.uniform(4, 7)
        var = (long_px**2 + short_px**2) / 2 + (long_px**2 - short_px**2) / 2 * azimuth
        transfer = np.exp(-2 * np.pi**2 * var * q2)
    signal = fft.irfft2(fft.rfft2(padded_image) * transfer, s=padded_image.shape)[pad : pad + h, pad : pad + w]
    return _apply_exposure(np.clip(signal, min(float(image.min()), 0.0), None), image, rng)


def _find_full_scale(image, rng):
    """Where the detector clips: the dtype's end, or 12, 14 or 16 bit for deeper integers; the data's for floats."""
    if image.dtype == np.uint8:
        return 255.0
    if np.issubdtype(image.dtype, np.integer):
        bits = [b for b in (12, 14, 15, 16) if 2**b - 1 <= np.iinfo(image.dtype).max]
        return float(2 ** int(rng.choice(bits)) - 1) if bits else float(np.iinfo(image.dtype).max)
    return float(np.nanmax(image))


def _saturate_detector(image, rng, severity):
    top = _find_full_scale(image, rng)
    saturated_fraction = float(np.clip(severity * rng.uniform(0.08, 0.30), 0, 0.9))
    low, high = np.percentile(image, [0.5, 100 * (1 - saturated_fraction)])
    base = rng.uniform(0.0, 0.25) * top
    gain = (top - base) / max(high - low, 1e-12)
    return _to_dtype(np.clip((image.astype(np.float64) - low) * gain + base, 0, top), image)


def _under_expose(image, rng, severity):
    values = image.astype(np.float64)
    low, high = np.percentile(values, [0.1, 99.9])
    relative = np.clip((values - min(low, 0) * 1.0) / max(high - min(low, 0), 1e-12), 0, None)
    electrons = rng.uniform(1.5, 8.0) / severity  # per pixel at the bright end
    counts = rng.poisson(relative * electrons).astype(np.float64)
    if np.issubdtype(image.dtype, np.integer):
        return _to_dtype(counts, image)
    return (counts * float(high) / 1000).astype(image.dtype)


def _make_blank(image, rng, severity):
    h, w = image.shape
    top = 255.0 if image.dtype == np.uint8 else 4095.0
    if rng.random() < 0.15:
        return np.full_like(image, int(rng.choice([0, 0.5 * top, top])))
    y, x = np.mgrid[0:h, 0:w] / max(h, w, 1)
    shade = 1 + rng.uniform(-0.15, 0.15) * y + rng.uniform(-0.15, 0.15) * x
    level = top * rng.choice([0.03, 0.2, 0.5, 0.8])
    noise = max(0.6, top * rng.uniform(0.004, 0.02)) * rng.standard_normal((h, w))
    return _to_dtype(level * shade + noise, image)


def _add_charging(image, rng, severity):
    h, w = image.shape
    out = image.astype(np.float64)
    low, high = np.percentile(out, [1, 99])
    swing = severity * max(high - low, 1.0 if np.issubdtype(image.dtype, np.integer) else 1e-12)
    for _ in range(int(rng.integers(8, 22))):  # stripes along the scan, a few rows thick
        y = int(rng.integers(0, h))
        thick = int(rng.integers(1, max(2, h // 90) + 1))
        start = 0 if rng.random() < 0.6 else int(rng.uniform(0, 0.6) * w)
        strength = rng.choice([-1, 1], p=[0.35, 0.65]) * rng.uniform(0.35, 1.0) * swing
        fade = np.exp(-np.arange(w - start) / (w * rng.uniform(0.4, 3)))
        out[y : y + thick, start:] += strength * fade
    for _ in range(int(rng.integers(1, 4))):  # flares: a bright patch with a dark tail in the scan direction
        y = rng.uniform(0, h)
        x = rng.uniform(0, w)
        r = rng.uniform(0.02, 0.06) * np.sqrt(h * w)
        yy, xx = np.ogrid[0:h, 0:w]
        glow = np.exp(-0.5 * (((yy - y) / r) ** 2 + ((xx - x) / (2.5 * r)) ** 2))
        tail = np.exp(-0.5 * ((yy - y) / (0.7 * r)) ** 2) * np.exp(-np.clip(xx - x, 0, None) / (8 * r)) * (xx > x)
        out += swing * (1.2 * glow - 0.5 * tail)
    top = 255.0 if image.dtype == np.uint8 else float(image.max()) * 1.3
    return _to_dtype(np.clip(out, min(float(image.min()), 0.0), max(top, 1e-12)), image)


def _add_x_rays(image, rng, severity):
    h, w = image.shape
    low, high = float(image.min()), float(image.max())
    if image.dtype == np.uint8:  # whoever exports to 8 bits stretches the contrast to the hits too
        out = _to_dtype(low + (image - low) * rng.uniform(0.4, 0.75), image)
        top = 255.0
    else:
        out = image.copy()
        top = high + rng.uniform(1, 6) * max(high - low, 1e-12)
    if np.issubdtype(image.dtype, np.integer):
        top = min(top, np.iinfo(image.dtype).max)
    n = max(int(severity * rng.uniform(40, 160) * h * w / 512**2), 8)
    y, x = rng.integers(0, h, n), rng.integers(0, w, n)
    out[y, x] = _to_dtype(top * rng.uniform(0.85, 1.0, n), image)
    for k in range(max(1, n // 12)):  # grazing hits leave streaks
        angle = rng.uniform(0, np.pi)
        length = rng.uniform(3, 12)
        t = np.arange(0, length, 0.5)
        sy = (y[k] + t * np.sin(angle)).astype(int)
        sx = (x[k] + t * np.cos(angle)).astype(int)
        is_inside = (sy >= 0) & (sy < h) & (sx >= 0) & (sx < w)
        out[sy[is_inside], sx[is_inside]] = np.asarray(top).astype(image.dtype)
    return out


_CHANGES = {
    "blur": _blur_image,
    "drift": _add_drift,
    "astigmatism": _add_astigmatism,
    "saturation": _saturate_detector,
    "under_exposure": _under_expose,
    "blank": _make_blank,
    "charging": _add_charging,
    "x_rays": _add_x_rays,
    "duplicate": lambda image, rng, severity: image.copy(),
    "near_duplicate": lambda image, rng, severity: make_near_duplicate(image, rng),
}
_OVERLAYS = {"banner": overlays.draw_banner, "scale_bar": overlays.draw_scale_bar}


def apply_fault(
    name: str,
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    severity: float = 1.0,
    nm_per_pixel: float = math.nan,
) -> np.ndarray:
    """`image` (h, w; integer or float) with fault `name` of FAULTS; same shape and dtype; the input is not changed.

    `severity` 1 is what an operator would call a fault; lengths scale with the size of the image. A foreign name
    (photograph, plot, ...) gives a new picture of the same shape in grey, in its dtype. Burnt-in scale bars state
    `nm_per_pixel`. KeyError for another name.
    """
    if name in FOREIGN:
        foreign_image = make_foreign_image(name, rng, image.shape)
        grey = foreign_image.astype(np.float64)
        return _to_dtype(np.rint(grey if grey.ndim == 2 else grey @ [0.299, 0.587, 0.114]), image)
    if name in _OVERLAYS:
        return _OVERLAYS[name](image, rng, severity=severity, nm_per_pixel=nm_per_pixel)
    return _CHANGES[name](image, rng, severity)


def make_near_duplicate(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same frame saved again: gain and offset, a shift of up to 1 %, JPEG-like re-compression, a little noise."""
    h, w = image.shape
    out = image.astype(np.float64)
    steps = rng.random(3) < (0.8, 0.6, 0.6)
    if not steps.any():
        steps[0] = True
    low, high = float(out.min()), float(out.max())
    if steps[1]:
        reach = max(1, round(0.008 * min(h, w)))
        out = ndimage.shift(out, rng.integers(-reach, reach + 1, 2), order=0, mode="reflect")
    if steps[0]:
        out = low + (out - low) * rng.uniform(0.8, 1.0) + rng.uniform(0, 0.05) * (high - low)
    if steps[2] and high > low:
        eight = np.clip(np.rint((out - low) / (high - low) * 255), 0, 255).astype(np.uint8)
        coded = cv2.imencode(".jpg", eight, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(70, 93))])[1]
        out = cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE) / 255.0 * (high - low) + low
    duplicate = _to_dtype(out, image)
    if np.array_equal(duplicate, image):  # e.g. a constant image: one grey level is all there is to change
        duplicate = _to_dtype(out + (1 if high < np.inf and np.issubdtype(image.dtype, np.integer) else 1e-3), image)
    return duplicate
