"""An amorphous film in a TEM: speckle whose spectrum carries the rings of the contrast transfer (Thon rings)."""

import numpy as np
from scipy import fft

from emqa_dask.synthetic import camera, fields, optics

ATOM_NM = 0.05  # width of an atom's potential: what the film itself holds at high frequencies falls off with it


def draw_amorphous_film(
    rng: np.random.Generator,
    shape: tuple[int, int] = (512, 512),
    *,
    nm_per_pixel: float,
    defocus_nm: float,
    contrast: float = 0.1,
    dose_e_per_px: float = 100.0,
    mtf_sigma_px: float = 0.4,
    **imaging: float,
) -> np.ndarray:
    """Electrons per pixel, float32, of a film of randomly placed atoms: a weak phase object of white noise.

    `contrast` is the standard deviation of the relative intensity. `defocus_nm` and `imaging` (`voltage_kv`, `cs_mm`,
    `amplitude`, `focal_spread_nm`, `convergence_mrad`, `astigmatism_nm`, `astigmatism_deg`) go to
    `optics.compute_transfer`.
    """
    padded_shape = tuple(fft.next_fast_len(length + 64, real=True) for length in shape)
    kernel = optics.compute_transfer(padded_shape, nm_per_pixel=nm_per_pixel, defocus_nm=defocus_nm, **imaging)
    q2 = (
        fft.fftfreq(padded_shape[0], nm_per_pixel)[:, None] ** 2
        + fft.rfftfreq(padded_shape[1], nm_per_pixel)[None] ** 2
    )
    kernel = kernel * np.exp(-2 * (np.pi * ATOM_NM) ** 2 * q2).astype(np.float32)
    speckle = optics.compute_contrast(fields.draw_white_noise(rng, padded_shape), kernel)[
        32 : 32 + shape[0], 32 : 32 + shape[1]
    ]
    intensity = 1 + np.float32(contrast) * fields.standardise(speckle)
    return camera.expose(rng, intensity, dose_e_per_px=dose_e_per_px, mtf_sigma_px=mtf_sigma_px)
