"""Cavities (voids, bubbles) in a TEM foil: Fresnel fringes from the contrast transfer, diffraction contrast, noise."""

from typing import NamedTuple

import numpy as np
from scipy import fft
from scipy.spatial.transform import Rotation

from emqa_dask.synthetic import camera, fields, optics, shapes
from emqa_dask.synthetic.sample import Mask, Sample, compute_tight_boxes, draw_log_uniform, trim_mask, use_given

PAD_PX = 32  # rendered beyond every edge, so that the Fourier transform's wrap-around stays out of the image


def draw_cavities(
    rng: np.random.Generator,
    shape: tuple[int, int] = (512, 512),
    *,
    defocus: str | None = None,
    facet: bool | None = None,
    n: int | None = None,
    median_radius_px: float | None = None,
    sigma_log: float | None = None,
    fringe_px: float | None = None,
    amplitude: float | None = None,
    contrast: float | None = None,
    background: float | None = None,
    nm_per_pixel: float | None = None,
    dtype: str | None = None,
    exposure: dict | None = None,
) -> Sample:
    """A bright-field TEM image of `n` cavities; whatever is None is drawn from ranges that span trivial to hopeless.

    `defocus` is `over` (bright rim) or `under` (dark rim); `facet` True, False or None for a mixture; radii are
    log-normal (`median_radius_px`, `sigma_log`). `fringe_px` = `sqrt(lambda |df|)` is the first Fresnel fringe's width,
    which sets the defocus; `amplitude` is the share of thickness contrast, whose sign no defocus turns. `contrast` is
    the 99.5th percentile of the cavities' relative contrast; `background` scales the diffraction contrast (0: none).
    `exposure` goes to `camera.expose`. The foil is a weak phase object, relative intensity
    `1 + CTF * missing thickness`: fringes, overlaps and the speckle of the amorphous surface come from
    one transfer function (see `optics.compute_transfer`). Raises ValueError for an unknown `defocus`.
    """
    defocus = use_given(defocus, str(rng.choice(["over", "under"])))
    if defocus not in ("over", "under"):
        raise ValueError(f"defocus {defocus!r} is neither 'over' nor 'under'")
    size = min(shape)
    median = use_given(median_radius_px, min(draw_log_uniform(rng, 3.5, 45), size / 12))
    spread = use_given(sigma_log, rng.uniform(0.1, 0.55))
    max_objects = 0.8 * shape[0] * shape[1] / (np.pi * median**2 * np.exp(2 * spread**2))
    n = use_given(n, int(np.clip(max_objects * draw_log_uniform(rng, 0.02, 0.45), 1, 350)))
    imaging = _draw_imaging(
        rng, median, defocus, nm_per_pixel, fringe_px, amplitude, contrast=contrast, background=background
    )
    padded_shape = tuple(fft.next_fast_len(length + 2 * PAD_PX, real=True) for length in shape)
    radii = shapes.draw_log_normal_radii(rng, n, median, spread, 1.5, size / 3)
    missing_thickness, masks, sizes = _draw_cavity_map(rng, radii, shape, padded_shape, facet)
    intensity, speckle = _render_micrograph(rng, shape, missing_thickness, bool(masks), imaging)
    settings = use_given(exposure, camera.draw_settings(rng))
    dtype = use_given(dtype, str(rng.choice(["uint8", "uint16", "float32"], p=[0.5, 0.4, 0.1])))
    image = camera.record(rng, intensity, dtype, settings)
    meta = {
        "family": "cavity-tem",
        "defocus": defocus,
        "defocus_nm": float(imaging.defocus_nm),
        "fringe_px": float(imaging.fringe_px),
        "voltage_kv": imaging.voltage_kv,
        "amplitude": float(imaging.amplitude),
        "contrast": float(imaging.contrast),
        "background": float(imaging.background),
        "speckle": float(speckle),
        "radii_px": sizes,
        **settings,
    }
    labels = ["cavity"] * len(masks)
    return Sample(image, compute_tight_boxes(masks), masks, labels, float(imaging.nm_per_pixel), meta)


class Imaging(NamedTuple):
    """Conditions of one image, see draw_cavities()."""

    nm_per_pixel: float
    voltage_kv: float
    defocus_nm: float  # negative for underfocus
    fringe_px: float
    amplitude: float
    contrast: float
    background: float


def _draw_imaging(rng, median_px, defocus, nm_per_pixel, fringe_px, amplitude, *, contrast, background) -> Imaging:
    """Imaging conditions for cavities of median radius `median_px`; what is None is drawn."""
    nm_per_pixel = use_given(nm_per_pixel, draw_log_uniform(rng, 0.1, 1.5))
    voltage_kv = float(rng.choice([80, 120, 200, 300], p=[0.05, 0.15, 0.6, 0.2]))
    fringe_px = use_given(fringe_px, min(draw_log_uniform(rng, 1.2, 8.0), 0.7 * median_px + 1))
    amplitude = use_given(amplitude, draw_log_uniform(rng, 0.012, 0.3))
    contrast = use_given(contrast, draw_log_uniform(rng, 0.12, 1.3))
    background = use_given(background, float(rng.choice([0.15, 0.5, 1.0, 1.8], p=[0.25, 0.3, 0.35, 0.1])))
    magnitude = (fringe_px * nm_per_pixel) ** 2 / optics.compute_wavelength(voltage_kv)
    defocus_nm = magnitude if defocus == "over" else -magnitude
    return Imaging(nm_per_pixel, voltage_kv, defocus_nm, fringe_px, amplitude, contrast, background)


def _render_micrograph(rng, shape, missing_thickness, has_objects, imaging: Imaging) -> tuple[np.ndarray, float]:
    """Relative intensity (h, w) of a foil with the padded map of `missing` thickness, and the speckle's strength."""
    # Wide fringes need coherent illumination: a beam divergence that damps the second fringe, not the first.
    divergence_mrad = rng.uniform(0.05, 0.35) * imaging.fringe_px * imaging.nm_per_pixel
    divergence_mrad = divergence_mrad / abs(imaging.defocus_nm) * 1e3 / np.pi
    kernel = optics.compute_transfer(
        missing_thickness.shape,
        nm_per_pixel=imaging.nm_per_pixel,
        defocus_nm=imaging.defocus_nm,
        voltage_kv=imaging.voltage_kv,
        amplitude=imaging.amplitude,
        convergence_mrad=divergence_mrad,
    )
    inner = np.s_[PAD_PX : PAD_PX + shape[0], PAD_PX : PAD_PX + shape[1]]
    signal = optics.compute_contrast(missing_thickness, kernel)[inner]
    top = np.percentile(np.abs(signal[missing_thickness[inner] > 0]), 99.5) if has_objects else 1.0
    signal = signal * np.float32(imaging.contrast / max(top, 1e-9))
    speckle = imaging.background * draw_log_uniform(rng, 0.005, 0.13)
    if imaging.background > 0:
        noise = fields.draw_white_noise(rng, missing_thickness.shape)
        signal += speckle * fields.standardise(optics.compute_contrast(noise, kernel)[inner])
    # Neither a black nor a white fringe is without end: contrast saturates, alike on both sides.
    return (1 + 0.9 * np.tanh(signal / 0.9)) * np.exp(imaging.background * _draw_foil(rng, shape)), speckle


def _draw_cavity_map(rng, radii, shape, padded_shape, facet) -> tuple[np.ndarray, list[Mask], np.ndarray]:
    """The padded map of missing thickness (px), the masks that show in the image, and the radii of those."""
    missing_thickness = np.zeros(padded_shape, np.float32)
    centres = shapes.place_circles(rng, radii, shape, overlap=float(rng.choice([0.0, 0.25, 0.7], p=[0.4, 0.4, 0.2])))
    # Facets follow the crystal: all cavities of one grain share an orientation, two grains at most in a frame.
    crystal_shape = str(rng.choice(["octahedron", "cube", "dodecahedron"]))
    truncation = rng.uniform(0.62, 0.9)
    crystals = [
        shapes.make_facets(orientation, truncation=truncation, crystal_shape=crystal_shape)
        for orientation in Rotation.random(2, rng=rng)
    ]
    faceted_fraction = rng.uniform(0, 1)
    masks = []
    sizes = []
    for radius, (cy, cx) in zip(radii, centres):
        if np.isnan(cy):
            continue
        faceted = rng.random() < faceted_fraction if facet is None else facet
        if faceted and radius >= 4:
            y0, x0, patch = shapes.project_polyhedron(cy, cx, radius, *crystals[int(rng.random() < 0.2)])
        else:
            y0, x0, patch = shapes.project_spheroid(
                cy, cx, radius, aspect=1 + 0.12 * abs(rng.normal()), angle=rng.uniform(0, np.pi)
            )
        mask = trim_mask(y0, x0, patch > 0, shape)
        visible = rng.uniform(0.45, 1.0)  # cavities cut by the foil's surfaces are shallower than wide
        top, left = max(0, -y0 - PAD_PX), max(0, -x0 - PAD_PX)
        patch = patch[top : padded_shape[0] - PAD_PX - y0, left : padded_shape[1] - PAD_PX - x0]
        y, x = y0 + PAD_PX + top, x0 + PAD_PX + left
        missing_thickness[y : y + patch.shape[0], x : x + patch.shape[1]] += visible * patch
        if mask is not None and mask[2].sum() >= 4:
            masks.append(mask)
            sizes.append(float(radius))
    return missing_thickness, masks, np.array(sizes)


def _draw_foil(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Log-intensity of the foil: wedge, mottle, bend contours, grains, dislocations and black spots."""
    foil = rng.uniform(0, 0.15) * fields.draw_gradient(rng, shape)
    # Two scales of strain: damage and dots of some pixels, and slow mottle.
    fine_amplitude = draw_log_uniform(rng, 0.02, 0.14)
    coarse_amplitude = draw_log_uniform(rng, 0.02, 0.1)
    foil += fine_amplitude * fields.draw_fractal(
        rng, shape, exponent=rng.uniform(0.6, 1.8), finest_px=draw_log_uniform(rng, 5, 24)
    )
    foil += coarse_amplitude * fields.draw_fractal(
        rng, shape, exponent=rng.uniform(2, 3.4), finest_px=draw_log_uniform(rng, 6, 24)
    )
    if rng.random() < 0.45:
        foil += draw_log_uniform(rng, 0.08, 0.4) * fields.draw_bend_contours(rng, shape, int(rng.integers(1, 4)))
    if rng.random() < 0.2:
        foil += draw_log_uniform(rng, 0.03, 0.15) * fields.draw_grains(rng, shape, int(rng.integers(2, 12)))
    if rng.random() < 0.5:
        foil += draw_log_uniform(rng, 0.1, 0.7) * fields.draw_dislocations(rng, shape, int(rng.integers(1, 14)))
    return foil
