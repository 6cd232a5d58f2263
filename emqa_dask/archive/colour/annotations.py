"""Coloured annotations on a grey image: which pixels they cover."""

import cv2
import numpy as np

from emqa_dask.archive.colour.luma import split_channels

STRONG = 20  # chroma of 255; above: a coloured pixel (8 %)
_WEAK = 6  # chroma of 255; above: more than the rounding of a grey pixel
_REACH_PX = 16  # around coloured pixels: a block of JPEG with colours at half the resolution
_EDGE_PX = 2  # of a mark, that smoothing or compression changed
MAX_COVERED = 0.3  # of the image; more of it cannot be made up
_MAX_COVERED_FREELY = 0.05  # of the image, by marks of any number of colours
_MIN_FLAT = 0.5  # of the pixels of larger marks, in their eight most frequent colours
_MAX_WEAK = 0.005  # of the image; above: it has colours besides the marks
_MAX_HOLE_PX = 256  # enclosed by a mark: a letter in a coloured box, not the inside of a frame


def find_annotations(rgb: np.ndarray, chroma: np.ndarray) -> np.ndarray | None:
    """(h, w) mask of the coloured marks on an otherwise grey image (h, w, 3) of uint8; None where it is not grey."""
    strong = chroma > STRONG
    covered = np.count_nonzero(strong) / strong.size
    if covered > MAX_COVERED or (covered > _MAX_COVERED_FREELY and not _is_flat(rgb, strong)):
        return None
    weak = chroma > _WEAK
    marks = weak & _dilate(strong, _REACH_PX)
    if np.count_nonzero(weak) - np.count_nonzero(marks) > _MAX_WEAK * strong.size:
        return None
    mask = _fill_holes(_dilate(marks, _EDGE_PX))
    return mask if np.count_nonzero(mask) <= MAX_COVERED * mask.size else None


def _is_flat(rgb: np.ndarray, marks: np.ndarray) -> bool:
    """Whether few colours make up most of the marks."""
    red, green, blue = split_channels(rgb)
    cells = red.astype(np.uint16) >> 4 << 8 | green & 0xF0 | blue >> 4
    counts = np.sort(np.bincount(cells[marks], minlength=4096))
    return bool(counts[-8:].sum() >= _MIN_FLAT * counts.sum())


def _dilate(mask: np.ndarray, distance_px: int) -> np.ndarray:
    kernel = np.ones((2 * distance_px + 1, 2 * distance_px + 1), np.uint8)
    return cv2.dilate(mask.view(np.uint8), kernel).view(bool)


def _fill_holes(mask: np.ndarray) -> np.ndarray:
    """`mask` with the small areas that it encloses."""
    labels, areas = cv2.connectedComponentsWithStats((~mask).view(np.uint8), connectivity=4)[1:3]
    is_small = areas[:, cv2.CC_STAT_AREA] <= _MAX_HOLE_PX
    is_small[0] = False  # the mask itself
    return mask | np.take(is_small, labels) if is_small.any() else mask
