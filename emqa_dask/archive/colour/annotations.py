"""Coloured annotations on a grey image: which pixels they cover, and what replaces them."""

import cv2
import numpy as np
from scipy import ndimage

STRONG = 20  # chroma of 255; above: a coloured pixel (8 %)
_WEAK = 6  # chroma of 255; above: more than the rounding of a grey pixel
_REACH_PX = 16  # around coloured pixels: a block of JPEG with colours at half the resolution
_EDGE_PX = 2  # of a mark, that smoothing or compression changed
MAX_COVERED = 0.3  # of the image; more of it cannot be made up
_MAX_COVERED_FREELY = 0.05  # of the image, by marks of any number of colours
_MIN_FLAT = 0.5  # of the pixels of larger marks, in their eight most frequent colours
_MAX_WEAK = 0.005  # of the image; above: it has colours besides the marks
_MAX_HOLE_PX = 256  # enclosed by a mark: a letter in a coloured box, not the inside of a frame
_NOISE_PX = 2  # half width of the window over which noise is measured
_MAX_NOISE_ROWS = 128  # in which noise is measured; more tell no more
_MARGIN_PX = 48  # around a group of marks, from which it is filled


def find_annotations(rgb: np.ndarray, chroma: np.ndarray) -> np.ndarray | None:
    """(h, w) mask of the coloured marks on an otherwise grey image (h, w, 3) of uint8; None where it is not grey."""
    strong = chroma > STRONG
    covered = np.count_nonzero(strong) / strong.size
    if covered > MAX_COVERED or (covered > _MAX_COVERED_FREELY and not _is_flat(rgb[strong])):
        return None
    weak = chroma > _WEAK
    neighbourhood = _dilate(strong, _REACH_PX)
    if np.count_nonzero(weak & ~neighbourhood) > _MAX_WEAK * strong.size:
        return None
    mask = _fill_holes(_dilate(weak & neighbourhood, _EDGE_PX))
    return mask if np.count_nonzero(mask) <= MAX_COVERED * mask.size else None


def _is_flat(colours: np.ndarray) -> bool:
    """Whether few colours, of (n, 3), make up most of the marks."""
    cells = (colours[:, 0] >> 4).astype(int) << 8 | (colours[:, 1] >> 4).astype(int) << 4 | (colours[:, 2] >> 4)
    counts = np.sort(np.bincount(cells, minlength=4096))
    return bool(counts[-8:].sum() >= _MIN_FLAT * len(colours))


def _dilate(mask: np.ndarray, distance_px: int) -> np.ndarray:
    kernel = np.ones((2 * distance_px + 1, 2 * distance_px + 1), np.uint8)
    return cv2.dilate(mask.astype(np.uint8), kernel).astype(bool)


def _fill_holes(mask: np.ndarray) -> np.ndarray:
    """`mask` with the small areas that it encloses."""
    labels, areas = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)[1:3]
    is_small = areas[:, cv2.CC_STAT_AREA] <= _MAX_HOLE_PX
    is_small[0] = False  # the mask itself
    return mask | is_small[labels] if is_small.any() else mask


def fill_annotations(grey: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`grey` (h, w) of integers, with pixels of `mask` replaced by the brightness and the noise around them.

    The brightness is the mean of the nearest pixels outside of the mask, the noise that of the pixels mirrored at its
    edge, without their objects: no detector finds anything there. All steps are of integers, so that every computer
    gives the same pixels. An image that is covered as a whole stays as it is.
    """
    if not mask.any() or mask.all():
        return grey
    out = grey.copy()
    noise_limit = _measure_noise_limit(grey, mask)
    for window in _list_windows(mask):
        if not mask[window].all():
            _fill_window(out[window], grey[window], mask[window], noise_limit)
    return out


def _list_windows(mask: np.ndarray) -> list[tuple[slice, slice]]:
    """Rows and columns around each group of marks; the whole image where windows would overlap to more than that."""
    groups = _dilate(mask, _REACH_PX).astype(np.uint8)
    boxes = cv2.connectedComponentsWithStats(groups, connectivity=4)[2][1:]
    starts = np.maximum(boxes[:, :2] - _MARGIN_PX, 0)  # x, y
    stops = np.minimum(boxes[:, :2] + boxes[:, 2:4] + _MARGIN_PX, mask.shape[::-1])
    if np.prod(stops - starts, axis=1, dtype=np.int64).sum() >= mask.size:
        return [(slice(0, mask.shape[0]), slice(0, mask.shape[1]))]
    return [
        (slice(start[1], stop[1]), slice(start[0], stop[0])) for start, stop in zip(starts.tolist(), stops.tolist())
    ]


def _measure_noise_limit(grey: np.ndarray, mask: np.ndarray) -> int:
    """Three times the median difference of neighbours outside of the mask, in some of the rows."""
    step = max(1, len(grey) // _MAX_NOISE_ROWS)
    values = grey[::step].astype(np.int64)
    is_covered = mask[::step]
    differences = np.abs(np.diff(values, axis=1))[~(is_covered[:, 1:] | is_covered[:, :-1])]
    return int(3 * np.median(differences)) if differences.size else 0


def _fill_window(out: np.ndarray, grey: np.ndarray, mask: np.ndarray, noise_limit: int) -> None:
    height, width = grey.shape
    distances, nearest = ndimage.distance_transform_edt(mask, return_indices=True)
    y, x = np.nonzero(mask)
    depth = np.ceil(distances[y, x]).astype(np.int64)
    sums = _Sums(grey, ~mask)
    brightness = sums.average(y, x, depth + 8)
    y_mirrored = 2 * nearest[0][y, x].astype(np.int64) - y
    x_mirrored = 2 * nearest[1][y, x].astype(np.int64) - x
    is_outside = (y_mirrored < 0) | (y_mirrored >= height) | (x_mirrored < 0) | (x_mirrored >= width)
    y_mirrored = np.where(is_outside, nearest[0][y, x], y_mirrored)
    x_mirrored = np.where(is_outside, nearest[1][y, x], x_mirrored)
    is_masked = mask[y_mirrored, x_mirrored]
    y_mirrored = np.where(is_masked, nearest[0][y, x], y_mirrored)
    x_mirrored = np.where(is_masked, nearest[1][y, x], x_mirrored)
    smooth = sums.average(y_mirrored, x_mirrored, np.full(len(y), _NOISE_PX))
    noise = np.clip(grey[y_mirrored, x_mirrored].astype(np.int64) - smooth, -noise_limit, noise_limit)
    limits = np.iinfo(grey.dtype)
    out[y, x] = np.clip(brightness + noise, limits.min, limits.max)


class _Sums:
    """Means over windows of the pixels of an image that count."""

    def __init__(self, grey: np.ndarray, counts: np.ndarray):
        self.totals = _sum_up(np.where(counts, grey, 0))
        self.counts = _sum_up(counts)

    def average(self, y: np.ndarray, x: np.ndarray, reach: np.ndarray) -> np.ndarray:
        """Mean of the pixels that count, at most `reach` rows and columns from each (y, x), rounded down."""
        height, width = (n - 1 for n in self.totals.shape)
        ends = [np.clip(v, 0, n) for v, n in ((y - reach, height), (y + reach + 1, height))]
        sides = [np.clip(v, 0, n) for v, n in ((x - reach, width), (x + reach + 1, width))]
        total, n_counted = (
            table[ends[1], sides[1]] - table[ends[0], sides[1]] - table[ends[1], sides[0]] + table[ends[0], sides[0]]
            for table in (self.totals, self.counts)
        )
        return total // np.maximum(n_counted, 1)


def _sum_up(values: np.ndarray) -> np.ndarray:
    """Integral image, with a row and a column of zeros in front."""
    sums = np.zeros((values.shape[0] + 1, values.shape[1] + 1), np.int64)
    np.cumsum(np.cumsum(values, axis=0, dtype=np.int64), axis=1, out=sums[1:, 1:])
    return sums
