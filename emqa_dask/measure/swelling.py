"""Swelling of a foil by the cavities in it."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

NM2_PER_UM2 = 1e6


def compute_swelling(
    volume_nm3: ArrayLike, area_nm2: ArrayLike, thickness_nm: ArrayLike, thickness_std_nm: ArrayLike = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Swelling of a foil in %, and its standard uncertainty from that of the thickness.

    100 V / (A t - V): the volume of the cavities over that of the material around them.

    Parameters
    ----------
    volume_nm3 : array
        Volume V of all cavities, nm^3.
    area_nm2 : array
        Area A of the image, nm^2.
    thickness_nm : array
        Thickness t of the foil, nm; NaN or 0 where it is unknown.
    thickness_std_nm : array
        Its standard uncertainty, nm.

    Returns
    -------
    swelling, uncertainty : arrays of float
        In % and percentage points. NaN where t is unknown or the cavities have at least the volume of the foil.

    References
    ----------
    Li et al., Digital Discovery 4 (2025) 987; the definition of the released code.
    """
    volume = np.asarray(volume_nm3, np.float64)
    area = np.asarray(area_nm2, np.float64)
    thickness = np.asarray(thickness_nm, np.float64)
    solid = area * thickness - volume
    solid = np.where((thickness > 0) & (solid > 0), solid, np.nan)
    swelling = 100 * volume / solid
    uncertainty = swelling * area / solid * np.asarray(thickness_std_nm, np.float64)  # |d swelling / d t| u(t)
    return swelling, uncertainty
