"""Sides of pixels in nm: whether a pixel is square, and the square with its area."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

SQUARE_TOLERANCE = 0.01  # relative; rounding in metadata changes a stated side by less


def compute_pixel_side_nm(x_nm: ArrayLike, y_nm: ArrayLike) -> NDArray[np.float64]:
    """Side of the square with the area of a pixel of `x_nm` by `y_nm`; `x_nm` where `y_nm` is unknown (NaN).

    A length in px times this side is the diameter of the circle with the area of an object of this diameter in px.
    """
    x = np.asarray(x_nm, np.float64)
    y = np.asarray(y_nm, np.float64)
    return np.sqrt(x * np.where(y > 0, y, x))  # exactly x for square pixels


def is_square_pixel(x_nm: float, y_nm: float) -> bool:
    """Whether a pixel's sides agree within SQUARE_TOLERANCE; True where one of them is unknown (NaN)."""
    return not abs(y_nm / x_nm - 1) > SQUARE_TOLERANCE if x_nm > 0 else True
