"""True quality from points and counts: which point belongs to which box, and what counts alone can say."""

import numpy as np
import pandas as pd
import pytest

from emqa_dask.predict.sparse_truth import compute_count_quality, compute_point_quality, match_points


def detections(**boxes) -> pd.DataFrame:
    rows = [(name, *box, 0.9) for name, group in boxes.items() for box in group]
    return pd.DataFrame(rows, columns=["micrograph_id", "y0", "x0", "y1", "x1", "score"])


def test_a_point_in_a_box_is_a_match():
    match = match_points([[0, 0, 10, 10], [50, 50, 60, 70]], [[1, 9], [55, 60], [30, 30]])
    assert (match.tp, match.fp, match.fn) == (2, 0, 1)
    assert sorted(map(tuple, match.pairs)) == [(0, 0), (1, 1)]


def test_a_point_within_half_a_diameter_is_a_match():
    """A box of 4 x 16 px has a diameter of 10 px: a point 4 px above its centre is outside of it, and belongs to it."""
    box = [[8, 0, 12, 16]]
    assert match_points(box, [[6, 8]]).tp == 1
    assert match_points(box, [[4, 8]]).tp == 0


def test_the_nearest_pair_comes_first_and_each_once():
    """Both points lie in the large box; the small one has the second point near its centre."""
    boxes = [[0, 0, 40, 40], [28, 28, 38, 38]]
    match = match_points(boxes, [[33, 33], [20, 20]])
    assert sorted(map(tuple, match.pairs)) == [(0, 1), (1, 0)]
    match = match_points(boxes[:1], [[33, 33], [20, 20]])
    assert (match.tp, match.fn) == (1, 1)
    assert match.pairs.tolist() == [[0, 1]]


def test_no_points_and_no_boxes_match_nothing():
    assert match_points([], [[1, 1]]).fn == 1
    assert match_points([[0, 0, 1, 1]], []).fp == 1
    assert np.isnan(match_points([], []).f1)
    with pytest.raises(ValueError, match="NaN"):
        match_points([], [[np.nan, 1]])


def test_points_give_f1_precision_and_recall():
    rows = detections(a=[(0, 0, 10, 10), (20, 20, 30, 30), (40, 40, 50, 50)])
    truth = compute_point_quality(rows, {"a": [[5, 5], [25, 25], [80, 80], [90, 90]], "b": [[1, 1]], "c": []})
    assert truth["true_f1"].tolist()[:2] == [pytest.approx(4 / 7), 0]
    assert truth["precision"][0] == pytest.approx(2 / 3)
    assert truth["recall"].tolist()[:2] == [0.5, 0]
    assert truth.loc[2, ["true_f1", "precision", "recall"]].isna().all()
    with pytest.raises(ValueError, match="image a: points"):
        compute_point_quality(rows, {"a": [[np.inf, 1]]})


def test_counts_bound_the_f1():
    rows = detections(a=[(0, 0, 1, 1)] * 10, b=[(0, 0, 1, 1)] * 3)
    rows.loc[0, "score"] = 0.1
    truth = compute_count_quality(rows, {"a": 3, "b": 9, "c": 4, "d": 0}, score_floor=0.5)
    assert truth["n_detections"].tolist() == [9, 3, 0, 0]
    assert truth["true_f1"].tolist()[:3] == [0.5, 0.5, 0]
    assert np.isnan(truth["true_f1"][3])
    assert truth[["precision", "recall"]].isna().all(axis=None)
