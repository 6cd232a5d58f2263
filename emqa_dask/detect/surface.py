"""Values and surfaces between the pixels of a grid: interpolation around a pixel, quadratic tops in place and scale."""

# numba's cache of compiled code does not know that peak_search.py has compiled this file in: change both together.

import functools
import math

import numba
import numpy as np

TAPS = 8  # coarse pixels along each axis that an interpolated value is computed from
WIDE = TAPS + 4  # coarse pixels that three neighbouring pixels need, and one to fill the processor's registers


def refine_cubes(cubes: np.ndarray, has_both: np.ndarray) -> np.ndarray:
    """Tops of the quadratic surfaces through `cubes` (n, 3, 3, 3: scale, y, x): dscale, dy, dx, height (4, n) float64.

    `has_both` (n, 3) is True along the axes with neighbours on both sides; along the others nothing moves. The top lies
    at minus the gradient, by central differences, over the Hessian (Brown & Lowe, BMVC 2002, eq. 3), each step cut at
    half a pixel or scale. Where the surface has no maximum, each axis has its own parabola.
    """
    out = np.empty((4, len(cubes)))
    _refine_all(np.ascontiguousarray(cubes, np.float64), has_both, out)
    return out


@functools.lru_cache(maxsize=16)
def compute_lagrange_weights(step: int) -> tuple[np.ndarray, np.ndarray]:
    """Lagrange weights of the pixels of a block (step x TAPS), and the first coarse pixel of each (step,)."""
    weights = np.empty((step, TAPS))
    firsts = np.empty(step, np.int64)
    for pixel in range(step):
        offset = (pixel + 0.5) / step - 0.5
        firsts[pixel] = math.floor(offset) - TAPS // 2 + 1
        nodes = firsts[pixel] + np.arange(TAPS)
        for k, node in enumerate(nodes):
            other_positions = np.delete(nodes, k)
            weights[pixel, k] = np.prod((offset - other_positions) / (node - other_positions))
    return weights, firsts


@numba.njit(nogil=True, cache=True)
def reflect_index(i, n):
    """Index `i` reflected at the edges of n pixels (d c b a | a b c d)."""
    while i < 0 or i >= n:
        i = -1 - i if i < 0 else 2 * n - 1 - i
    return i


@numba.njit(nogil=True, cache=True)
def differentiate(grid, sign, i, j, i_above, i_below, left, right):
    """Value, gradient (y, x) and Hessian (yy, xx, xy) at a pixel, by central differences."""
    c = sign * grid[i, j]
    n = sign * grid[i_above, j]
    s = sign * grid[i_below, j]
    e = sign * grid[i, right]
    t = sign * grid[i, left]
    xy = 0.25 * sign * (grid[i_below, right] - grid[i_below, left] - grid[i_above, right] + grid[i_above, left])
    gradient = (0.5 * (s - n), 0.5 * (e - t))
    hessian = (s + n - 2 * c, e + t - 2 * c, xy)
    return c, gradient, hessian


@numba.njit(nogil=True, cache=True)
def fill_neighbourhood(grid, step, weights, firsts, sign, y, x, height, width, line, plane):
    """Fill `plane` with the 3 x 3 values around pixel (y, x), times `sign`; -inf beyond the image.

    `line` is room for `WIDE` values. `step` is a power of two: a shift divides faster.
    """
    if step == 1:
        for a in range(3):
            for b in range(3):
                is_in = 0 <= y + a - 1 < height and 0 <= x + b - 1 < width
                plane[a, b] = sign * grid[y + a - 1, x + b - 1] if is_in else -np.inf
        return
    shift = 1
    mask = step - 1
    while step >> shift > 1:
        shift += 1
    h, w = grid.shape
    x0 = max(x - 1, 0)
    first_j = (x0 >> shift) + firsts[x0 & mask]
    for a in range(3):
        row = y + a - 1
        if not 0 <= row < height:
            plane[a] = -np.inf
            continue
        first_i = (row >> shift) + firsts[row & mask]
        along_y = weights[row & mask]
        line[:] = 0
        if first_j >= 0 and first_j + WIDE <= w and first_i >= 0 and first_i + TAPS <= h:
            for k in range(TAPS):
                weight = along_y[k]
                layer_values = grid[first_i + k, first_j : first_j + WIDE]
                for m in range(WIDE):
                    line[m] += weight * layer_values[m]
        else:
            for k in range(TAPS):
                weight = along_y[k]
                layer_values = grid[reflect_index(first_i + k, h)]
                for m in range(WIDE):
                    line[m] += weight * layer_values[reflect_index(first_j + m, w)]
        for b in range(3):
            column = x + b - 1
            if not 0 <= column < width:
                plane[a, b] = -np.inf
                continue
            u = weights[column & mask]
            v = line[(column >> shift) + firsts[column & mask] - first_j :]
            total = (u[0] * v[0] + u[1] * v[1]) + (u[2] * v[2] + u[3] * v[3])
            plane[a, b] = sign * (total + ((u[4] * v[4] + u[5] * v[5]) + (u[6] * v[6] + u[7] * v[7])))


@numba.njit(nogil=True, cache=True)
def refine_cube(cube, has_scales, has_rows, has_columns, out):
    """Fill `out` with dscale, dy, dx, top of the quadratic surface through `cube`, see refine_cubes()."""
    c = cube[1, 1, 1]
    g0 = g1 = g2 = h01 = h02 = h12 = 0.0
    h00 = h11 = h22 = -1.0
    if has_scales:
        g0 = 0.5 * (cube[2, 1, 1] - cube[0, 1, 1])
        h00 = cube[2, 1, 1] + cube[0, 1, 1] - 2 * c
    if has_rows:
        g1 = 0.5 * (cube[1, 2, 1] - cube[1, 0, 1])
        h11 = cube[1, 2, 1] + cube[1, 0, 1] - 2 * c
    if has_columns:
        g2 = 0.5 * (cube[1, 1, 2] - cube[1, 1, 0])
        h22 = cube[1, 1, 2] + cube[1, 1, 0] - 2 * c
    if has_scales and has_rows:
        h01 = 0.25 * (cube[2, 2, 1] - cube[2, 0, 1] - cube[0, 2, 1] + cube[0, 0, 1])
    if has_scales and has_columns:
        h02 = 0.25 * (cube[2, 1, 2] - cube[2, 1, 0] - cube[0, 1, 2] + cube[0, 1, 0])
    if has_rows and has_columns:
        h12 = 0.25 * (cube[1, 2, 2] - cube[1, 2, 0] - cube[1, 0, 2] + cube[1, 0, 0])
    m0 = h11 * h22 - h12 * h12
    m1 = h02 * h12 - h01 * h22
    m2 = h01 * h12 - h02 * h11
    det = h00 * m0 + h01 * m1 + h02 * m2
    if h00 < 0 and h00 * h11 - h01 * h01 > 0 and det < 0:
        d0 = -(m0 * g0 + m1 * g1 + m2 * g2) / det
        d1 = -(m1 * g0 + (h00 * h22 - h02 * h02) * g1 + (h01 * h02 - h00 * h12) * g2) / det
        d2 = -(m2 * g0 + (h01 * h02 - h00 * h12) * g1 + (h00 * h11 - h01 * h01) * g2) / det
    else:
        h01 = h02 = h12 = 0.0
        d0 = _locate_vertex(g0, h00)
        d1 = _locate_vertex(g1, h11)
        d2 = _locate_vertex(g2, h22)
    d0 = min(max(d0, -0.5), 0.5)
    d1 = min(max(d1, -0.5), 0.5)
    d2 = min(max(d2, -0.5), 0.5)
    top = c + g0 * d0 + g1 * d1 + g2 * d2 + 0.5 * (h00 * d0 * d0 + h11 * d1 * d1 + h22 * d2 * d2)
    top += h01 * d0 * d1 + h02 * d0 * d2 + h12 * d1 * d2
    out[0] = d0
    out[1] = d1
    out[2] = d2
    out[3] = max(top, c)


@numba.njit(nogil=True, cache=True)
def _locate_vertex(gradient, curvature):
    return -gradient / curvature if curvature < 0 else 0.0


@numba.njit(nogil=True, cache=True)
def _refine_all(cubes, has_both, out):
    refined_point = np.empty(4)
    for p in range(len(cubes)):
        refine_cube(cubes[p], has_both[p, 0], has_both[p, 1], has_both[p, 2], refined_point)
        out[:, p] = refined_point
