"""Supported nanoparticles: bright in HAADF-STEM, dark in bright-field TEM, on oxide agglomerates or a carbon film."""

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from emqa_dask.synthetic import camera, fields, shapes
from emqa_dask.synthetic.sample import Mask, Sample, compute_tight_boxes, draw_log_uniform, trim_mask, use_given

BARE = 0.12  # relative thickness of the support up to which no particle is held


def draw_particles(
    rng: np.random.Generator,
    shape: tuple[int, int] = (512, 512),
    *,
    mode: str | None = None,
    support: str | None = None,
    n: int | None = None,
    median_radius_px: float | None = None,
    sigma_log: float | None = None,
    contrast: float | None = None,
    blur_px: float | None = None,
    nm_per_pixel: float | None = None,
    dtype: str | None = None,
    exposure: dict | None = None,
) -> Sample:
    """An image of `n` nanoparticles on a support; whatever is None is drawn from ranges that span trivial to hopeless.

    `mode` is `haadf` (bright particles: intensity grows with thickness times atomic-number contrast) or `bf` (dark:
    intensity falls exponentially with it, and each crystal diffracts by its own orientation). `support` is `oxide`
    (agglomerated grains with holes between) or `carbon` (a continuous film). Radii are log-normal. `contrast` is the
    median particle's own signal relative to the support's, `blur_px` the probe or focus blur (standard deviation).
    `exposure` goes to `camera.expose`. Raises ValueError for an unknown `mode` or `support`.
    """
    mode = use_given(mode, str(rng.choice(["haadf", "bf"], p=[0.65, 0.35])))
    support = use_given(support, str(rng.choice(["oxide", "carbon"])))
    if mode not in ("haadf", "bf") or support not in ("oxide", "carbon"):
        raise ValueError(f"mode {mode!r} must be haadf or bf, support {support!r} must be oxide or carbon")
    median = use_given(median_radius_px, min(draw_log_uniform(rng, 2.5, 28), min(shape) / 14))
    spread = use_given(sigma_log, rng.uniform(0.12, 0.5))
    max_objects = shape[0] * shape[1] / (np.pi * median**2 * np.exp(2 * spread**2))
    n = use_given(n, int(np.clip(max_objects * draw_log_uniform(rng, 0.006, 0.25), 3, 400)))
    contrast = use_given(contrast, draw_log_uniform(rng, 0.15, 2.5) * (2.0 if support == "oxide" else 1.0))
    blur = use_given(blur_px, draw_log_uniform(rng, 0.4, 3.0))
    nm_per_pixel = use_given(nm_per_pixel, draw_log_uniform(rng, 0.03, 0.6))

    carrier = _draw_oxide(rng, shape) if support == "oxide" else _draw_carbon(rng, shape)
    # Some places have nothing to sit on: try more of them, keep the first n that hold.
    tries = min(int(n / max(float((carrier > BARE).mean()), 0.1)) + 1, 4 * n)
    radii = shapes.draw_log_normal_radii(rng, tries, median, spread, 1.3, min(shape) / 4)
    metal, masks, sizes = _draw_particle_map(rng, n, radii, shape, carrier, diffracts=mode == "bf")
    signal = cv2.GaussianBlur(carrier + np.float32(contrast / (2 * median)) * metal, (0, 0), blur)
    intensity = _expose_haadf(rng, signal) if mode == "haadf" else _expose_bright_field(rng, signal)
    settings = use_given(exposure, camera.draw_settings(rng, low_dose=10, high_dose=1500))
    dtype = use_given(dtype, str(rng.choice(["uint8", "uint16", "float32"], p=[0.5, 0.4, 0.1])))
    image = camera.record(rng, intensity, dtype, settings)
    meta = {
        "family": "nanoparticle-tem",
        "mode": mode,
        "support": support,
        "contrast": float(contrast),
        "blur_px": float(blur),
        "voltage_kv": float(rng.choice([80, 200, 300])),
        "radii_px": sizes,
        **settings,
    }
    return Sample(image, compute_tight_boxes(masks), masks, ["particle"] * len(masks), float(nm_per_pixel), meta)


def _expose_haadf(rng: np.random.Generator, signal: np.ndarray) -> np.ndarray:
    """Relative intensity that grows with mass thickness `signal`, on a dark level."""
    return signal / max(float(signal.mean()), 1e-6) + np.float32(rng.uniform(0.02, 0.2))


def _expose_bright_field(rng: np.random.Generator, signal: np.ndarray) -> np.ndarray:
    """Relative intensity that falls exponentially with mass thickness `signal`, with the speckle of a thin film."""
    top = max(float(np.percentile(signal[::4, ::4], 99)), 1e-6)
    intensity = np.exp(-np.float32(draw_log_uniform(rng, 0.8, 2.2) / top) * signal)
    strength = np.float32(draw_log_uniform(rng, 0.01, 0.06))
    grain_px = draw_log_uniform(rng, 0.8, 2.5)
    intensity *= 1 + strength * fields.draw_white_noise(rng, signal.shape, grain_px)
    intensity /= max(float(intensity.mean()), 1e-6)
    return intensity


def _draw_particle_map(rng, n, radii, shape, carrier, *, diffracts) -> tuple[np.ndarray, list[Mask], np.ndarray]:
    """The map of metal thickness (px), the masks of at most `n` particles that show, and their radii."""
    metal = np.zeros(shape, np.float32)
    centres = shapes.place_circles(
        rng, radii, shape, overlap=float(rng.choice([0.0, 0.3, 0.8], p=[0.4, 0.4, 0.2])), margin=0.2
    )
    faceted_fraction = float(rng.choice([0.0, 0.5, 1.0]))
    truncation = rng.uniform(0.65, 0.95)
    crystal_shape = str(rng.choice(["octahedron", "cube"]))
    crystals = [
        shapes.make_facets(orientation, truncation=truncation, crystal_shape=crystal_shape)
        for orientation in Rotation.random(12, rng=rng)
    ]
    masks = []
    sizes = []
    for radius, (cy, cx) in zip(radii, centres):
        if np.isnan(cy) or len(masks) == n:
            continue
        row, column = np.clip([int(cy), int(cx)], 0, np.array(shape) - 1)
        if carrier[row, column] <= BARE:
            continue
        if rng.random() < faceted_fraction and radius >= 4:
            y0, x0, patch = shapes.project_polyhedron(cy, cx, radius, *crystals[int(rng.integers(len(crystals)))])
        else:
            y0, x0, patch = shapes.project_spheroid(
                cy, cx, radius, aspect=1 + 0.25 * abs(rng.normal()), angle=rng.uniform(0, np.pi)
            )
        mask = trim_mask(y0, x0, patch > 0, shape)
        if mask is None or mask[2].sum() < 4:
            continue
        strength = rng.uniform(0.45, 1.6) if diffracts else rng.uniform(0.8, 1.15)
        top, left = max(0, -y0), max(0, -x0)
        patch = patch[top : shape[0] - y0, left : shape[1] - x0]
        metal[y0 + top : y0 + top + patch.shape[0], x0 + left : x0 + left + patch.shape[1]] += strength * patch
        masks.append(mask)
        sizes.append(float(radius))
    return metal, masks, np.array(sizes)


def _draw_oxide(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Relative thickness of agglomerated oxide grains, float32, about 1 where there is one layer, 0 in the holes."""
    size = min(shape)
    radius = draw_log_uniform(rng, size / 40, size / 8)
    coverage = rng.uniform(1.0, 4.0)
    count = int(np.clip(coverage * shape[0] * shape[1] / (np.pi * radius**2), 3, 900))
    # Grains stick together: centres follow a smooth random density, its lowest part left bare.
    grid_step_px = 8
    grid_shape = tuple(-(-length // grid_step_px) for length in shape)
    density = np.clip(fields.draw_fractal(rng, grid_shape, exponent=3.2, finest_px=2) + rng.uniform(0.2, 1.6), 0, None)
    cells = (
        rng.choice(density.size, size=count, p=density.ravel() / density.sum())
        if density.any()
        else np.zeros(count, int)
    )
    thickness = np.zeros(shape, np.float32)
    for cell in cells:
        cy, cx = np.divmod(cell, grid_shape[1]) * np.array(grid_step_px) + rng.uniform(0, grid_step_px, 2)
        r = radius * np.exp(0.3 * rng.standard_normal())
        y0, x0, patch = shapes.project_spheroid(
            cy, cx, r, aspect=1 + 0.6 * abs(rng.normal()), angle=rng.uniform(0, np.pi)
        )
        top, left = max(0, -y0), max(0, -x0)
        patch = patch[top : max(top, shape[0] - y0), left : max(left, shape[1] - x0)]
        thickness[y0 + top : y0 + top + patch.shape[0], x0 + left : x0 + left + patch.shape[1]] += patch / (2 * radius)
    thickness = thickness**0.7  # of a pile, the lower layers are out of focus and hidden
    thickness *= 1 + draw_log_uniform(rng, 0.02, 0.12) * fields.draw_fractal(rng, shape, exponent=2.2, finest_px=3)
    return cv2.GaussianBlur(thickness, (0, 0), draw_log_uniform(rng, 0.7, 3.0))


def _draw_carbon(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Relative thickness of a carbon film, float32, about 1: fine granularity and slow waves."""
    film = 1 + rng.uniform(0, 0.3) * fields.draw_gradient(rng, shape)
    film += draw_log_uniform(rng, 0.01, 0.08) * fields.draw_fractal(
        rng, shape, exponent=rng.uniform(1.0, 2.4), finest_px=draw_log_uniform(rng, 3, 8)
    )
    film += draw_log_uniform(rng, 0.01, 0.2) * fields.draw_fractal(rng, shape, exponent=3.5, finest_px=16)
    return np.clip(film, 0.15, None).astype(np.float32)
