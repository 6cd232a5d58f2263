"""Peaks of a scale space whose layers may lie on coarser grids than the image; places and scales between the pixels.

A peak is a pixel that no one of its 26 neighbours in (scale, row, column) exceeds, plateaus included, as in
`skimage.feature.peak_local_max`. Layers on coarse grids are never laid out on all pixels: where such a layer may have a
peak, and where a neighbouring layer is asked, the few values that are needed are interpolated.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numba
import numpy as np

from emqa_dask.detect import scales
from emqa_dask.detect.scales import Maxima, Where
from emqa_dask.detect.surface import WIDE, around, interpolation, quadratic, refine, reflected

CHUNK = 1 << 16  # pixels that are searched at a time: the most that can be found before anything is dropped
REACH = 1.5  # coarse pixels: how far from a coarse pixel the top of the surface through its surroundings may lie
LOWERED = 0.7  # of the floor: what a coarse pixel answers at least, half a step in both directions from such a top

CLEARLY = 0.03  # of a value: how much the surfaces of two scales may err against each other
SEEN = 4096  # entries of the table of pixels that were looked at already
NOWHERE = (-(1 << 40), -(1 << 40))


class Layer(NamedTuple):
    """One scale of a scale space, on every `step`-th pixel; coarse pixels sit in the middle of `step` x `step`."""

    grid: np.ndarray  # float32 or float64, C-contiguous
    step: int


ALIVE = 4  # layers that are in memory: three that are looked at, and the next


class Peaks(NamedTuple):
    """n peaks of one layer and sign, row by row: float64 arrays."""

    y: np.ndarray
    x: np.ndarray
    value: np.ndarray  # at the pixel, times the sign
    dy: np.ndarray  # to the top of the surface, px, -0.5...0.5
    dx: np.ndarray
    dscale: np.ndarray  # the same, in scales
    top: np.ndarray  # height of the surface, times the sign


def collect(
    layers: Iterable[Layer],
    shape: tuple[int, int],
    sides: tuple[int, ...],
    floor: float,
    most: int | None = None,
    where: Where | None = None,
) -> tuple[Maxima, dict[int, int]]:
    """The peaks above `floor` of a scale space in the order of its layers, for each sign of `sides`, strongest first.

    At most `most` of each sign are kept, also while they are collected: memory is three layers and about 200 bytes for
    each of these. None keeps all. Those that are not `where` they may be do not count. Second, how many were met for
    each sign (on coarse grids, some more than once).
    """
    kept = scales.NOTHING
    fresh = []
    n_fresh = 0
    n_met = dict.fromkeys(sides, 0)
    window = [None, None, None]
    for k, layer in enumerate(itertools.chain(layers, [None])):
        window = [*window[1:], layer]
        if window[1] is None:
            continue
        for sign in sides:
            for part in search(*window, shape, sign, floor):
                fit = (part.dscale, part.dy, part.dx, part.top)
                met = scales.maxima(sign, part.y, part.x, np.full(len(part.y), k - 1), part.value, fit)
                fresh.append(scales.chosen(met, scales.within(where, met.y, met.x)))
                n_fresh = n_fresh + len(fresh[-1].y)
                n_met[sign] = n_met[sign] + len(part.y)
                if most is not None and n_fresh > max(most, CHUNK):
                    kept = scales.strongest([kept, *fresh], most)
                    fresh = []
                    n_fresh = 0
    return scales.strongest([kept, *fresh], most), n_met


def search(
    before: Layer | None, here: Layer, after: Layer | None, shape: tuple[int, int], sign: int, floor: float
) -> Iterator[Peaks]:
    """Yield the peaks of `here` above `floor`, of `sign` times the values, a part of the image of `shape` at a time.

    `before` and `after` are the neighbouring scales. The parts' sizes are bounded by `CHUNK`, whatever is found. On a
    coarse grid a peak may come more than once (`scales.strongest` keeps one). The surface is a quadratic one through
    the 27 values; see `surface.refined`.
    """
    none = Layer(np.empty((1, 1), here.grid.dtype), 0)
    grids, steps = zip(before or none, here, after or none)
    weights, firsts = zip(*(interpolation(max(step, 1)) for step in steps))
    n_rows = min(max(1, CHUNK // here.grid.shape[1]), len(here.grid))
    found = np.empty((len(Peaks._fields), n_rows * here.grid.shape[1]))
    for start in range(0, len(here.grid), n_rows):
        stop = min(start + n_rows, len(here.grid))
        n = _search(grids, steps, weights, firsts, *shape, start, stop, here.grid.dtype.type(sign), floor, found)
        if n:
            yield Peaks(*found[:, :n].copy())


@numba.njit(nogil=True, cache=True)
def _search(grids, steps, weights, firsts, height, width, start, stop, sign, floor, found):
    """Fill the columns of `found` with the peaks of rows start...stop of the middle grid; how many."""
    grid = grids[1]
    step = steps[1]
    cube = np.empty((3, 3, 3))
    line = np.empty(WIDE)
    fit = np.empty(4)
    marks = np.empty(grid.shape[1], np.bool_)
    (seen, tops) = np.full((2, SEEN), -1, np.int64)
    n = 0
    low = floor if step == 1 else (floor * LOWERED if floor > 0 else -np.inf)
    for i in range(start, stop):
        if step == 1:
            _mark(grid, i, sign, low, marks)
        else:
            _mark_coarse(grid, i, sign, low, marks)
        for j in range(grid.shape[1]):
            if not marks[j]:
                continue
            y, x = i, j
            if step > 1:
                y, x = _lead(grids, steps, sign, i, j, height, width, floor)
                # Several coarse pixels lead to one peak.
                key = y * width + x
                if y < 0 or seen[key % SEEN] == key:
                    continue
                seen[key % SEEN] = key
                y, x = _climb(grid, step, weights[1], firsts[1], sign, y, x, height, width, line, cube[1])
                if y < 0 or not cube[1, 1, 1] > floor:
                    continue
                if tops[(y * width + x) % SEEN] == y * width + x:
                    continue
                tops[(y * width + x) % SEEN] = y * width + x
            else:
                if _is_exceeded(grids, steps, sign, y, x, float(sign * grid[y, x])):
                    continue
                around(grid, step, weights[1], firsts[1], sign, y, x, height, width, line, cube[1])
                if not _is_top(cube[1], cube[1, 1, 1]):
                    continue
            is_peak = step == 1 or not _is_exceeded(grids, steps, sign, y, x, cube[1, 1, 1])
            for k in (0, 2):
                if steps[k] == 0:
                    cube[k] = -np.inf
                elif is_peak:
                    around(grids[k], steps[k], weights[k], firsts[k], sign, y, x, height, width, line, cube[k])
                    is_peak = _is_top(cube[k], cube[1, 1, 1])
            if is_peak:
                refine(cube, steps[0] > 0 and steps[2] > 0, 0 < y < height - 1, 0 < x < width - 1, fit)
                found[0, n] = y
                found[1, n] = x
                found[2, n] = cube[1, 1, 1]
                found[3, n] = fit[1]
                found[4, n] = fit[2]
                found[5, n] = fit[0]
                found[6, n] = fit[3]
                n += 1
    return n


@numba.njit(nogil=True, cache=True)
def _mark(grid, i, sign, low, marks):
    """Where in row i a value above `low` is not below any of its eight neighbours; the ends are not compared."""
    row = grid[i]
    up = grid[max(i - 1, 0)]
    down = grid[min(i + 1, len(grid) - 1)]
    inner = row[1:]
    right = row[2:]
    n = up[1:]
    s = down[1:]
    to = marks[1:]
    ne = up[2:]
    se = down[2:]
    marks[0] = sign * row[0] > low
    marks[-1] = sign * row[-1] > low
    for x in range(len(row) - 2):
        v = sign * inner[x]
        is_high = (v > low) & (v >= sign * n[x]) & (v >= sign * s[x]) & (v >= sign * row[x]) & (v >= sign * right[x])
        to[x] = is_high & (v >= sign * up[x]) & (v >= sign * ne[x]) & (v >= sign * down[x]) & (v >= sign * se[x])


@numba.njit(nogil=True, cache=True)
def _mark_coarse(grid, i, sign, low, marks):
    """Where in row i a value above `low` is a maximum, or the surface around it has its top within `REACH`."""
    row = grid[i]
    up = grid[max(i - 1, 0)]
    down = grid[min(i + 1, len(grid) - 1)]
    inner = row[1:]
    right = row[2:]
    to = marks[1:]
    n = up[1:]
    s = down[1:]
    ne = up[2:]
    se = down[2:]
    marks[0] = sign * row[0] > low
    marks[-1] = sign * row[-1] > low
    half = grid.dtype.type(0.5)
    reach = grid.dtype.type(REACH)
    for x in range(len(row) - 2):
        c = sign * inner[x]
        top = sign * n[x]
        bottom = sign * s[x]
        left = sign * row[x]
        right_ = sign * right[x]
        nw = sign * up[x]
        ne_ = sign * ne[x]
        sw = sign * down[x]
        se_ = sign * se[x]
        gy = half * (bottom - top)
        gx = half * (right_ - left)
        yy = top + bottom - c - c
        xx = left + right_ - c - c
        xy = half * half * (se_ - sw - ne_ + nw)
        det = yy * xx - xy * xy
        near = (yy < 0) & (det > 0)
        near &= (abs(xy * gx - xx * gy) <= reach * det) & (abs(xy * gy - yy * gx) <= reach * det)
        highest = max(max(max(top, bottom), max(left, right_)), max(max(nw, ne_), max(sw, se_)))
        to[x] = (c > low) & (near | (c > highest))


@numba.njit(nogil=True, cache=True)
def _is_exceeded(grids, steps, sign, y, x, value):
    """Whether a neighbouring scale that lies on all pixels is higher right there: cheaper than to look around."""
    is_exceeded = False
    for k in (0, 2):
        is_exceeded |= steps[k] == 1 and sign * grids[k][y, x] > value
    return is_exceeded


@numba.njit(nogil=True, cache=True)
def _is_top(plane, value):
    for a in range(3):
        for b in range(3):
            if plane[a, b] > value:
                return False
    return True


@numba.njit(nogil=True, cache=True)
def _lead(grids, steps, sign, i, j, height, width, floor):
    """The pixel where the quadratic surface through a coarse pixel's surroundings is highest, or NOWHERE.

    Where that is clearly below the floor, or a neighbouring scale clearly higher (on the same grid: the surface there;
    on a finer one: its nearest pixel), it is no peak.
    """
    grid = grids[1]
    step = steps[1]
    h, w = grid.shape
    up = i - 1
    down = i + 1
    left = j - 1
    right = j + 1
    if i == 0 or j == 0 or down == h or right == w:
        up = reflected(up, h)
        down = reflected(down, h)
        left = reflected(left, w)
        right = reflected(right, w)
    c, gy, gx, yy, xx, xy = quadratic(grid, sign, i, j, up, down, left, right)
    det = yy * xx - xy * xy
    dy = dx = 2.0
    if yy < 0 and det > 0:
        dy, dx = (xy * gx - xx * gy) / det, (xy * gy - yy * gx) / det
    if abs(dy) > REACH or abs(dx) > REACH:
        direct = max(max(sign * grid[up, j], sign * grid[down, j]), max(sign * grid[i, left], sign * grid[i, right]))
        north = max(sign * grid[up, left], sign * grid[up, right])
        south = max(sign * grid[down, left], sign * grid[down, right])
        if not (c > direct and c > north and c > south):
            return NOWHERE
        dy = dx = 0.0
    top = c + gy * dy + gx * dx + 0.5 * (yy * dy * dy + xx * dx * dx) + xy * dy * dx
    if top < floor - 2 * CLEARLY * abs(floor):
        return NOWHERE
    for k in (0, 2):
        if steps[k] == step:
            c, gy, gx, yy, xx, xy = quadratic(grids[k], sign, i, j, up, down, left, right)
            beside = c + gy * dy + gx * dx + 0.5 * (yy * dy * dy + xx * dx * dx) + xy * dy * dx
            if beside - top > CLEARLY * abs(top):
                return NOWHERE
    y, x = math.floor(step * (i + dy + 0.5)), math.floor(step * (j + dx + 0.5))
    if y < -step or y >= height + step or x < -step or x >= width + step:
        return NOWHERE
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    for k in (0, 2):
        if 0 < steps[k] < step:
            finer = grids[k]
            row = min(y // steps[k], finer.shape[0] - 1)
            column = min(x // steps[k], finer.shape[1] - 1)
            if sign * finer[row, column] - top > CLEARLY * abs(top):
                return NOWHERE
    return y, x


@numba.njit(nogil=True, cache=True)
def _climb(grid, step, weights, firsts, sign, y, x, height, width, line, plane):
    """The pixel uphill of (y, x) that is higher than its surroundings, which fill `plane`; -1 if it is too far."""
    for _ in range(2 * step + 2):
        around(grid, step, weights, firsts, sign, y, x, height, width, line, plane)
        top = plane[1, 1]
        dy = 0
        dx = 0
        for a in range(3):
            for b in range(3):
                if plane[a, b] > top:
                    top = plane[a, b]
                    dy = a - 1
                    dx = b - 1
        if dy == 0 and dx == 0:
            return y, x
        y, x = y + dy, x + dx
    return -1, -1
