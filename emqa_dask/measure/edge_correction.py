"""Weights that correct the number and the sizes of objects for those that the edge of the image cuts."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

EDGE_MARGIN_PX = 1.0  # an object nearer to the edge may continue behind it: boxes of networks are this uncertain
MIN_RANGE_FRACTION = 0.1  # of a side: an object nearly as large as the image counts at most 100 times


def compute_edge_weights(boxes: ArrayLike, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Edge weights of n objects: 0 for those that the edge of the image cuts, at least 1 for the others.

    An object that is not cut stands for all of its size, of which those near the edge are cut: its weight is the area
    of the image over the area of the positions at which the image contains it whole. The sum of the weights is an
    unbiased estimate of the number of objects with centres in the image, and weighted sizes are unbiased, too. Objects
    larger than 0.9 of a side have the weight of one that large, so that one false detection is not all that counts.

    Parameters
    ----------
    boxes : array (n, 4)
        y0, x0, y1, x1 of the bounding boxes, half-open, px; clipped to the image.
    shape : tuple of int
        Height and width of the image, px.

    Returns
    -------
    array (n,) of float

    References
    ----------
    Miles, Springer Lect. Notes Biomath. 23 (1978) 115; Lantuejoul, J. Microsc. 151 (1988) 167.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    size = np.array(shape, np.float64)
    is_whole = ((boxes[:, :2] >= EDGE_MARGIN_PX) & (boxes[:, 2:] <= size - EDGE_MARGIN_PX)).all(axis=1)
    ranges = np.maximum(size - 2 * EDGE_MARGIN_PX - (boxes[:, 2:] - boxes[:, :2]), MIN_RANGE_FRACTION * size)
    return np.where(is_whole, size.prod() / ranges.prod(axis=1), 0.0)
