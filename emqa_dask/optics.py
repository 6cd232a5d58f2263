"""Electron optics of thin objects: wavelength, phase of the aberrations, and the contrast that they let through."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

# CODATA 2014, as ASE and therefore abTEM have them: phases of hundreds of radians then agree to 1e-6. Today's values
# change the wavelength by 5e-9 of itself.
# SI
PLANCK = 6.626070040e-34
LIGHT = 299792458.0
CHARGE = 1.6021766208e-19
MASS = 9.10938356e-31


def compute_wavelength(voltage_kv: ArrayLike) -> NDArray | float:
    """Relativistic electron wavelength, nm (300 kV: 0.00196875); arrays element by element.

    `h / sqrt(2 m e U (1 + e U / (2 m c^2)))`; Williams & Carter, Transmission Electron Microscopy, eq. 1.6. NaN stays
    NaN. Raises ValueError for a voltage that is not above 0.
    """
    volts = np.asarray(voltage_kv, float) * 1e3
    if np.any(volts <= 0) or np.any(np.isinf(volts)):
        raise ValueError(
            f"voltage_kv {np.nanmin(volts) / 1e3:g} is not a finite number above 0: give kilovolts, e.g. 300"
        )
    energy = CHARGE * volts
    rest = MASS * LIGHT**2
    return 1e9 * PLANCK * LIGHT / np.sqrt(energy * (2 * rest + energy))


def aberration_phase(
    q_per_nm: ArrayLike, defocus_nm: ArrayLike, cs_mm: ArrayLike, voltage_kv: ArrayLike
) -> NDArray | float:
    """`chi(q) = pi lambda df q^2 + (pi/2) Cs lambda^3 q^4`, radians, float64; the arguments broadcast.

    `defocus_nm` is positive for overfocus and negative for underfocus: it is abTEM's C10, or *minus* its `defocus`.
    `cs_mm` is the spherical aberration C30. Frequencies `q_per_nm` are cycles/nm. NaN stays NaN.
    """
    wavelength = compute_wavelength(voltage_kv)
    squares = np.square(np.asarray(q_per_nm, float))
    defocus = np.asarray(defocus_nm, float)
    cs_nm = np.asarray(cs_mm, float) * 1e6
    return np.pi * wavelength * squares * (defocus + 0.5 * cs_nm * wavelength**2 * squares)


def contrast_transfer(
    q_per_nm: ArrayLike,
    defocus_nm: ArrayLike,
    cs_mm: ArrayLike,
    voltage_kv: ArrayLike,
    focal_spread_nm: ArrayLike = 0,
) -> NDArray | float:
    """Contrast transfer function of a weak phase object, `T(q) = E(q) sin(chi(q))`, in [-1, 1].

    `E = exp(-(pi lambda delta q^2 / 2)^2)` is the envelope of temporal coherence; chi is that of `aberration_phase`. T
    is minus the imaginary part of abTEM's `CTF` (`exp(-i chi)` and the envelope) at `C10 = defocus_nm`.

    Parameters
    ----------
    q_per_nm : array or float
        Spatial frequencies, cycles/nm. All arguments broadcast against each other.
    defocus_nm : array or float
        Positive for overfocus, negative for underfocus.
    cs_mm : array or float
        Spherical aberration C30, mm.
    voltage_kv : array or float
        Acceleration voltage, kV.
    focal_spread_nm : array or float
        1/e half width delta of the focal spread, nm.

    Returns
    -------
    array or float
        T, float64; NaN where an argument is NaN.

    Raises
    ------
    ValueError
        For a voltage that is not above 0 and a negative focal spread.

    References
    ----------
    Williams & Carter, Transmission Electron Microscopy, ch. 28.
    """
    envelope = temporal_envelope(q_per_nm, voltage_kv, focal_spread_nm)
    return envelope * np.sin(aberration_phase(q_per_nm, defocus_nm, cs_mm, voltage_kv))


def temporal_envelope(q_per_nm: ArrayLike, voltage_kv: ArrayLike, focal_spread_nm: ArrayLike) -> NDArray | float:
    """`E = exp(-(pi lambda delta q^2 / 2)^2)`, in [0, 1]; arguments and errors as in `contrast_transfer`."""
    spread = np.asarray(focal_spread_nm, float)
    if np.any(spread < 0):
        raise ValueError(f"focal_spread_nm {np.nanmin(spread):g} is negative: give the 1/e half width, 0 for none")
    squares = np.square(np.asarray(q_per_nm, float))
    return np.exp(-np.square(0.5 * np.pi * compute_wavelength(voltage_kv) * spread * squares))
