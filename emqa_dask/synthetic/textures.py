"""SEM-like powder textures by lot: a lot number gives the parameters, a draw gives one field of view of that lot."""

import cv2
import numpy as np
from scipy import ndimage

from emqa_dask.synthetic import camera, fields, shapes
from emqa_dask.synthetic.sample import Sample, compute_tight_boxes, draw_log_uniform, trim_mask, use_given


def draw_lot_parameters(lot: int) -> dict:
    """What every image of `lot` (>= 0) shares: grain size and shape, roughness, edges, packing.

    Deterministic in `lot` alone, so that a range of lots can be held back as unseen.
    """
    rng = np.random.default_rng([0x5E4, lot])
    return {
        "radius_um": draw_log_uniform(rng, 0.25, 2.5),
        "sigma_log": float(rng.uniform(0.1, 0.6)),
        "aspect": float(1 + rng.exponential(0.6)),
        "squareness": float(rng.choice([2.0, 2.6, 4.0, 8.0])),
        "alignment": float(rng.uniform(0, 1)),
        "direction_rad": float(rng.uniform(0, np.pi)),
        "roughness": draw_log_uniform(rng, 0.005, 0.12),
        "roughness_exponent": float(rng.uniform(1.5, 3.2)),
        "edge": float(rng.uniform(0.2, 1.2)),
        "flatness": float(rng.uniform(0.2, 0.9)),
        "packing": float(rng.uniform(0.7, 3.0)),
        "level": float(rng.uniform(0.2, 0.6)),
    }


def draw_texture(
    rng: np.random.Generator,
    shape: tuple[int, int] = (512, 512),
    *,
    lot: int | None = None,
    nm_per_pixel: float | None = None,
    dtype: str | None = None,
    exposure: dict | None = None,
    blur_px: float | None = None,
    side_rad: float | None = None,
) -> Sample:
    """A secondary-electron image of a powder of `lot` (see `lot_parameters`; None draws one of 0 to 9).

    What is None is drawn: `blur_px` is the probe's sigma, `side_rad` the direction that the detector looks from; all
    that is given leaves the other draws as they are.

    Grains are superellipsoidal bumps stacked at random heights; brightness follows the surface's tilt (`1 / cos`), its
    edges, and a detector on one side. Objects are the grains of which at least half is in sight: masks are their
    visible pixels. Raises ValueError for a negative lot.
    """
    lot = use_given(lot, int(rng.integers(0, 10)))
    if lot < 0:
        raise ValueError(f"lot is {lot}, must not be negative")
    powder = draw_lot_parameters(lot)
    # The magnification varies a little within a lot, as operators do.
    nm_per_pixel = use_given(nm_per_pixel, 1000 * powder["radius_um"] / draw_log_uniform(rng, 11, 26))
    radius = 1000 * powder["radius_um"] / nm_per_pixel
    n = int(np.clip(powder["packing"] * shape[0] * shape[1] / (np.pi * radius**2), 4, 1200))
    radii = shapes.draw_log_normal_radii(rng, n, radius, powder["sigma_log"], 3, min(shape) / 3)
    height, owner, areas = _stack_particles(rng, radii, shape, powder)

    roughness = fields.draw_fractal(rng, shape, exponent=powder["roughness_exponent"], finest_px=2.5)
    height += radius * powder["roughness"] * roughness
    side = use_given(side_rad, rng.uniform(0, 2 * np.pi))
    signal = _shade_surface(cv2.GaussianBlur(height, (0, 0), 0.9), radius, powder, side)
    signal = np.clip(signal + powder["level"] + 0.05 * fields.draw_gradient(rng, shape), 0.05, None)
    blur = use_given(blur_px, draw_log_uniform(rng, 0.4, 2.2))
    signal = cv2.GaussianBlur(signal, (0, 0), blur)
    settings = use_given(exposure, camera.draw_settings(rng, low_dose=15) | {"mtf_sigma_px": 0.0, "seam": False})
    dtype = use_given(dtype, str(rng.choice(["uint8", "uint16"], p=[0.75, 0.25])))
    image = camera.record(rng, signal / float(signal.mean()), dtype, settings)
    masks = _list_visible_masks(owner, areas)
    meta = {
        "family": "sem-texture",
        "lot": int(lot),
        "lot_parameters": powder,
        "blur_px": float(blur),
        "voltage_kv": float(rng.choice([5, 10, 15, 20])),
        **settings,
    }
    return Sample(image, compute_tight_boxes(masks), masks, ["grain"] * len(masks), float(nm_per_pixel), meta)


def _shade_surface(height: np.ndarray, radius: float, powder: dict, side_rad: float) -> np.ndarray:
    """Secondary-electron signal of a surface: tilt, edges, a detector at direction `side_rad`, and hollows."""
    slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=1 / 8)
    slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=1 / 8)
    tilt = np.sqrt(1 + slope_y**2 + slope_x**2)
    # A hollow collects fewer secondary electrons than a summit.
    hollow = height - cv2.blur(height, (int(2 * radius) | 1,) * 2)
    edges = 0.5 * powder["edge"] * (np.minimum(tilt, 4) - 1)
    signal = 0.5 + edges + 0.18 * (np.sin(side_rad) * slope_y + np.cos(side_rad) * slope_x) / tilt
    signal += 0.35 * np.tanh(hollow / radius)
    return signal


def _stack_particles(rng, radii, shape, powder) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Height map (px, float32), which grain owns a pixel (0: none), and every grain's full area inside the image."""
    height = (0.3 * radii.mean() * fields.draw_fractal(rng, shape, exponent=3.5, finest_px=16)).astype(np.float32)
    height -= height.max()
    owner = np.zeros(shape, np.int32)
    areas = np.zeros(len(radii) + 1)
    p = powder["squareness"]
    flat = powder["flatness"]
    for index, radius in enumerate(radii, start=1):
        aspect = powder["aspect"] * np.exp(0.15 * rng.standard_normal())
        long = radius * np.sqrt(aspect)
        short = radius / np.sqrt(aspect)
        angle = powder["direction_rad"] + (1 - powder["alignment"]) * rng.uniform(-np.pi / 2, np.pi / 2)
        cos = float(np.cos(angle))
        sin = float(np.sin(angle))
        reach_y = abs(long * sin) + abs(short * cos)
        reach_x = abs(long * cos) + abs(short * sin)
        cy, cx = rng.uniform(-0.3 * radius, np.array(shape) + 0.3 * radius)
        y0, x0 = max(0, int(cy - reach_y)), max(0, int(cx - reach_x))
        y1, x1 = min(shape[0], int(cy + reach_y) + 2), min(shape[1], int(cx + reach_x) + 2)
        if y0 >= y1 or x0 >= x1:
            continue
        y = (np.arange(y0, y1, dtype=np.float32) - np.float32(cy))[:, None]
        x = (np.arange(x0, x1, dtype=np.float32) - np.float32(cx))[None, :]
        u, v = (x * cos + y * sin) / np.float32(long), (y * cos - x * sin) / np.float32(short)
        depth = 1 - _raise_to_power(u * u, p / 2) - _raise_to_power(v * v, p / 2)
        is_grain = depth > 0
        root = np.sqrt(np.maximum(depth, 0))
        bump = np.float32(short * (1 - flat * 0.8)) * (root if p < 3 else np.sqrt(root))
        lean = rng.normal(0, 0.12, 2).astype(np.float32)
        top = bump + lean[0] * y + lean[1] * x + np.float32(rng.uniform(0, 1.5) * radius)
        window = np.s_[y0:y1, x0:x1]
        wins = is_grain & (top > height[window])
        np.copyto(height[window], top, where=wins)
        np.copyto(owner[window], index, where=wins)
        areas[index] = is_grain.sum()
    return height, owner, areas


def _raise_to_power(squares: np.ndarray, exponent: float) -> np.ndarray:
    """`squares ** exponent`, by multiplication where the exponent is 1, 2 or 4: np.power is ten times slower."""
    if exponent not in (1, 2, 4):
        return squares ** np.float32(exponent)
    for _ in range(int(exponent).bit_length() - 1):
        squares = squares * squares
    return squares


def _list_visible_masks(owner: np.ndarray, areas: np.ndarray) -> list:
    """Masks of the grains of which at least half, and 20 pixels, is in sight."""
    visible_areas = np.bincount(owner.ravel(), minlength=len(areas))
    grain_indices = np.flatnonzero((visible_areas >= 0.5 * np.maximum(areas, 1)) & (visible_areas >= 20))
    slices = ndimage.find_objects(owner, max_label=len(areas))
    return [
        trim_mask(slices[k - 1][0].start, slices[k - 1][1].start, owner[slices[k - 1]] == k, owner.shape)
        for k in grain_indices
        if k > 0
    ]
