"""Laws of boxes: IoU against a naive count, and matching by both rules."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from emqa_dask import boxes

whole = st.integers(0, 12)
box = st.tuples(whole, whole, st.integers(1, 8), st.integers(1, 8)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
some_boxes = st.lists(box, max_size=12)
thresholds = st.sampled_from([0.05, 0.1, 0.3, 0.5, 1.0])


def pixels(b):
    return {(y, x) for y in range(b[0], b[2]) for x in range(b[1], b[3])}


def crowd(n, seed, side=400):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, side, (n, 2))
    size = rng.uniform(4, 40, (n, 2))
    return np.hstack([corner, corner + size])


@given(some_boxes, some_boxes)
def test_iou_counts_pixels(a, b):
    expected = [[len(pixels(p) & pixels(q)) / len(pixels(p) | pixels(q)) for q in b] for p in a]
    np.testing.assert_allclose(boxes.compute_iou(a, b), np.array(expected).reshape(len(a), len(b)))
    assert boxes.compute_areas(a).tolist() == [len(pixels(p)) for p in a]


@given(some_boxes, some_boxes, thresholds)
def test_overlaps_are_the_entries_of_iou_at_the_threshold(a, b, threshold):
    dense = boxes.compute_iou(a, b)
    i, j, value = boxes.find_overlaps(a, b, threshold)
    expected = np.argwhere(dense >= threshold)
    assert np.column_stack([i, j]).tolist() == expected.tolist()
    np.testing.assert_array_equal(value, dense[i, j])


def test_overlaps_in_batches_are_the_same(monkeypatch):
    a = crowd(150, 1)
    b = crowd(170, 2)
    whole_answer = boxes.find_overlaps(a, b, 0.1)
    monkeypatch.setattr(boxes, "_MAX_CANDIDATES", 50)
    for one, other in zip(whole_answer, boxes.find_overlaps(a, b, 0.1)):
        np.testing.assert_array_equal(one, other)
    assert len(whole_answer[0]) > 50


@given(some_boxes.filter(len), thresholds, st.sampled_from(boxes.RULES))
def test_perfect_detections_have_f1_of_one(true, threshold, rule):
    distinct = sorted(set(true))
    match = boxes.match_boxes(distinct, distinct, threshold, rule)
    assert (match.tp, match.fp, match.fn, match.f1) == (len(distinct), 0, 0, 1.0)
    assert (match.precision, match.recall) == (1.0, 1.0)


@given(some_boxes, some_boxes, thresholds)
def test_both_rules_give_a_matching_and_greedy_never_matches_more(predicted, true, threshold):
    dense = boxes.compute_iou(predicted, true)
    counts = {}
    for rule in boxes.RULES:
        m = boxes.match_boxes(predicted, true, threshold, rule)
        assert m.tp == len(m.pairs) == len(set(m.pairs[:, 0])) == len(set(m.pairs[:, 1]))
        assert (m.tp + m.fp, m.tp + m.fn) == (len(predicted), len(true))
        assert (dense[m.pairs[:, 0], m.pairs[:, 1]] >= threshold).all()
        counts[rule] = m.tp
    assert counts["greedy"] <= counts["optimal"] <= 2 * counts["greedy"]  # a maximal matching is at least half


@given(some_boxes, some_boxes, thresholds, st.randoms())
def test_optimal_does_not_depend_on_any_order(predicted, true, threshold, random):
    def summary(p, t):
        m = boxes.match_boxes(p, t, threshold, "optimal")
        return m.tp, boxes.compute_iou(p, t)[m.pairs[:, 0], m.pairs[:, 1]].sum()

    shuffled_p = random.sample(predicted, len(predicted))
    shuffled_t = random.sample(true, len(true))
    assert summary(shuffled_p, shuffled_t) == pytest.approx(summary(predicted, true))


@settings(max_examples=30)
@given(st.lists(box, max_size=5), st.lists(box, max_size=5), thresholds)
def test_optimal_is_the_best_of_all_assignments(predicted, true, threshold):
    dense = boxes.compute_iou(predicted, true)

    def best(rows, free):
        if not rows:
            return 0, 0.0
        options = [best(rows[1:], free)]
        for j in free:
            if dense[rows[0], j] >= threshold:
                n, total = best(rows[1:], free - {j})
                options.append((n + 1, total + dense[rows[0], j]))
        return max(options)

    m = boxes.match_boxes(predicted, true, threshold, "optimal")
    expected = best(list(range(len(predicted))), frozenset(range(len(true))))
    assert (m.tp, dense[m.pairs[:, 0], m.pairs[:, 1]].sum()) == pytest.approx(expected)


def test_greedy_follows_the_order_of_the_true_boxes():
    true = [(0, 0, 10, 10), (0, 4, 10, 14)]
    predicted = [(0, 4, 10, 14), (0, 11, 10, 21)]  # the first suits both, the second only the second
    assert boxes.match_boxes(predicted, true, 0.15).pairs.tolist() == [[0, 0], [1, 1]]
    assert boxes.match_boxes(predicted, true[::-1], 0.15).pairs.tolist() == [[0, 0]]
    assert boxes.match_boxes(predicted, true[::-1], 0.15, "optimal").tp == 2


@pytest.mark.parametrize("rule", boxes.RULES)
def test_a_crowd_agrees_with_the_dense_rule(rule):
    true = crowd(300, 5)
    predicted = np.vstack([true[:200] + 2.0, crowd(100, 6)])
    m = boxes.match_boxes(predicted, true, 0.1, rule)
    dense = boxes.compute_iou(predicted, true)
    if rule == "greedy":
        expected = []
        free = np.ones(len(predicted), bool)
        for t in range(len(true)):
            p = int(np.argmax(np.where(free, dense[:, t], -1)))
            if free[p] and dense[p, t] >= 0.1:
                expected.append([p, t])
                free[p] = False
        assert m.pairs.tolist() == expected
    else:
        weight = np.where(dense >= 0.1, dense + 300, 0)
        p, t = linear_sum_assignment(weight, maximize=True)
        assert m.tp == (weight[p, t] > 0).sum()


def test_empty_sides():
    both, none_found, none_there = (
        boxes.match_boxes(p, t) for p, t in [([], []), ([], [(0, 0, 1, 1)]), ([(0, 0, 1, 1)], [])]
    )
    assert np.isnan([both.f1, both.precision, both.recall, none_found.precision, none_there.recall]).all()
    assert (none_found.f1, none_found.recall, none_found.fn) == (0, 0, 1)
    assert (none_there.f1, none_there.precision, none_there.fp) == (0, 0, 1)
    assert boxes.compute_iou([], [(0, 0, 1, 1)]).shape == (0, 1)
    assert both.pairs.shape == (0, 2)


def test_f1_is_zero_when_nothing_matches():
    m = boxes.match_boxes([(0, 0, 5, 5)], [(20, 20, 25, 25)])
    assert (m.f1, m.precision, m.recall, m.tp, m.fp, m.fn) == (0, 0, 0, 0, 1, 1)


def test_boxes_without_area_match_nothing():
    assert boxes.compute_iou([(3, 3, 3, 9)], [(3, 3, 3, 9)]).tolist() == [[0.0]]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (([(0, 0, 1, 1)], [], 0.0), "iou_threshold is 0.0"),
        (([(0, 0, 1, 1)], [], 1.5), "iou_threshold is 1.5"),
        (([(0, 0, 1, 1)], [], 0.1, "hungarian"), "greedy, optimal"),
        (([(0, 0, 1)], []), "shape"),
        (([(0, 0, np.nan, 1)], []), "NaN"),
        (([(0, 0, 1, 1), (5, 0, 1, 1)], []), "box 1"),
    ],
)
def test_refuses_what_it_cannot_match(arguments, says):
    with pytest.raises(ValueError, match=says):
        boxes.match_boxes(*arguments)
