"""Outlines of objects along the edges of their pixels, and runs along the rows of their boxes, from run lengths."""

from typing import NamedTuple

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from emqa_dask.mask_runs import decode_objects
from emqa_dask.review.exports.texts import format_numbers, join_columns, join_integers, join_lists

NORTH = 0  # directions in which an outline goes on, clockwise; north is towards the first row
EAST = 1
SOUTH = 2
WEST = 3


class Rings(NamedTuple):
    """Closed outlines of n objects; the first point is not repeated."""

    points: NDArray[np.float64]  # (m, 2): x, y, px; pixels have their corners at whole numbers
    point_offsets: NDArray[np.int64]  # (r + 1,)
    ring_offsets: NDArray[np.int64]  # (n + 1,): the rings of each object, at least one
    areas_px: NDArray[np.float64]  # (r,): negative for a hole

    def select_largest(self) -> "Rings":
        """The ring of the largest area of each object."""
        n = len(self.ring_offsets) - 1
        owners = np.repeat(np.arange(n), np.diff(self.ring_offsets))
        order = np.lexsort((-self.areas_px, owners))
        return self._take(order[np.searchsorted(owners[order], np.arange(n))], np.arange(n + 1))

    def drop_holes(self) -> "Rings":
        """The rings that are no holes."""
        owners = np.repeat(np.arange(len(self.ring_offsets) - 1), np.diff(self.ring_offsets))
        rows = np.flatnonzero(self.areas_px > 0)
        return self._take(rows, np.searchsorted(owners[rows], np.arange(len(self.ring_offsets))))

    def _take(self, rings: NDArray, ring_offsets: NDArray) -> "Rings":
        lengths = np.diff(self.point_offsets)[rings]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        points = np.repeat(self.point_offsets[rings] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Rings(self.points[points], offsets, ring_offsets, self.areas_px[rings])

    def close(self) -> "Rings":
        """The rings with their first point repeated at the end."""
        lengths = np.diff(self.point_offsets)
        offsets = self.point_offsets + np.arange(len(self.point_offsets))
        positions = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths + 1)
        is_end = positions == np.repeat(lengths, lengths + 1)
        points = np.repeat(self.point_offsets[:-1], lengths + 1) + np.where(is_end, 0, positions)
        return self._replace(points=self.points[points], point_offsets=offsets)

    def join_points(self, form: tuple[str, str, str, str]) -> pa.Array:
        """The points of each ring as one text; `form` as for texts.join_integers()."""
        if (self.points % 1 == 0).all():
            return join_integers(self.points, self.point_offsets, form)
        x, y = (format_numbers(column) for column in self.points.T.copy())
        return join_lists(join_columns(form[0], x, form[1], y, form[2]), self.point_offsets, form[3])


def decode_masks(counts: pa.ChunkedArray, heights: NDArray) -> tuple[NDArray, NDArray]:
    """Runs and offsets of masks, see emqa_dask.mask_runs; no run for null. `heights` (n,): rows of their images."""
    array = counts.combine_chunks().fill_null("")
    if not len(array):
        return np.zeros((0, 3), np.int64), np.zeros(1, np.int64)
    _, offset_buffer, data = array.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32)[array.offset : array.offset + len(array) + 1].astype(np.int64)
    text = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    return decode_objects(text[offsets[0] : offsets[-1]], offsets[1:] - offsets[0], np.asarray(heights, np.int64))


def trace_objects(objects: pa.Table, heights: NDArray) -> Rings:
    """Outlines of the masks of `objects`; an object without a mask has the corners of its box."""
    runs, offsets = decode_masks(objects["mask_rle"], heights)
    points, point_offsets, ring_offsets = _trace_masks(runs, offsets)
    lengths = np.diff(ring_offsets)
    boxed = np.flatnonzero(lengths == 0)
    if len(boxed):
        points, point_offsets, ring_offsets = _insert_boxes(objects, boxed, points, point_offsets, ring_offsets)
    areas = _measure_rings(points.astype(np.float64), point_offsets)
    return Rings(points.astype(np.float64), point_offsets, ring_offsets, areas)


def _insert_boxes(
    objects: pa.Table, boxed: NDArray, points: NDArray, point_offsets: NDArray, ring_offsets: NDArray
) -> tuple[NDArray, NDArray, NDArray]:
    """The rings with those of the boxes of the objects `boxed`, which have none."""
    box = {name: objects[name].to_numpy()[boxed] for name in ("y0", "x0", "y1", "x1")}
    corners = np.stack([box["x0"], box["y0"], box["x1"], box["y0"], box["x1"], box["y1"], box["x0"], box["y1"]], axis=1)
    rings = ring_offsets[boxed]
    new_points = np.insert(
        points.astype(np.float64), np.repeat(point_offsets[rings], 4), corners.reshape(-1, 2), axis=0
    )
    lengths = np.insert(np.diff(point_offsets), rings, 4)
    counts = np.diff(ring_offsets)
    counts[boxed] = 1
    return new_points, np.concatenate([[0], np.cumsum(lengths)]), np.concatenate([[0], np.cumsum(counts)])


@numba.njit(nogil=True, cache=True)
def _measure_rings(points: NDArray, offsets: NDArray) -> NDArray:
    """Areas of rings, positive where the object is inside."""
    areas = np.zeros(len(offsets) - 1)
    for k in range(len(areas)):
        previous = offsets[k + 1] - 1
        for i in range(offsets[k], offsets[k + 1]):
            areas[k] += points[previous, 0] * points[i, 1] - points[i, 0] * points[previous, 1]
            previous = i
    return areas / 2


@numba.njit(nogil=True, cache=True)
def _draw(runs: NDArray) -> tuple[int, int, NDArray]:
    """First row, first column and pixels of an object, with a margin of one pixel."""
    y0 = runs[:, 1].min()
    x0 = runs[0, 0]
    pixels = np.zeros((runs[:, 2].max() - y0 + 2, runs[-1, 0] - x0 + 3), np.uint8)
    for i in range(len(runs)):
        pixels[runs[i, 1] - y0 + 1 : runs[i, 2] - y0 + 1, runs[i, 0] - x0 + 1] = 1
    return y0 - 1, x0 - 1, pixels


@numba.njit(nogil=True, cache=True)
def _trace_masks(runs: NDArray, offsets: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Points (m, 2: x, y), point offsets and ring offsets of n masks.

    Every corner is at an end of a run, so that 4 points per run are enough. Pixels that touch at a corner alone are in
    different rings.
    """
    points = np.empty((4 * len(runs), 2), np.int64)
    point_offsets = np.zeros(2 * len(runs) + 1, np.int64)
    ring_offsets = np.zeros(len(offsets), np.int64)
    n_rings = 0
    m = 0
    for k in range(len(offsets) - 1):
        if offsets[k] < offsets[k + 1]:
            y0, x0, pixels = _draw(runs[offsets[k] : offsets[k + 1]])
            m, n_rings = _trace_object(pixels, y0, x0, points, m, point_offsets, n_rings)
        ring_offsets[k + 1] = n_rings
    return points[:m].copy(), point_offsets[: n_rings + 1].copy(), ring_offsets


@numba.njit(nogil=True, cache=True)
def _trace_object(
    pixels: NDArray, y0: int, x0: int, points: NDArray, m: int, point_offsets: NDArray, n_rings: int
) -> tuple[int, int]:
    """Write the rings of a drawn object; returns the numbers of points and rings after it."""
    for y in range(1, pixels.shape[0] - 1):
        for x in range(1, pixels.shape[1] - 1):
            # Bit 2: the upper edge of the pixel is in a ring already.
            if pixels[y, x] & 1 and not pixels[y - 1, x] & 1 and not pixels[y, x] & 2:
                m = _trace_ring(pixels, y, x, y0, x0, points, m)
                n_rings += 1
                point_offsets[n_rings] = m
    return m, n_rings


@numba.njit(nogil=True, cache=True)
def _trace_ring(pixels: NDArray, y: int, x: int, y0: int, x0: int, points: NDArray, m: int) -> int:
    """Write the corners of the ring along the upper edge of pixel (y, x) from `m` on, the object to the right of it."""
    first = m
    direction = EAST
    corner_y = y
    corner_x = x
    while True:
        if direction == EAST:
            pixels[corner_y, corner_x] |= 2
            corner_x += 1
        elif direction == SOUTH:
            corner_y += 1
        elif direction == WEST:
            corner_x -= 1
        else:
            corner_y -= 1
        # The pixels ahead, to the left and to the right of the way.
        ahead_y = corner_y - 1 if direction == NORTH else corner_y
        ahead_x = corner_x - 1 if direction == WEST else corner_x
        if direction == EAST:
            left, right = pixels[corner_y - 1, corner_x] & 1, pixels[corner_y, corner_x] & 1
        elif direction == SOUTH:
            left, right = pixels[corner_y, corner_x] & 1, pixels[corner_y, corner_x - 1] & 1
        elif direction == WEST:
            left, right = pixels[corner_y, ahead_x] & 1, pixels[corner_y - 1, ahead_x] & 1
        else:
            left, right = pixels[ahead_y, corner_x - 1] & 1, pixels[ahead_y, corner_x] & 1
        if right and not left:
            continue
        points[m, 0] = corner_x + x0
        points[m, 1] = corner_y + y0
        m += 1
        direction = (direction + (3 if right else 1)) % 4
        if direction == EAST and corner_y == y and corner_x == x and m > first:
            return m


@numba.njit(nogil=True, cache=True)
def find_row_lengths(runs: NDArray, offsets: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Stretches of 0 and 1, in turn, along the rows of the boxes of n masks; offsets; boxes (n, 4: y, x, h, w)."""
    boxes = np.zeros((len(offsets) - 1, 4), np.int64)
    length_offsets = np.zeros(len(offsets), np.int64)
    n_pixels = 0
    for k in range(len(boxes)):
        if offsets[k] < offsets[k + 1]:
            own_runs = runs[offsets[k] : offsets[k + 1]]
            boxes[k, 0] = own_runs[:, 1].min()
            boxes[k, 1] = own_runs[0, 0]
            boxes[k, 2] = own_runs[:, 2].max() - boxes[k, 0]
            boxes[k, 3] = own_runs[-1, 0] - boxes[k, 1] + 1
            n_pixels += boxes[k, 2] * boxes[k, 3] + 1
    lengths = np.zeros(n_pixels, np.int64)
    m = 0
    for k in range(len(boxes)):
        if offsets[k] < offsets[k + 1]:
            _, _, pixels = _draw(runs[offsets[k] : offsets[k + 1]])
            m = _append_lengths(pixels[1:-1, 1:-1], lengths, m)
        length_offsets[k + 1] = m
    return lengths[:m].copy(), length_offsets, boxes


@numba.njit(nogil=True, cache=True)
def _append_lengths(pixels: NDArray, lengths: NDArray, m: int) -> int:
    value = 0
    lengths[m] = 0
    for y in range(pixels.shape[0]):
        for x in range(pixels.shape[1]):
            if pixels[y, x] != value:
                value = 1 - value
                m += 1
                lengths[m] = 0
            lengths[m] += 1
    return m + 1
