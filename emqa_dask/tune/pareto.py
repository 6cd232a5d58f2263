"""Pareto front of objectives, its hypervolume, and the choice of one of its rows."""

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

DISTANCES = ("euclidean", "chebyshev")


def check_objectives(objectives: ArrayLike) -> NDArray[np.float64]:
    """`objectives` as n x m float64, a row per setting, all to be minimised; an empty sequence gives 0 x 1.

    Raises ValueError for another number of dimensions.
    """
    array = np.asarray(objectives, np.float64)
    if array.size == 0 and array.ndim < 2:
        return array.reshape(0, 1)
    if array.ndim != 2:
        raise ValueError(f"objectives have shape {array.shape}: it has to be (settings, objectives)")
    return array


def find_pareto_front(objectives: ArrayLike) -> NDArray[np.bool_]:
    """Mask (n,) bool of the rows of `objectives` (n x m) that no other row dominates.

    A row dominates another when it is nowhere larger and somewhere smaller. Equal rows stay together. A row with NaN
    or infinity never belongs to the front and dominates nothing. No rows give an empty array.
    """
    array = check_objectives(objectives)
    finite = np.isfinite(array).all(axis=1)
    front = finite.copy()
    for i in np.flatnonzero(finite):
        finite_rows = array[finite]
        front[i] = not ((finite_rows <= array[i]).all(axis=1) & (finite_rows < array[i]).any(axis=1)).any()
    return front


def compute_hypervolume(objectives: ArrayLike, reference: ArrayLike) -> float:
    """Volume that `objectives` (n x m) dominate below `reference` (m,), in the product of the objectives' units.

    Exact: a sum of rectangles for two objectives, moocore (Fonseca et al., CEC 2006) for more. Rows that are not finite
    or not below the reference add nothing; no rows give 0. Raises ValueError for a reference of another length.
    """
    array = check_objectives(objectives)
    reference = np.asarray(reference, np.float64).ravel()
    if len(array) == 0:
        return 0.0
    if array.shape[1] != len(reference):
        raise ValueError(f"the reference has {len(reference)} values for {array.shape[1]} objectives")
    array = array[np.isfinite(array).all(axis=1)]
    array = array[(array < reference).all(axis=1)]
    if len(array) == 0:
        return 0.0
    array = np.unique(array[find_pareto_front(array)], axis=0)
    if array.shape[1] > 2:
        return float(moocore.hypervolume(array, ref=reference))
    if array.shape[1] == 1:
        return float(reference[0] - array[0, 0])
    widths = np.append(array[1:, 0], reference[0]) - array[:, 0]
    return float((widths * (reference[1] - array[:, 1])).sum())


def compute_hypervolume_history(objectives: ArrayLike, reference: ArrayLike) -> NDArray[np.float64]:
    """The hypervolume of the first 1, 2, ..., n rows of `objectives`: (n,), never falling."""
    array = check_objectives(objectives)
    return np.array([compute_hypervolume(array[: k + 1], reference) for k in range(len(array))])


def normalise_objectives(objectives: ArrayLike, min_range: ArrayLike = 0.0) -> NDArray[np.float64]:
    """`objectives` (n x m) with their Pareto front's smallest value at 0 and its largest at 1, objective by objective.

    An objective that spans less than `min_range` (one number, or one for each objective, in its units) is divided by
    that instead: a front of 0.2 % to 0.5 % must not weigh as much as one of 2 % to 20 %. One that is constant is only
    shifted. Rows off the front may exceed 1. Without a finite row everything is NaN.
    """
    array = check_objectives(objectives)
    front = array[find_pareto_front(array)]
    if len(front) == 0:
        return np.full(array.shape, np.nan)
    low = front.min(axis=0)
    high = front.max(axis=0)
    span = np.maximum(high - low, min_range)
    return (array - low) / np.where(span > 0, span, 1.0)


def select_nearest_to_ideal(objectives: ArrayLike, distance: str = "euclidean", min_range: ArrayLike = 0.0) -> int:
    """The row of `objectives` (n x m) on the Pareto front that is nearest to the ideal point (the front's minima).

    `distance` is "euclidean" or "chebyshev", taken after normalisation over the front (Barakati et al., Physics-based
    reward driven image analysis in microscopy; `min_range` see `normalise_objectives`). Ties are decided by the other
    distance, then by the smaller first objective (and second, ...), then by the order of rows. Raises ValueError for an
    unknown distance, and when no row is finite.
    """
    if distance not in DISTANCES:
        raise ValueError(f"distance is {distance!r}: it is one of {', '.join(DISTANCES)}")
    front = np.flatnonzero(find_pareto_front(objectives))
    if len(front) == 0:
        raise ValueError("no setting has finite objectives: check the rewards and the search's bounds")
    unit = normalise_objectives(objectives, min_range)[front]
    lengths = {"euclidean": np.sqrt((unit**2).sum(axis=1)), "chebyshev": unit.max(axis=1)}
    first = lengths.pop(distance)
    (second,) = lengths.values()
    # Without rounding, float errors would decide between points at equal distance.
    keys = [np.round(key, 9) for key in (first, second, *unit.T)]
    return int(front[np.lexsort((front, *keys[::-1]))[0]])
