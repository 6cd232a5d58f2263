"""Mean distance of objects to their nearest neighbours."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import KDTree


def compute_neighbour_distance(centres: ArrayLike, shape: tuple[int, int]) -> float:
    """Mean distance from an object's centre to the nearest other centre, px; NaN where the edge hides all neighbours.

    Counts the objects that are nearer to their neighbour than to the edge of the image, since a nearer neighbour of
    the others may lie outside. Each has a weight of one over the area in which such an object can lie, because distant
    neighbours occur in this way only near the middle.

    Parameters
    ----------
    centres : array (n, 2)
        y, x, px; the centre of a pixel is a whole number.
    shape : tuple of int
        Height and width of the image, px.

    References
    ----------
    Hanisch, Math. Operationsforsch. Stat., Ser. Stat. 15 (1984) 409.
    """
    points = np.asarray(centres, np.float64).reshape(-1, 2) + 0.5
    if len(points) < 2:
        return float("nan")
    size = np.array(shape, np.float64)
    distance = KDTree(points).query(points, k=2)[0][:, 1]
    is_inside = distance < np.minimum(points, size - points).min(axis=1)
    if not is_inside.any():
        return float("nan")
    inner_sides = size - 2 * distance[is_inside, None]  # > 0, since the object lies between the edges
    return float(np.average(distance[is_inside], weights=1 / inner_sides.prod(axis=1)))
