"""Scales of a Laplacian-of-Gaussian search; its maxima: selection, order, and the table of them."""

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

COLUMNS = ("y_px", "x_px", "sigma_px", "response", "polarity")


class Maxima(NamedTuple):
    """Maxima of a scale space, strongest first: nine arrays of one length, all on the host."""

    y: np.ndarray  # int64, row, px
    x: np.ndarray  # int64, column, px
    scale: np.ndarray  # int64, index into the sigmas
    response: np.ndarray  # float64, scale-normalised, always positive for a blob of its polarity
    polarity: np.ndarray  # int8, +1 brighter than its surroundings, -1 darker
    dy: np.ndarray  # float64, from y to the top of the surface, px; see surface.refine_cubes
    dx: np.ndarray  # float64, px
    dscale: np.ndarray  # float64, in scales
    top: np.ndarray  # float64, response there


class SearchRegion(NamedTuple):
    """Pixels of an image that may hold a maximum: y0 <= y < y1, x0 <= x < x1, and True in the mask."""

    y0: int
    y1: int
    x0: int
    x1: int
    mask: Any = None  # bool (h, w) on the image's device; None: all True


def compute_sigmas(min_sigma: float, max_sigma: float, num_sigma: int, log_scale: bool, dtype=np.float64) -> np.ndarray:
    """The `num_sigma` scales (px) from `min_sigma` to `max_sigma`, spaced as scikit-image does for images of `dtype`.

    Raises ValueError unless 0 < min_sigma <= max_sigma and num_sigma >= 1.
    """
    if not (0 < min_sigma <= max_sigma and math.isfinite(max_sigma)):
        raise ValueError(f"min_sigma is {min_sigma}, max_sigma {max_sigma}: 0 < min_sigma <= max_sigma is needed")
    if not (isinstance(num_sigma, int | np.integer) and num_sigma >= 1):
        raise ValueError(f"num_sigma is {num_sigma}: it has to be a whole number, at least 1")
    # Arrays, not scalars: numpy then keeps float32, and float32 scales are what scikit-image uses on float32 images.
    low = np.full(1, min_sigma, dtype)
    high = np.full(1, max_sigma, dtype)
    if log_scale:
        return np.logspace(np.log10(low), np.log10(high), num_sigma)[:, 0]
    return np.linspace(low, high, num_sigma)[:, 0]


def parse_polarity(polarity: str) -> tuple[int, ...]:
    """The signs of `polarity`: bright (+1,), dark (-1,), both (+1, -1)."""
    signs = {"bright": (1,), "dark": (-1,), "both": (1, -1)}
    if polarity not in signs:
        raise ValueError(f"polarity is {polarity!r}: it has to be 'bright', 'dark' or 'both'")
    return signs[polarity]


def parse_border(exclude_border: int | bool | tuple[int, int]) -> tuple[int, int]:
    """Rows and columns at each edge where no blob may lie; False is 0. True and negative widths raise ValueError."""
    if exclude_border is False:
        return 0, 0
    widths = exclude_border if isinstance(exclude_border, tuple) else (exclude_border, exclude_border)
    if len(widths) != 2 or any(isinstance(w, bool) or not isinstance(w, int) or w < 0 for w in widths):
        raise ValueError(f"exclude_border is {exclude_border!r}: it is False, a width in px, or one width per axis")
    return widths


def make_maxima(sign: int, y, x, scale, response, fit=None) -> Maxima:
    """Maxima of one polarity from four sequences of one length; `fit` is dscale, dy, dx, top (4 x n), None no fit."""
    y, x, scale = (np.asarray(column, np.int64) for column in (y, x, scale))
    response = np.asarray(response, np.float64)
    zeros = np.zeros(len(response))
    dscale, dy, dx = (zeros, zeros, zeros) if fit is None else fit[:3]
    top = response if fit is None else fit[3]
    return Maxima(y, x, scale, response, np.full(len(response), sign, np.int8), dy, dx, dscale, top)


NO_MAXIMA = make_maxima(1, [], [], [], [])


def select_maxima(maxima: Maxima, keep: np.ndarray | slice) -> Maxima:
    """The maxima where `keep` (bool, indices or a slice) has them."""
    return Maxima(*(column[keep] for column in maxima))


def join_maxima(parts: list[Maxima]) -> Maxima:
    """All maxima of `parts`, one part after the other."""
    return Maxima(*(np.concatenate(columns) for columns in zip(*parts)))


def sort_maxima(parts: list[Maxima]) -> Maxima:
    """All maxima of `parts` in the order of `order_maxima`."""
    every = join_maxima(parts)
    return select_maxima(every, order_maxima(every))


def order_maxima(maxima: Maxima) -> np.ndarray:
    """Indices, strongest first; of equal response bright before dark, then by row, column and scale."""
    return np.lexsort((maxima.scale, maxima.x, maxima.y, -maxima.polarity, -maxima.response))


def keep_strongest(parts: list[Maxima], max_per_polarity: int | None) -> Maxima:
    """The strongest maxima of `parts`, sorted by sort_maxima(), without duplicates; None as the number keeps all."""
    every = sort_maxima(parts)
    # Duplicates are equal in all keys of the order, so they follow each other.
    equal_responses = np.ones(max(0, len(every.y) - 1), bool)
    for column in every[:5]:
        equal_responses &= column[1:] == column[:-1]
    if equal_responses.any():
        every = select_maxima(every, np.append(True, ~equal_responses))
    return every if max_per_polarity is None else cap_maxima(every, max_per_polarity)


def cap_maxima(maxima: Maxima, max_per_polarity: int) -> Maxima:
    """The first `max_per_polarity` maxima of each polarity."""
    if len(maxima.y) <= max_per_polarity:
        return maxima
    return select_maxima(maxima, list_first_of_polarities(maxima.polarity, max_per_polarity))


def list_first_of_polarities(polarity: np.ndarray, max_per_polarity: int) -> np.ndarray:
    """Indices, ascending, of the first `max_per_polarity` of each polarity."""
    return np.sort(np.concatenate([np.flatnonzero(polarity == sign)[:max_per_polarity] for sign in (1, -1)]))


def is_in_region(region: SearchRegion | None, y: Any, x: Any) -> Any:
    """Mask of the pixels (y, x; integer arrays of any device) that lie in `region`; a full slice for None."""
    if region is None:
        return slice(None)
    keep = (y >= region.y0) & (y < region.y1) & (x >= region.x0) & (x < region.x1)
    return keep if region.mask is None else keep & region.mask[y, x]


def select_stronger_polarity(maxima: Maxima) -> int:
    """The polarity with the larger sum of fourth powers of the response; bright in a tie.

    Dark gaps between bright objects respond too, but more weakly: with both polarities gaps would count as objects. The
    fourth power makes a few strong objects outweigh many faint gaps.
    """
    strength = {sign: (maxima.response[maxima.polarity == sign] ** 4).sum() for sign in (1, -1)}
    return max(strength, key=strength.__getitem__)


def drop_border(maxima: Maxima, shape: tuple[int, int], border: tuple[int, int]) -> Maxima:
    """The maxima at least `border` px (rows, columns) from the edges of an image of `shape`."""
    keep = (maxima.y >= border[0]) & (maxima.y < shape[0] - border[0])
    keep &= (maxima.x >= border[1]) & (maxima.x < shape[1] - border[1])
    return select_maxima(maxima, keep)


def tabulate_maxima(maxima: Maxima, sigmas: np.ndarray) -> pd.DataFrame:
    """Table of `make_maxima`: y_px, x_px, sigma_px, response (float64), polarity (int8); all columns for no maxima."""
    sigma = np.asarray(sigmas, np.float64)[maxima.scale]
    values = (maxima.y.astype(np.float64), maxima.x.astype(np.float64), sigma, maxima.response, maxima.polarity)
    return pd.DataFrame(dict(zip(COLUMNS, values)))


def tabulate_refined_maxima(maxima: Maxima, sigmas: np.ndarray, log_scale: bool) -> pd.DataFrame:
    """Table of the fitted tops of `make_maxima`, columns as in `tabulate_maxima`, highest top first.

    Between two scales sigma is interpolated as they are spaced: geometrically with `log_scale`, else linearly.
    """
    sigmas = np.asarray(sigmas, np.float64) if len(maxima.y) else np.ones(1)
    position = maxima.scale + maxima.dscale
    index = np.arange(len(sigmas))
    if log_scale:
        sigma = np.exp(np.interp(position, index, np.log(sigmas)))
    else:
        sigma = np.interp(position, index, sigmas)
    values = (maxima.y + maxima.dy, maxima.x + maxima.dx, sigma, maxima.top, maxima.polarity)
    order = np.argsort(-maxima.top, kind="stable")
    return pd.DataFrame({name: column[order] for name, column in zip(COLUMNS, values)})
