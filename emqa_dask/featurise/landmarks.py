"""Landmarks of an image for the search for shifted and rescaled copies: blobs with a description of their surroundings.

A landmark is an extremum over position and scale of differences of Gaussians (Lowe, Int. J. Comput. Vis. 60 (2004) 91).
The signs of odd cosine coefficients of its surroundings describe it: gain, offset and gamma hardly change them, nor do
round objects like each other all have the same. All surroundings grow with the landmark, so that scale does not matter.
"""

import itertools
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from emqa_dask.landmark_codes import LANDMARKS_BYTES, N_LANDMARKS, encode_landmarks

VIEW_PX = 192  # side of the square of the same area as the view that landmarks are searched in
SIGMAS_PX = 1.6 * 2 ** (np.arange(7) / 3)  # of the Gaussians in the view: three for each octave
GRID = 8  # points a side of the surroundings
SPACING = 1.6  # of the grid's points, in sigmas of the landmark
MAX_CURVATURE_RATIO = 10.0  # of the two principal curvatures of a blob, as Lowe has it
AXES = ((1, 0), (0, 1))
MIN_SPREAD = 1e-6  # standard deviation, in grey ranges, below which a view is constant


def _make_basis() -> NDArray[np.float32]:
    """Cosines (64, 48) of the grid's points, of odd order along y or x: of a round object these are 0."""
    k = np.arange(GRID)
    cosines = np.cos(np.pi * np.outer(k, k + 0.5) / GRID)
    basis = np.einsum("uy,vx->uvyx", cosines, cosines).reshape(GRID**2, GRID**2)
    is_odd = (k[:, None] % 2 + k[None, :] % 2 > 0).ravel()
    return np.ascontiguousarray(basis[is_odd].T, np.float32)


BASIS = _make_basis()


def compute_landmarks(view: NDArray, n_rows: int | None = None) -> bytes:
    """LANDMARKS_BYTES for `view` (h, w) float32, an image of which the first `n_rows` rows show the specimen.

    The strongest landmarks come first. A constant image has none, which gives zeros.
    """
    picture = view[:n_rows]
    h, w = picture.shape
    if min(h, w) < GRID or picture.std() <= MIN_SPREAD:
        return bytes(LANDMARKS_BYTES)
    factor = VIEW_PX / np.sqrt(h * w)
    shape = (max(GRID, round(h * factor)), max(GRID, round(w * factor)))
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    levels = _blur_levels(cv2.resize(picture, shape[::-1], interpolation=method))
    extrema = _find_extrema(levels)
    bits = _describe_surroundings(levels, extrema) > 0
    places = np.stack([extrema.y, extrema.x], axis=1) + 0.5
    return encode_landmarks(bits, extrema.is_bright, extrema.scale, places, (shape[0] * len(view) / h, shape[1]))


def _blur_levels(image: NDArray) -> NDArray[np.float32]:
    """`image` (h, w) blurred by each of SIGMAS_PX: (n, h, w)."""
    levels = [cv2.GaussianBlur(image, (0, 0), SIGMAS_PX[0])]
    for sigma, next_sigma in itertools.pairwise(SIGMAS_PX):
        levels.append(cv2.GaussianBlur(levels[-1], (0, 0), np.sqrt(next_sigma**2 - sigma**2)))
    return np.stack(levels)


class _Extrema(NamedTuple):
    """Extrema of differences of Gaussians, the strongest first; all arrays are (n,)."""

    level: NDArray
    y: NDArray  # px
    x: NDArray
    scale: NDArray  # px
    is_bright: NDArray


def _find_extrema(levels: NDArray) -> _Extrema:
    """The N_LANDMARKS strongest extrema of `levels` (n, h, w).

    Extrema over position and scale come first. Behind them are extrema over position alone at the coarsest scale: of a
    fine lattice there are hardly any others. Those whose surroundings lie outside the image by more than a fifth are
    left out.
    """
    differences = np.diff(levels, axis=0)
    kernel = np.ones((3, 3), np.uint8)
    largest = np.stack([cv2.dilate(d, kernel) for d in differences])
    smallest = np.stack([cv2.erode(d, kernel) for d in differences])
    middle = differences[1:-1]
    is_bright = middle == smallest[1:-1]
    is_dark = middle == largest[1:-1]
    is_scale_extremum = is_bright & (middle <= smallest[:-2]) & (middle <= smallest[2:])
    is_scale_extremum ^= is_dark & (middle >= largest[:-2]) & (middle >= largest[2:])
    is_listed = is_scale_extremum.copy()
    is_listed[-1] |= is_bright[-1] ^ is_dark[-1]
    level, y, x = np.nonzero(is_listed)
    level = level + 1
    margin = np.maximum(0.8 * SPACING * (GRID - 1) / 2 * SIGMAS_PX[level], 1)
    h, w = levels.shape[1:]
    is_inside = (y >= margin) & (x >= margin) & (y < h - margin) & (x < w - margin)
    level, y, x = level[is_inside], y[is_inside], x[is_inside]
    is_blob = _is_blob(differences, level, y, x)
    level, y, x = level[is_blob], y[is_blob], x[is_blob]
    is_coarse = ~is_scale_extremum[level - 1, y, x]
    order = np.lexsort((-np.abs(differences[level, y, x]), is_coarse))[:N_LANDMARKS]
    level, y, x = level[order], y[order], x[order]
    offset = _find_vertex(*(differences[level + k, y, x] for k in (-1, 0, 1)))
    shift_y = _find_vertex(*(differences[level, y + k, x] for k in (-1, 0, 1)))
    shift_x = _find_vertex(*(differences[level, y, x + k] for k in (-1, 0, 1)))
    scale = SIGMAS_PX[0] * 2 ** ((level + offset) / 3)
    return _Extrema(level, y + shift_y, x + shift_x, scale, differences[level, y, x] < 0)


def _is_blob(differences: NDArray, level: NDArray, y: NDArray, x: NDArray) -> NDArray[np.bool_]:
    """(n,) whether extrema are curved along all directions: on an edge the place along it says nothing (Lowe 2004)."""
    centre = differences[level, y, x]
    yy, xx = (differences[level, y + dy, x + dx] + differences[level, y - dy, x - dx] - 2 * centre for dy, dx in AXES)
    xy = differences[level, y + 1, x + 1] + differences[level, y - 1, x - 1]
    xy = (xy - differences[level, y + 1, x - 1] - differences[level, y - 1, x + 1]) / 4
    return (yy + xx) ** 2 * MAX_CURVATURE_RATIO < (MAX_CURVATURE_RATIO + 1) ** 2 * (yy * xx - xy**2)


def _find_vertex(first: NDArray, centre: NDArray, last: NDArray) -> NDArray:
    """Position, -0.5 to 0.5, of the vertex of the parabola through values at -1, 0 and 1."""
    curvature = first - 2 * centre + last
    slope = 0.5 * (first - last)
    return np.clip(np.divide(slope, curvature, out=np.zeros_like(slope), where=np.abs(curvature) > 1e-12), -0.5, 0.5)


def _describe_surroundings(levels: NDArray, extrema: _Extrema) -> NDArray:
    """Coefficients (n, 48) of the surroundings of each extremum, in the image blurred as much as it is large."""
    grid = SPACING * (np.arange(GRID) - (GRID - 1) / 2)
    steps = extrema.scale[:, None] * grid
    shape = (len(extrema.y), GRID, GRID)
    rows = np.broadcast_to((extrema.y[:, None] + steps)[:, :, None], shape).astype(np.float32)
    columns = np.broadcast_to((extrema.x[:, None] + steps)[:, None, :], shape).astype(np.float32)
    points = np.zeros((len(extrema.y), GRID**2), np.float32)
    for k in np.unique(extrema.level):
        maps = (m[extrema.level == k].reshape(-1, GRID) for m in (columns, rows))
        values = cv2.remap(levels[k], *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        points[extrema.level == k] = values.reshape(-1, GRID**2)
    return points @ BASIS
