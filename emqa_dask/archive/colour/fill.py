"""Pixels that replace the marks on an image: the brightness and the noise of what surrounds them."""

from typing import NamedTuple

import cv2
import numpy as np
from scipy import ndimage

_CELL_PX = 16  # marks in neighbouring cells of so many rows and columns are filled together
_MAX_GROUPS = 256  # filled one by one; each takes as long as some 5,000 pixels
_NOISE_PX = 2  # half width of the window over which noise is measured
_BRIGHTNESS_PX = 8  # of the surroundings whose mean is the brightness
_MAX_NOISE_ROWS = 128  # in which noise is measured; more tell no more


def fill_annotations(grey: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`grey` (h, w) of uint8 or uint16, with pixels of `mask` replaced by the brightness and the noise around them.

    The brightness is the mean of the nearest pixels outside of the mask, the noise that of the pixels mirrored at its
    edge, without their objects: no detector finds anything there. All steps are of whole numbers, so that every
    computer gives the same pixels. An image that is covered as a whole stays as it is.
    """
    if not mask.any() or mask.all():
        return grey
    out = grey.copy()
    noise_limit = _measure_noise_limit(grey, mask)
    for marks in _list_groups(mask):
        surroundings = _find_surroundings(mask, marks)
        rows = _find_range(marks.y, surroundings.depth, surroundings.y, len(mask))
        columns = _find_range(marks.x, surroundings.depth, surroundings.x, mask.shape[1])
        is_ground = ~mask[rows, columns]
        ground = grey[rows, columns] * is_ground
        marks_there = marks.y - rows.start, marks.x - columns.start
        brightness = _average_windows(ground, is_ground, *marks_there, surroundings.depth + _BRIGHTNESS_PX)
        noise = np.clip(_measure_noise(ground, is_ground), -noise_limit, noise_limit)
        values = brightness + noise[surroundings.y - rows.start, surroundings.x - columns.start]
        out[marks.y, marks.x] = np.clip(values, 0, np.iinfo(grey.dtype).max)
    return out


def _measure_noise_limit(grey: np.ndarray, mask: np.ndarray) -> int:
    """Three times the median difference of neighbours outside of the mask, in some of the rows."""
    step = max(1, len(grey) // _MAX_NOISE_ROWS)
    values = grey[::step].astype(np.int32)
    is_covered = mask[::step]
    differences = np.abs(np.diff(values, axis=1))[~(is_covered[:, 1:] | is_covered[:, :-1])]
    return int(3 * np.median(differences)) if differences.size else 0


class _Marks(NamedTuple):
    """Pixels of a group of marks, and the rows and columns of a box that contains them and their nearest others."""

    y: np.ndarray
    x: np.ndarray
    rows: slice
    columns: slice


def _list_groups(mask: np.ndarray) -> list[_Marks]:
    """The marks of `mask` in groups that touch no other one; in fewer and larger groups where there are many."""
    cell_px = _CELL_PX
    labels, boxes = _label_cells(mask, cell_px)
    while len(boxes) > _MAX_GROUPS:
        cell_px *= 2
        labels, boxes = _label_cells(mask, cell_px)
    groups = []
    for label, (column, row, width, height, _) in enumerate(boxes.tolist(), start=1):
        # The nearest pixel outside of the mask is at most one pixel outside of the box.
        rows = slice(max(cell_px * row - 1, 0), cell_px * (row + height) + 1)
        columns = slice(max(cell_px * column - 1, 0), cell_px * (column + width) + 1)
        y, x = np.nonzero(mask[rows, columns])
        y += rows.start
        x += columns.start
        is_own = labels[y // cell_px, x // cell_px] == label
        groups.append(_Marks(y[is_own], x[is_own], rows, columns))
    return groups


def _label_cells(mask: np.ndarray, cell_px: int) -> tuple[np.ndarray, np.ndarray]:
    """The group of each cell, from 1, and the boxes of the groups as cv2.connectedComponentsWithStats() gives them."""
    starts = [np.arange(0, length, cell_px) for length in mask.shape]
    cells = np.bitwise_or.reduceat(np.bitwise_or.reduceat(mask, starts[0], axis=0), starts[1], axis=1)
    labels, boxes = cv2.connectedComponentsWithStats(cells.astype(np.uint8), connectivity=8)[1:3]
    return labels, boxes[1:]


class _Surroundings(NamedTuple):
    """For each pixel of a group of marks: its distance from the edge, rounded up, and the pixel whose noise it gets."""

    depth: np.ndarray
    y: np.ndarray
    x: np.ndarray


def _find_surroundings(mask: np.ndarray, marks: _Marks) -> _Surroundings:
    """The pixels mirrored at the nearest ones outside of the mask; these themselves where the mirrored are no better.

    They are no better outside of the image and in the mask.
    """
    box = mask[marks.rows, marks.columns]
    distances, nearest = ndimage.distance_transform_edt(box, return_indices=True)
    place = marks.y - marks.rows.start, marks.x - marks.columns.start
    y_near = nearest[0][place] + marks.rows.start
    x_near = nearest[1][place] + marks.columns.start
    y = 2 * y_near - marks.y
    x = 2 * x_near - marks.x
    is_outside = (y < 0) | (y >= mask.shape[0]) | (x < 0) | (x >= mask.shape[1])
    is_worse = is_outside | mask[np.where(is_outside, 0, y), np.where(is_outside, 0, x)]
    depth = np.ceil(distances[place]).astype(np.int64)
    return _Surroundings(depth, np.where(is_worse, y_near, y), np.where(is_worse, x_near, x))


def _average_windows(
    ground: np.ndarray, is_ground: np.ndarray, y: np.ndarray, x: np.ndarray, reach: np.ndarray
) -> np.ndarray:
    """Mean of the ground at most `reach` rows and columns from each (y, x), rounded down."""
    height, width = ground.shape
    top = np.maximum(y - reach, 0) * (width + 1)
    bottom = np.minimum(y + reach + 1, height) * (width + 1)
    start = np.maximum(x - reach, 0)
    stop = np.minimum(x + reach + 1, width)
    corners = np.stack([bottom + stop, top + stop, bottom + start, top + start])
    totals = []
    for values in (ground, is_ground.view(np.uint8)):
        sums = cv2.integral(values, sdepth=cv2.CV_64F).ravel()
        corner_sums = sums[corners]
        totals.append(corner_sums[0] - corner_sums[1] - corner_sums[2] + corner_sums[3])
    return np.floor(totals[0] / np.maximum(totals[1], 1)).astype(np.int32)


def _measure_noise(ground: np.ndarray, is_ground: np.ndarray) -> np.ndarray:
    """(h, w) of int32: the ground less its mean over windows, which is rounded down."""
    side = (2 * _NOISE_PX + 1,) * 2
    totals, counts = (
        cv2.boxFilter(values, cv2.CV_32F, side, normalize=False, borderType=cv2.BORDER_CONSTANT)
        for values in (ground, is_ground.view(np.uint8))
    )
    return ground.astype(np.int32) - np.floor(totals / np.maximum(counts, 1)).astype(np.int32)


def _find_range(positions: np.ndarray, depth: np.ndarray, noise_positions: np.ndarray, length: int) -> slice:
    """The rows or columns that the windows contain."""
    reach = depth + _BRIGHTNESS_PX
    start = min(int((positions - reach).min()), int(noise_positions.min()) - _NOISE_PX)
    stop = max(int((positions + reach).max()), int(noise_positions.max()) + _NOISE_PX) + 1
    return slice(max(start, 0), min(stop, length))
