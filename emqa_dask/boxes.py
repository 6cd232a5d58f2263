"""Boxes (y0, x0, y1, x1; half-open; px): area, IoU, and matching of predicted to true boxes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

RULES = ("greedy", "optimal")
_MAX_CANDIDATES = 4_000_000  # pairs held at a time: about 200 MB


@dataclass(frozen=True)
class Match:
    """Counts of one image's matching, and `pairs`: k x 2 int64, the indices (predicted, true) that belong together."""

    tp: int
    fp: int
    fn: int
    pairs: NDArray[np.int64]

    @property
    def precision(self) -> float:
        """tp / (tp + fp); NaN without predictions."""
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else np.nan

    @property
    def recall(self) -> float:
        """tp / (tp + fn); NaN without true boxes."""
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else np.nan

    @property
    def f1(self) -> float:
        """2 tp / (2 tp + fp + fn): 0 when nothing matches; NaN only when there is neither a prediction nor a truth."""
        total = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / total if total else np.nan


def as_boxes(boxes: ArrayLike) -> NDArray[np.float64]:
    """`boxes` as n x 4 float64; an empty sequence gives 0 x 4.

    Raises ValueError for another shape, for NaN or infinite coordinates, and for y1 < y0 or x1 < x0.
    """
    array = np.asarray(boxes, dtype=np.float64)
    if array.size == 0:
        return np.zeros((0, 4))
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"boxes have shape {array.shape}: it has to be (n, 4), each y0, x0, y1, x1")
    if not np.isfinite(array).all():
        raise ValueError("boxes hold NaN or infinite coordinates")
    if (array[:, 2:] < array[:, :2]).any():
        row = int(np.flatnonzero((array[:, 2:] < array[:, :2]).any(axis=1))[0])
        raise ValueError(f"box {row} is {array[row].tolist()}: y1 and x1 cannot be below y0 and x0")
    return array


def compute_areas(boxes: ArrayLike) -> NDArray[np.float64]:
    """Areas of n boxes, square px; (0,) for none."""
    boxes = as_boxes(boxes)
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def compute_iou(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union of every pair, len(a) x len(b), in [0, 1]; 0 for boxes without area.

    Dense: for thousands of boxes on each side use find_overlaps(), which gives only the pairs that touch.
    """
    a = as_boxes(a)
    b = as_boxes(b)
    return _compute_pair_iou(a[:, None], b[None])


def _compute_pair_iou(a: NDArray, b: NDArray) -> NDArray[np.float64]:
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    intersection_areas = sides.clip(min=0).prod(axis=-1)
    union = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1) - intersection_areas
    return np.divide(intersection_areas, union, out=np.zeros_like(intersection_areas), where=union > 0)


def find_overlaps(a: ArrayLike, b: ArrayLike, iou_threshold: float) -> tuple[NDArray, NDArray, NDArray]:
    """Pairs (i in a, j in b) of IoU >= `iou_threshold`, in (0, 1]: int64 i, int64 j and their IoU, ordered by i, j.

    A sweep over rows: b is sorted by y0, and only its stretch that can reach the rows of a[i] is compared, so memory
    stays small with thousands of boxes on each side.
    """
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold is {iou_threshold}: it has to be in (0, 1]")
    a = as_boxes(a)
    b = as_boxes(b)
    pairs = [np.zeros((3, 0))]
    for i, j in _iterate_overlapping_pairs(a, b):
        value = _compute_pair_iou(a[i], b[j])
        keep = value >= iou_threshold
        pairs.append(np.stack([i[keep], j[keep], value[keep]]))
    i, j, value = np.concatenate(pairs, axis=1)
    order = np.lexsort((j, i))
    return i[order].astype(np.int64), j[order].astype(np.int64), value[order]


def _iterate_overlapping_pairs(a: NDArray, b: NDArray) -> Iterator[tuple[NDArray, NDArray]]:
    """Pairs (i, j) of boxes that overlap, a bounded number at a time."""
    if len(a) == 0 or len(b) == 0:
        return
    order = np.argsort(b[:, 0], kind="stable")
    tops = b[order, 0]
    first = np.searchsorted(tops, a[:, 0] - (b[:, 2] - b[:, 0]).max(), side="left")
    lengths = np.searchsorted(tops, a[:, 2], side="left") - first
    batch = np.cumsum(lengths) // _MAX_CANDIDATES
    for rows in np.split(np.arange(len(a)), np.flatnonzero(np.diff(batch)) + 1):
        n = lengths[rows]
        i = np.repeat(rows, n)
        j = order[np.arange(n.sum()) - np.repeat(np.cumsum(n) - n - first[rows], n)]
        touch = (a[i, 1] < b[j, 3]) & (b[j, 1] < a[i, 3]) & (a[i, 0] < b[j, 2])
        yield i[touch], j[touch]


def match_boxes(predicted: ArrayLike, true: ArrayLike, iou_threshold: float = 0.1, rule: str = "greedy") -> Match:
    """One-to-one matching of predicted to true boxes; classes and scores are not used.

    Parameters
    ----------
    predicted, true : array (n, 4), array (m, 4)
        Boxes y0, x0, y1, x1, px, half-open.
    iou_threshold : float
        Smallest intersection over union of a match, in (0, 1].
    rule : {"greedy", "optimal"}
        "greedy": each true box, in order, takes the remaining prediction of the largest IoU, of equals the first.
        "optimal": the assignment with the most matches and, among those, the largest sum of IoU (Hungarian method).

    Returns
    -------
    Match
        Counts of true positives, false positives and false negatives, and the pairs of indices. Empty inputs match
        nothing.

    Raises
    ------
    ValueError
        For an unknown rule, a threshold outside (0, 1] and malformed boxes.

    References
    ----------
    Li et al., Digital Discovery 4 (2025) 987: the greedy rule, as in the released code.
    """
    scores = np.zeros(len(as_boxes(predicted)))
    return match_boxes_above(predicted, scores, true, [0.0], iou_threshold, rule)[0]


def match_boxes_above(
    predicted: ArrayLike,
    scores: ArrayLike,
    true: ArrayLike,
    score_floors: Sequence[float],
    iou_threshold: float = 0.1,
    rule: str = "greedy",
) -> list[Match]:
    """match_boxes() of those `predicted` boxes whose scores (n,) reach each floor, by one search for overlaps.

    The pairs have the indices of all boxes.
    """
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}: it is one of {', '.join(RULES)}")
    predicted = as_boxes(predicted)
    true = as_boxes(true)
    scores = np.asarray(scores, dtype=np.float64)
    t, p, value = find_overlaps(true, predicted, iou_threshold)
    matches = []
    for floor in score_floors:
        n_counted = int((scores >= floor).sum())
        is_counted = scores[p] >= floor
        candidates = (p[is_counted], t[is_counted], value[is_counted])
        pairs = (
            _match_greedily(*candidates)
            if rule == "greedy"
            else _match_optimally(*candidates, len(predicted), len(true))
        )
        n = len(pairs)
        matches.append(Match(tp=n, fp=n_counted - n, fn=len(true) - n, pairs=pairs))
    return matches


def _match_greedily(p: NDArray, t: NDArray, value: NDArray) -> NDArray[np.int64]:
    order = np.lexsort((p, -value, t))
    used_p = set()
    used_t = set()
    pairs = []
    for i, j in zip(p[order].tolist(), t[order].tolist()):
        if i not in used_p and j not in used_t:
            used_p.add(i)
            used_t.add(j)
            pairs.append((i, j))
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _match_optimally(p: NDArray, t: NDArray, value: NDArray, n: int, m: int) -> NDArray[np.int64]:
    """Hungarian on each connected group of overlapping boxes, so that thousands of boxes stay small problems."""
    graph = coo_array((np.ones(len(p)), (p, n + t)), shape=(n + m, n + m))
    group = connected_components(graph, directed=False)[1][p]
    order = np.argsort(group, kind="stable")
    pairs = [np.zeros((0, 2), dtype=np.int64)]
    for edges in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        rows, row = np.unique(p[edges], return_inverse=True)
        columns, column = np.unique(t[edges], return_inverse=True)
        weight = np.zeros((len(rows), len(columns)))
        weight[row, column] = value[edges] + min(weight.shape)  # one match outweighs every sum of IoU
        i, j = linear_sum_assignment(weight, maximize=True)
        keep = weight[i, j] > 0
        pairs.append(np.column_stack([rows[i[keep]], columns[j[keep]]]))
    matches = np.concatenate(pairs)
    return matches[np.lexsort((matches[:, 0], matches[:, 1]))]
