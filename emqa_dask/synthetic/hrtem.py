"""Nanoparticles on amorphous carbon in HRTEM: a projected phase that is imaged again and again, draw_hrtem_particles().

The imaging is linear (a weak phase object): no multiple scattering, no change of the fringes with thickness.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.spatial.transform import Rotation

from emqa_dask.synthetic import camera, fields, optics, shapes
from emqa_dask.synthetic.sample import Mask, Sample, compute_tight_boxes, draw_log_uniform, trim_mask, use_given

PAD_NM = 2.0  # drawn beyond every edge, so that the Fourier transform's wrap-around stays out of the image
METAL_RAD_PER_NM = 0.16  # phase of 300 kV electrons in gold: 6.5e-3 rad per V nm times a mean inner potential of 25 V
FRINGE_PER_NM = (4.25, 4.90)  # 111 and 200 of gold
ATOM_NM = 0.05  # width of an atom's potential
MTF_SIGMA_PX = 0.5  # of the camera
MIN_RADIUS_NM = 0.6
MAX_SIDE_FRACTION = 6  # the largest radius is this part of the shorter side
# What people record such particles with; from hopeless to clean.
PIXEL_RANGE_NM = (0.08, 0.2)
DOSE_RANGE_E_PER_NM2 = (50, 5000)
MAX_DEFOCUS_NM = 400  # on both sides of focus


class Scene(NamedTuple):
    """A specimen before it is imaged: its projected phase, and what is in it."""

    phase_rad: NDArray[np.float32]  # (h, w) and the margin around
    shape: tuple[int, int]  # of the part that is imaged
    nm_per_pixel: float
    masks: list[Mask]
    radii_nm: NDArray[np.float64]
    lens: dict[str, float]  # of optics.compute_transfer(), but for the defocus


def draw_scene(
    rng: np.random.Generator,
    shape: tuple[int, int],
    nm_per_pixel: float,
    *,
    n: int | None = None,
    median_radius_nm: float | None = None,
    film_rad: float | None = None,
) -> Scene:
    """A carbon film with `n` gold particles of log-normal radii; whatever is None is drawn.

    `film_rad` is the standard deviation of the film's phase, averaged over squares of 1 nm.
    """
    size_nm = np.array(shape) * nm_per_pixel
    median = use_given(median_radius_nm, draw_log_uniform(rng, 1.2, 2.2))
    n = use_given(n, int(np.clip(size_nm.prod() / (np.pi * median**2) * draw_log_uniform(rng, 0.05, 0.2), 2, 150)))
    film = use_given(film_rad, draw_log_uniform(rng, 0.006, 0.015))
    lens = {"voltage_kv": 300.0, "cs_mm": 1.2, "amplitude": 0.15, "focal_spread_nm": 4.0, "convergence_mrad": 0.2}
    pad_px = int(np.ceil(PAD_NM / nm_per_pixel))
    padded_shape = tuple(fft.next_fast_len(length + 2 * pad_px, real=True) for length in shape)
    phase = np.float32(film / nm_per_pixel) * fields.draw_white_noise(rng, padded_shape)
    radii_px = shapes.draw_log_normal_radii(rng, n, median, 0.2, MIN_RADIUS_NM, size_nm.min() / MAX_SIDE_FRACTION)
    radii_px = radii_px / nm_per_pixel
    centres = shapes.place_circles(rng, radii_px, shape, overlap=0.0, margin=0.0)
    masks = []
    radii = []
    for radius, (cy, cx) in zip(radii_px, centres):
        if np.isnan(cy):
            continue
        y0, x0, patch = _draw_particle(rng, cy, cx, radius, nm_per_pixel)
        mask = trim_mask(y0, x0, patch > 0, shape)
        if mask is None or mask[2].sum() < 4:
            continue
        _add_patch(phase, patch, y0 + pad_px, x0 + pad_px)
        masks.append(mask)
        radii.append(radius * nm_per_pixel)
    return Scene(phase, shape, nm_per_pixel, masks, np.array(radii), lens)


def _draw_particle(rng, cy, cx, radius_px, nm_per_pixel):
    """Corner and phase (h, w) of a truncated octahedron with the fringes of two sets of planes that pixels resolve."""
    facets = shapes.make_facets(Rotation.random(rng=rng), truncation=0.8, crystal_shape="octahedron")
    y0, x0, patch = shapes.project_polyhedron(cy, cx, radius_px, *facets)
    angle = rng.uniform(0, np.pi)
    y, x = np.mgrid[: patch.shape[0], : patch.shape[1]].astype(np.float32) * np.float32(nm_per_pixel)
    fringes = np.zeros_like(patch)
    for q_per_nm, turn in zip(FRINGE_PER_NM, (0.0, np.deg2rad(54.7))):
        if q_per_nm * nm_per_pixel < 0.5:  # up to the Nyquist frequency
            distance_nm = x * np.float32(np.cos(angle + turn)) + y * np.float32(np.sin(angle + turn))
            fringes += np.cos(np.float32(2 * np.pi * q_per_nm) * distance_nm)
    return y0, x0, np.float32(METAL_RAD_PER_NM * nm_per_pixel) * patch * (1 + np.float32(0.3) * fringes)


def _add_patch(phase: NDArray, patch: NDArray, y0: int, x0: int) -> None:
    top = max(0, -y0)
    left = max(0, -x0)
    inner = patch[top : max(top, phase.shape[0] - y0), left : max(left, phase.shape[1] - x0)]
    phase[y0 + top : y0 + top + inner.shape[0], x0 + left : x0 + left + inner.shape[1]] += inner


def compute_intensity(scene: Scene, defocus_nm: float) -> NDArray[np.float32]:
    """Relative intensity (h, w) of a scene at `defocus_nm`, which is negative for underfocus."""
    kernel = optics.compute_transfer(
        scene.phase_rad.shape, nm_per_pixel=scene.nm_per_pixel, defocus_nm=defocus_nm, **scene.lens
    )
    q2 = (
        fft.fftfreq(scene.phase_rad.shape[0], scene.nm_per_pixel)[:, None] ** 2
        + fft.rfftfreq(scene.phase_rad.shape[1], scene.nm_per_pixel)[None] ** 2
    )
    kernel = kernel * np.exp(-2 * (np.pi * ATOM_NM) ** 2 * q2).astype(np.float32)
    kernel[0, 0] = 0  # the mean intensity is 1 whatever the thickness
    contrast = -2 * optics.compute_contrast(scene.phase_rad, kernel)
    pad_px = int(np.ceil(PAD_NM / scene.nm_per_pixel))
    h, w = scene.shape
    return 1 + np.float32(0.9) * np.tanh(contrast[pad_px : pad_px + h, pad_px : pad_px + w] / np.float32(0.9))


def record_intensity(
    rng: np.random.Generator, intensity: NDArray, from_nm: float, to_nm: float, dose_e_per_nm2: float
) -> NDArray[np.float32]:
    """Electrons per pixel of `to_nm` that a camera reports of an intensity drawn at `from_nm`: averaged, then exposed.

    The field of view stays, so there are fewer pixels. Raises ValueError for pixels that are finer than the drawing's.
    """
    if to_nm < from_nm * (1 - 1e-9):
        raise ValueError(f"nm_per_pixel {to_nm:g} is finer than that of the drawing, {from_nm:g}")
    size = tuple(max(1, round(length * from_nm / to_nm)) for length in intensity.shape[::-1])
    binned = intensity if size == intensity.shape[::-1] else cv2.resize(intensity, size, interpolation=cv2.INTER_AREA)
    return camera.expose(rng, binned, dose_e_per_px=dose_e_per_nm2 * to_nm**2, mtf_sigma_px=MTF_SIGMA_PX)


def draw_hrtem_particles(
    rng: np.random.Generator,
    shape: tuple[int, int] = (512, 512),
    *,
    nm_per_pixel: float | None = None,
    dose_e_per_nm2: float | None = None,
    defocus_nm: float | None = None,
    dose_factor: float = 1.0,
    dtype: str | None = None,
    **scene_choices,
) -> Sample:
    """An HRTEM image of gold particles on carbon; whatever is None is drawn.

    `dose_e_per_nm2` is drawn from hopeless to clean, `defocus_nm` (negative for underfocus) on both sides of focus.
    `dose_factor` multiplies the dose: the same draw gives the same specimen and conditions at another dose.
    `scene_choices` go to draw_scene().
    """
    nm_per_pixel = use_given(nm_per_pixel, draw_log_uniform(rng, *PIXEL_RANGE_NM))
    dose = use_given(dose_e_per_nm2, draw_log_uniform(rng, *DOSE_RANGE_E_PER_NM2)) * dose_factor
    defocus = use_given(defocus_nm, rng.uniform(-MAX_DEFOCUS_NM, MAX_DEFOCUS_NM))
    dtype = use_given(dtype, str(rng.choice(["uint16", "float32"])))
    scene = draw_scene(rng, shape, nm_per_pixel, **scene_choices)
    intensity = compute_intensity(scene, defocus)
    noise_rng = np.random.default_rng(rng.integers(2**63))  # how many numbers noise takes depends on the dose
    electrons = record_intensity(noise_rng, intensity, nm_per_pixel, nm_per_pixel, dose)
    meta = {
        "family": "hrtem-particles",
        "dose_e_per_nm2": float(dose),
        "dose_e_per_px": float(dose * nm_per_pixel**2),
        "defocus_nm": float(defocus),
        "radii_nm": scene.radii_nm,
        **scene.lens,
    }
    labels = ["particle"] * len(scene.masks)
    image = camera.digitise(rng, electrons, dtype)
    return Sample(image, compute_tight_boxes(scene.masks), scene.masks, labels, float(nm_per_pixel), meta)
