"""The scales of a Laplacian-of-Gaussian search, and the order and form of what it finds."""

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
    dy: np.ndarray  # float64, from y to the top of the surface through the 27 values around, px; see surface.refined
    dx: np.ndarray  # float64, px
    dscale: np.ndarray  # float64, in scales
    top: np.ndarray  # float64, response there


class Where(NamedTuple):
    """The pixels of an image that may hold a maximum: y0 <= y < y1, x0 <= x < x1, and known there."""

    y0: int
    y1: int
    x0: int
    x1: int
    known: Any = None  # bool (h, w) on the image's device; None: all are


def sigma_list(min_sigma: float, max_sigma: float, num_sigma: int, log_scale: bool, dtype=np.float64) -> np.ndarray:
    """The `num_sigma` scales (px) from `min_sigma` to `max_sigma`, spaced as scikit-image does for images of `dtype`.

    Raises ValueError unless 0 < min_sigma <= max_sigma and num_sigma >= 1.
    """
    if not (0 < min_sigma <= max_sigma and math.isfinite(max_sigma)):
        raise ValueError(f"min_sigma is {min_sigma}, max_sigma {max_sigma}: 0 < min_sigma <= max_sigma is needed")
    if not (isinstance(num_sigma, int | np.integer) and num_sigma >= 1):
        raise ValueError(f"num_sigma is {num_sigma}: it has to be a whole number, at least 1")
    # Arrays, not scalars: numpy then keeps float32, and float32 scales are what scikit-image uses on float32 images.
    low, high = np.full(1, min_sigma, dtype), np.full(1, max_sigma, dtype)
    if log_scale:
        return np.logspace(np.log10(low), np.log10(high), num_sigma)[:, 0]
    return np.linspace(low, high, num_sigma)[:, 0]


def signs(polarity: str) -> tuple[int, ...]:
    """The signs of `polarity`: bright (+1,), dark (-1,), both (+1, -1)."""
    known = {"bright": (1,), "dark": (-1,), "both": (1, -1)}
    if polarity not in known:
        raise ValueError(f"polarity is {polarity!r}: it has to be 'bright', 'dark' or 'both'")
    return known[polarity]


def border_px(exclude_border: int | bool | tuple[int, int]) -> tuple[int, int]:
    """Rows and columns at each edge where no blob may lie; False is 0. True and negative widths raise ValueError."""
    if exclude_border is False:
        return 0, 0
    widths = exclude_border if isinstance(exclude_border, tuple) else (exclude_border, exclude_border)
    if len(widths) != 2 or any(isinstance(w, bool) or not isinstance(w, int) or w < 0 for w in widths):
        raise ValueError(f"exclude_border is {exclude_border!r}: it is False, a width in px, or one width per axis")
    return widths


def maxima(sign: int, y, x, scale, response, fit=None) -> Maxima:
    """Maxima of one polarity from four sequences of one length; `fit` is dscale, dy, dx, top (4 x n), None no fit."""
    y, x, scale = (np.asarray(column, np.int64) for column in (y, x, scale))
    response = np.asarray(response, np.float64)
    none = np.zeros(len(response))
    dscale, dy, dx, top = (none, none, none, response) if fit is None else fit
    return Maxima(y, x, scale, response, np.full(len(response), sign, np.int8), dy, dx, dscale, top)


NOTHING = maxima(1, [], [], [], [])


def chosen(found: Maxima, keep: np.ndarray | slice) -> Maxima:
    """The maxima of `found` that `keep` picks."""
    return Maxima(*(column[keep] for column in found))


def ordered(found: list[Maxima]) -> Maxima:
    """All maxima of `found` in one: strongest first; equals bright before dark, then by row, column and scale."""
    every = Maxima(*(np.concatenate(part) for part in zip(*found)))
    return chosen(every, np.lexsort((every.scale, every.x, every.y, -every.polarity, -every.response)))


def strongest(found: list[Maxima], most: int | None) -> Maxima:
    """All maxima of `found` in that order, those of one place and scale once, at most `most` of each polarity."""
    every = ordered(found)
    # What came twice is equal in all that the order looks at: the second follows the first.
    same = np.ones(max(0, len(every.y) - 1), bool)
    for column in every[:5]:
        same &= column[1:] == column[:-1]
    if same.any():
        every = chosen(every, np.append(True, ~same))
    return every if most is None else capped(every, most)


def capped(found: Maxima, most: int) -> Maxima:
    """The first `most` of each polarity."""
    if len(found.y) <= most:
        return found
    keep = np.zeros(len(found.y), bool)
    for sign in (1, -1):
        keep[np.flatnonzero(found.polarity == sign)[:most]] = True
    return chosen(found, keep)


def within(where: Where | None, y: Any, x: Any) -> Any:
    """Which of the pixels (y, x; integer arrays of any device) `where` has; None has all."""
    if where is None:
        return slice(None)
    keep = (y >= where.y0) & (y < where.y1) & (x >= where.x0) & (x < where.x1)
    return keep if where.known is None else keep & where.known[y, x]


def one_polarity(found: Maxima) -> Maxima:
    """The maxima of `found` of the polarity that has the larger sum of fourth powers of the response; bright in a tie.

    Between bright objects lie dark gaps that answer, too, but more faintly: with both, gaps are counted as objects. The
    fourth power makes a few strong objects outweigh many faint gaps.
    """
    strength = {sign: (found.response[found.polarity == sign] ** 4).sum() for sign in (1, -1)}
    return chosen(found, found.polarity == max(strength, key=strength.get))


def inside(found: Maxima, shape: tuple[int, int], border: tuple[int, int]) -> Maxima:
    """The maxima of `found` that keep `border` px from the edges of an image of `shape`."""
    keep = (found.y >= border[0]) & (found.y < shape[0] - border[0])
    keep &= (found.x >= border[1]) & (found.x < shape[1] - border[1])
    return chosen(found, keep)


def table(found: Maxima, sigmas: np.ndarray) -> pd.DataFrame:
    """`found` as columns y_px, x_px, sigma_px, response (float64) and polarity (int8); no rows give all columns."""
    sigma = np.asarray(sigmas, np.float64)[found.scale]
    values = (found.y.astype(np.float64), found.x.astype(np.float64), sigma, found.response, found.polarity)
    return pd.DataFrame(dict(zip(COLUMNS, values)))


def refined_table(found: Maxima, sigmas: np.ndarray, log_scale: bool) -> pd.DataFrame:
    """`found` with the places, scales and responses of the fitted tops, columns as in `table`, strongest top first.

    Between two scales sigma is interpolated as they are spaced: geometrically with `log_scale`, else linearly.
    """
    known = np.asarray(sigmas, np.float64) if len(found.y) else np.ones(1)
    position = found.scale + found.dscale
    index = np.arange(len(known))
    if log_scale:
        sigma = np.exp(np.interp(position, index, np.log(known)))
    else:
        sigma = np.interp(position, index, known)
    values = (found.y + found.dy, found.x + found.dx, sigma, found.top, found.polarity)
    order = np.argsort(-found.top, kind="stable")
    return pd.DataFrame({name: column[order] for name, column in zip(COLUMNS, values)})
