"""Strips and blocks of an image: pixels to read and to own; intensity limits of a sample."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from emqa_dask.detect.normalise import IntensityLimits, compute_intensity_limits

WHOLE_PX = 1 << 25  # images up to this many pixels are processed in one piece
STRIP_PX = 1 << 23  # pixels that a strip of a larger image owns, about; some 50 bytes of memory each, halo included
SAMPLE_ROWS = 256  # of a larger image, from which its intensity limits are taken


class Strip(NamedTuple):
    """Rows, or columns, that a strip reads (first <= y < last) and owns (start <= y < stop)."""

    first: int
    start: int
    stop: int
    last: int


class Block(NamedTuple):
    """A rectangle of an image: a strip of rows and one of columns."""

    rows: Strip
    columns: Strip

    def cut_pixels(self, image: np.ndarray) -> np.ndarray:
        """The pixels of `image` that the block reads."""
        return image[self.rows.first : self.rows.last, self.columns.first : self.columns.last]


def plan_strips(shape: tuple[int, int], halo: int, unit: int, strip_px: int | None = None) -> Iterator[Strip]:
    """Strips that own every row of an image of `shape` once and read at least `halo` rows around their own.

    A strip owns about `strip_px` pixels; None takes images up to `WHOLE_PX` in one piece. Strips begin at multiples of
    `unit` rows, so that a grid of every unit-th row is the same in all of them. No rows or no columns give no strip.
    """
    if 0 in shape:
        return
    if strip_px is None:
        strip_px = math.prod(shape) if math.prod(shape) <= WHOLE_PX else STRIP_PX
    rows = max(1, math.ceil(strip_px / shape[1] / unit)) * unit
    for start in range(0, shape[0], rows):
        yield _make_strip(start, min(start + rows, shape[0]), shape[0], halo, unit)


def make_block(shape: tuple[int, int], corners: tuple[int, int, int, int], halo: int, unit: int) -> Block:
    """The block of an image of `shape` that owns y0 <= y < y1, x0 <= x < x1 and reads `halo` px around these.

    `corners` are y0, x0, y1, x1. Rows and columns that it reads begin and end at multiples of `unit`, or at the edge.
    """
    rows = _make_strip(corners[0], corners[2], shape[0], halo, unit)
    return Block(rows, _make_strip(corners[1], corners[3], shape[1], halo, unit))


def _make_strip(start: int, stop: int, size: int, halo: int, unit: int) -> Strip:
    return Strip(max(0, start - halo) // unit * unit, start, stop, min(-(-(stop + halo) // unit) * unit, size))


def sample_intensity_limits(
    read: Callable[[int, int], np.ndarray],
    shape: tuple[int, int],
    percentiles: tuple[float, float],
    n_rows: int = SAMPLE_ROWS,
) -> IntensityLimits:
    """The intensities at two percentiles, and the median, of an image of `shape` that need not fit in memory.

    Up to `WHOLE_PX` pixels from all of it, beyond from `n_rows` rows spread evenly; `read(y0, y1)` gives rows
    y0 <= y < y1. No pixels give zeros.
    """
    if math.prod(shape) <= WHOLE_PX:
        return compute_intensity_limits(np.asarray(read(0, shape[0])), *percentiles)
    rows = list_sample_rows(shape, n_rows)
    return compute_intensity_limits(np.concatenate([np.asarray(read(y, y + 1)) for y in rows]), *percentiles)


def list_sample_rows(shape: tuple[int, int], n_rows: int = SAMPLE_ROWS) -> list[int]:
    """At most `n_rows` rows, spread evenly over an image of `shape`, that stand for all pixels."""
    return np.unique(np.linspace(0, shape[0] - 1, min(n_rows, shape[0])).astype(int)).tolist()
