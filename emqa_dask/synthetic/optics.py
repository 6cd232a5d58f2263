"""Electron optics in linear form: contrast transfer with coherence envelopes, image of a thickness map."""

import numpy as np
from scipy import fft

from emqa_dask.optics import compute_wavelength


def compute_transfer(
    shape: tuple[int, int],
    *,
    nm_per_pixel: float,
    defocus_nm: float,
    voltage_kv: float = 200.0,
    amplitude: float = 0.2,
    cs_mm: float = 1.2,
    focal_spread_nm: float = 5.0,
    convergence_mrad: float = 0.2,
    astigmatism_nm: float = 0.0,
    astigmatism_deg: float = 0.0,
) -> np.ndarray:
    """How a map of *missing* thickness becomes contrast: float32 over the `rfft2` frequencies of `shape`.

    `defocus_nm` is negative for underfocus (weakened lens). With `chi = pi lambda df q^2 + pi/2 Cs lambda^3 q^4`, a
    hole gives `amplitude cos(chi) - sqrt(1 - amplitude^2) sin(chi)`: bright with a dark rim in underfocus, the reverse
    in overfocus. The defocus is `defocus_nm + astigmatism_nm cos 2(angle - astigmatism_deg)` at a frequency's angle,
    counted from the columns' axis towards the rows'. Envelopes: temporal `exp(-(pi lambda spread q^2 / 2)^2)` and
    spatial `exp(-(pi alpha df q)^2)`, of the mean defocus.
    Williams & Carter, Transmission Electron Microscopy, ch. 28; Ruehle & Wilkens, Cryst. Lattice Defects 6 (1975) 129.
    """
    lam = float(compute_wavelength(voltage_kv))
    qy = fft.fftfreq(shape[0], nm_per_pixel).astype(np.float32)
    qx = fft.rfftfreq(shape[1], nm_per_pixel).astype(np.float32)
    q2 = qy[:, None] ** 2 + qx[None, :] ** 2
    if astigmatism_nm:
        angle = np.arctan2(qy[:, None], qx[None, :]) - np.float32(np.deg2rad(astigmatism_deg))
        defocus = defocus_nm + np.float32(astigmatism_nm) * np.cos(2 * angle)
    else:
        defocus = np.float32(defocus_nm)
    chi = np.float32(np.pi * lam) * defocus * q2 + np.float32(np.pi / 2 * cs_mm * 1e6 * lam**3) * q2 * q2
    damping = (0.5 * np.pi * lam * focal_spread_nm) ** 2 * q2 * q2 + (
        np.pi * convergence_mrad * 1e-3 * defocus_nm
    ) ** 2 * q2
    phase = np.sqrt(1 - amplitude**2)
    return (amplitude * np.cos(chi) - phase * np.sin(chi)) * np.exp(-damping)


def compute_contrast(thickness: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Contrast (log of relative intensity) of a thickness map by the `kernel` of `compute_transfer`, float32."""
    return fft.irfft2(fft.rfft2(thickness) * kernel, s=thickness.shape)
