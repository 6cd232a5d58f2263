"""Compiled search for the peaks of one layer of a scale space: on all pixels, or led by a coarse grid."""

# numba's cache of compiled code knows when this file changes, but not when surface.py does: change both together.

import math

import numba
import numpy as np

from emqa_dask.detect.surface import WIDE, differentiate, fill_neighbourhood, refine_cube, reflect_index

MAX_VERTEX_DISTANCE = 1.5  # coarse pixels from a coarse pixel to the top of the surface through its neighbourhood
COARSE_FLOOR_FRACTION = 0.7  # of the floor: least value of a coarse pixel half a step from such a top
SURFACE_ERROR = 0.03  # of a value: largest error of the surfaces of two scales against each other
N_VISITED = 4096  # entries of the hash table of pixels that were examined
NOWHERE = (-(1 << 40), -(1 << 40))


@numba.njit(nogil=True, cache=True)
def search_rows(grids, steps, weights, firsts, height, width, start, sign, floor, out):
    """Fill the columns of `out` with the peaks of the middle grid from row `start` on, as long as another row fits in.

    Returns the number of peaks and the first row that was not searched.
    `grids`, `steps`, `weights` and `firsts` belong to the scale before, the scale itself and the one after; a step of 0
    marks one that does not exist. Rows of `out`: y, x, value, dy, dx, dscale, top (see peaks.Peaks).
    """
    grid = grids[1]
    step = steps[1]
    cube = np.empty((3, 3, 3))
    line = np.empty(WIDE)
    fit = np.empty(4)
    marks = np.zeros(-(-grid.shape[1] // 8) * 8, np.bool_)
    columns = np.empty(grid.shape[1], np.int64)
    (visited, tops) = np.full((2, N_VISITED), -1, np.int64)
    n = 0
    low = floor if step == 1 else (floor * COARSE_FLOOR_FRACTION if floor > 0 else -np.inf)
    for i in range(start, len(grid)):
        if n + grid.shape[1] > out.shape[1]:
            return n, i
        if step == 1:
            _mark(grid, i, sign, low, marks[: grid.shape[1]])
        else:
            _mark_coarse(grid, i, sign, low, marks[: grid.shape[1]])
        for j in columns[: _list_marked(marks, columns)]:
            y, x = i, j
            if step > 1:
                y, x = _estimate_top(grids, steps, sign, i, j, height, width, floor)
                # Several coarse pixels lead to one peak.
                key = y * width + x
                if y < 0 or visited[key % N_VISITED] == key:
                    continue
                visited[key % N_VISITED] = key
                y, x = _climb(grid, step, weights[1], firsts[1], sign, y, x, height, width, line, cube[1])
                key = y * width + x
                if y < 0 or not cube[1, 1, 1] > floor or tops[key % N_VISITED] == key:
                    continue
                tops[key % N_VISITED] = key
            else:
                if _is_exceeded(grids, steps, sign, y, x, float(sign * grid[y, x])):
                    continue
                fill_neighbourhood(grid, step, weights[1], firsts[1], sign, y, x, height, width, line, cube[1])
                if not _is_top(cube[1], cube[1, 1, 1]):
                    continue
            is_peak = step == 1 or not _is_exceeded(grids, steps, sign, y, x, cube[1, 1, 1])
            for k in (0, 2):
                if steps[k] == 0:
                    cube[k] = -np.inf
                if steps[k] > 0 and is_peak:
                    fill_neighbourhood(
                        grids[k], steps[k], weights[k], firsts[k], sign, y, x, height, width, line, cube[k]
                    )
                    is_peak = _is_top(cube[k], cube[1, 1, 1])
            if not is_peak:
                continue
            refine_cube(cube, steps[0] > 0 and steps[2] > 0, 0 < y < height - 1, 0 < x < width - 1, fit)
            _store_peak(out, n, y, x, cube[1, 1, 1], fit)
            n += 1
    return n, len(grid)


@numba.njit(nogil=True, cache=True)
def _list_marked(marks, columns):
    """Fill `columns` with the indices of True in `marks` (8 m values); returns their number."""
    n = 0
    mark_octets = marks.view(np.uint64)
    for k in range(len(mark_octets)):
        if mark_octets[k] == 0:  # as most are
            continue
        for x in range(8 * k, 8 * k + 8):
            if marks[x]:
                columns[n] = x
                n += 1
    return n


@numba.njit(nogil=True, cache=True)
def _store_peak(out, n, y, x, value, fit):
    """Fill column n of `out`; `fit` is that of refine_cube()."""
    out[0, n] = y
    out[1, n] = x
    out[2, n] = value
    out[3, n] = fit[1]
    out[4, n] = fit[2]
    out[5, n] = fit[0]
    out[6, n] = fit[3]


@numba.njit(nogil=True, cache=True)
def _mark(grid, i, sign, low, marks):
    """Mark the pixels of row i above `low` that none of their eight neighbours exceeds; the ends are not compared."""
    row = grid[i]
    row_above = grid[max(i - 1, 0)]
    row_below = grid[min(i + 1, len(grid) - 1)]
    row_interior = row[1:]
    right = row[2:]
    n = row_above[1:]
    s = row_below[1:]
    inner_marks = marks[1:]
    ne = row_above[2:]
    se = row_below[2:]
    marks[0] = sign * row[0] > low
    marks[-1] = sign * row[-1] > low
    for x in range(len(row) - 2):
        v = sign * row_interior[x]
        is_high = (v > low) & (v >= sign * n[x]) & (v >= sign * s[x]) & (v >= sign * row[x]) & (v >= sign * right[x])
        inner_marks[x] = (
            is_high
            & (v >= sign * row_above[x])
            & (v >= sign * ne[x])
            & (v >= sign * row_below[x])
            & (v >= sign * se[x])
        )


@numba.njit(nogil=True, cache=True)
def _mark_coarse(grid, i, sign, low, marks):
    """Mark the pixels of row i above `low` that are maxima or whose surface has its top nearby."""
    row = grid[i]
    row_above = grid[max(i - 1, 0)]
    row_below = grid[min(i + 1, len(grid) - 1)]
    row_interior = row[1:]
    right = row[2:]
    inner_marks = marks[1:]
    n = row_above[1:]
    s = row_below[1:]
    ne = row_above[2:]
    se = row_below[2:]
    marks[0] = sign * row[0] > low
    marks[-1] = sign * row[-1] > low
    half = grid.dtype.type(0.5)
    reach = grid.dtype.type(MAX_VERTEX_DISTANCE)
    for x in range(len(row) - 2):
        c = sign * row_interior[x]
        top = sign * n[x]
        bottom = sign * s[x]
        left = sign * row[x]
        right_ = sign * right[x]
        nw = sign * row_above[x]
        ne_ = sign * ne[x]
        sw = sign * row_below[x]
        se_ = sign * se[x]
        gy = half * (bottom - top)
        gx = half * (right_ - left)
        yy = top + bottom - c - c
        xx = left + right_ - c - c
        xy = half * half * (se_ - sw - ne_ + nw)
        det = yy * xx - xy * xy
        is_near = (yy < 0) & (det > 0)
        is_near &= (abs(xy * gx - xx * gy) <= reach * det) & (abs(xy * gy - yy * gx) <= reach * det)
        highest = max(max(max(top, bottom), max(left, right_)), max(max(nw, ne_), max(sw, se_)))
        inner_marks[x] = (c > low) & (is_near | (c > highest))


@numba.njit(nogil=True, cache=True)
def _is_exceeded(grids, steps, sign, y, x, value):
    """Whether a neighbouring scale on all pixels is higher at (y, x); cheaper than its whole neighbourhood."""
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
def _estimate_top(grids, steps, sign, i, j, height, width, floor):
    """The pixel where the quadratic surface around coarse pixel (i, j) is highest.

    NOWHERE if the top is below the floor, or a neighbouring scale higher there, by more than `SURFACE_ERROR`.
    """
    grid = grids[1]
    step = steps[1]
    h, w = grid.shape
    i_above = i - 1
    i_below = i + 1
    left = j - 1
    right = j + 1
    if i == 0 or j == 0 or i_below == h or right == w:
        i_above = reflect_index(i_above, h)
        i_below = reflect_index(i_below, h)
        left = reflect_index(left, w)
        right = reflect_index(right, w)
    top, dy, dx = _find_vertex(grid, sign, i, j, i_above, i_below, left, right)
    if top == -np.inf or top < floor - 2 * SURFACE_ERROR * abs(floor):
        return NOWHERE
    for k in (0, 2):
        if steps[k] == step:
            neighbour_top = _evaluate(differentiate(grids[k], sign, i, j, i_above, i_below, left, right), dy, dx)
            if neighbour_top - top > SURFACE_ERROR * abs(top):
                return NOWHERE
    y = math.floor(step * (i + dy + 0.5))
    x = math.floor(step * (j + dx + 0.5))
    if y < -step or y >= height + step or x < -step or x >= width + step:
        return NOWHERE
    y = min(max(y, 0), height - 1)
    x = min(max(x, 0), width - 1)
    return NOWHERE if _is_exceeded_on_finer_grid(grids, steps, sign, y, x, top) else (y, x)


@numba.njit(nogil=True, cache=True)
def _find_vertex(grid, sign, i, j, i_above, i_below, left, right):
    """Height and place (top, dy, dx; coarse pixels) of the top of the quadratic surface around a coarse pixel.

    The pixel itself if it is a maximum and the surface has no top near it; a top of -inf if neither.
    """
    c, gradient, hessian = differentiate(grid, sign, i, j, i_above, i_below, left, right)
    gy, gx = gradient
    yy, xx, xy = hessian
    det = yy * xx - xy * xy
    dy = dx = 2.0
    if yy < 0 and det > 0:
        dy = (xy * gx - xx * gy) / det
        dx = (xy * gy - yy * gx) / det
    if abs(dy) > MAX_VERTEX_DISTANCE or abs(dx) > MAX_VERTEX_DISTANCE:
        direct = max(
            max(sign * grid[i_above, j], sign * grid[i_below, j]), max(sign * grid[i, left], sign * grid[i, right])
        )
        north = max(sign * grid[i_above, left], sign * grid[i_above, right])
        south = max(sign * grid[i_below, left], sign * grid[i_below, right])
        if not (c > direct and c > north and c > south):
            return -np.inf, 0.0, 0.0
        dy = dx = 0.0
    return _evaluate((c, gradient, hessian), dy, dx), dy, dx


@numba.njit(nogil=True, cache=True)
def _evaluate(derivatives, dy, dx):
    """The quadratic surface with `derivatives`, as differentiate() gives them, at the offset (dy, dx)."""
    c, gradient, hessian = derivatives
    gy, gx = gradient
    yy, xx, xy = hessian
    return c + gy * dy + gx * dx + 0.5 * (yy * dy * dy + xx * dx * dx) + xy * dy * dx


@numba.njit(nogil=True, cache=True)
def _is_exceeded_on_finer_grid(grids, steps, sign, y, x, top):
    """Whether the nearest pixel of a neighbouring scale on a finer grid is higher by more than `SURFACE_ERROR`."""
    is_exceeded = False
    for k in (0, 2):
        if 0 < steps[k] < steps[1]:
            row = min(y // steps[k], grids[k].shape[0] - 1)
            column = min(x // steps[k], grids[k].shape[1] - 1)
            is_exceeded |= sign * grids[k][row, column] - top > SURFACE_ERROR * abs(top)
    return is_exceeded


@numba.njit(nogil=True, cache=True)
def _climb(grid, step, weights, firsts, sign, y, x, height, width, line, plane):
    """The maximum that is reached uphill from (y, x), its neighbourhood in `plane`; (-1, -1) if it is too far."""
    for _ in range(2 * step + 2):
        fill_neighbourhood(grid, step, weights, firsts, sign, y, x, height, width, line, plane)
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
