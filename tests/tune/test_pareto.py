"""Laws of Pareto fronts, hypervolumes and the choice of one setting."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from emqa_dask.tune import pareto

REFERENCE = (10.0, 10.0)
grid = st.integers(0, 9).map(float)
tables = hnp.arrays(np.float64, st.tuples(st.integers(1, 14), st.just(2)), elements=grid)
any_width = hnp.arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(1, 4)), elements=grid)


def dominated(a, b):
    return (b <= a).all() and (b < a).any()


@settings(deadline=None)
@given(any_width)
def test_the_front_is_what_no_row_dominates(values):
    expected = [not any(dominated(a, b) for b in values) for a in values]
    assert pareto.find_pareto_front(values).tolist() == expected


@settings(deadline=None)
@given(tables, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(values, random):
    order = random.sample(range(len(values)), len(values))
    assert pareto.find_pareto_front(values[order]).tolist() == pareto.find_pareto_front(values)[order].tolist()
    assert pareto.compute_hypervolume(values[order], REFERENCE) == pareto.compute_hypervolume(values, REFERENCE)
    for distance in pareto.DISTANCES:
        there = values[order][pareto.select_nearest_to_ideal(values[order], distance)]
        assert there.tolist() == values[pareto.select_nearest_to_ideal(values, distance)].tolist()


@settings(deadline=None)
@given(tables, st.integers(0, 3), st.integers(0, 3))
def test_dominated_rows_duplicates_and_failures_change_nothing(values, dy, dx):
    more = np.vstack([values, values[0] + [dy, dx], [np.nan, 0], [0, np.inf], [-np.inf, 5]])
    assert pareto.compute_hypervolume(more, REFERENCE) == pytest.approx(pareto.compute_hypervolume(values, REFERENCE))
    assert pareto.find_pareto_front(more)[: len(values)].tolist() == pareto.find_pareto_front(values).tolist()
    for distance in pareto.DISTANCES:
        assert pareto.select_nearest_to_ideal(more, distance) == pareto.select_nearest_to_ideal(values, distance)


@settings(deadline=None)
@given(tables)
def test_the_hypervolume_counts_the_dominated_cells(values):
    y, x = np.mgrid[:10, :10]
    cells = np.zeros((10, 10), bool)
    for a, b in values:
        cells |= (y >= a) & (x >= b)
    assert pareto.compute_hypervolume(values, REFERENCE) == cells.sum()


@settings(deadline=None)
@given(tables)
def test_a_third_objective_that_is_constant_is_a_factor(values):
    third = np.column_stack([values, np.full(len(values), 3.0)])
    assert pareto.compute_hypervolume(third, (10, 10, 5)) == pytest.approx(
        2 * pareto.compute_hypervolume(values, REFERENCE)
    )


@settings(deadline=None)
@given(tables)
def test_hypervolumes_never_fall_and_end_at_that_of_the_whole(values):
    hypervolumes = pareto.compute_hypervolume_history(values, REFERENCE)
    assert (np.diff(hypervolumes) >= 0).all()
    assert hypervolumes[-1] == pareto.compute_hypervolume(values, REFERENCE)


@settings(deadline=None)
@given(tables)
def test_the_choice_lies_on_the_front_and_is_the_nearest(values):
    unit = pareto.normalise_objectives(values)
    front = pareto.find_pareto_front(values)
    assert unit[front].min() == 0
    assert unit[front].max() in (0.0, 1.0)
    for distance, length in (("euclidean", np.linalg.norm(unit, axis=1)), ("chebyshev", unit.max(axis=1))):
        row = pareto.select_nearest_to_ideal(values, distance)
        assert front[row]
        assert length[row] == pytest.approx(length[front].min())


@settings(deadline=None)
@given(tables, st.floats(0.01, 100), st.floats(0.01, 100))
def test_the_units_of_the_objectives_do_not_choose(values, by_y, by_x):
    for distance in pareto.DISTANCES:
        here = pareto.select_nearest_to_ideal(values, distance)
        assert pareto.select_nearest_to_ideal(values * [by_y, by_x] + [3, -1], distance) == here


def test_the_distances_differ_on_a_concave_front():
    values = [[0.0, 1.0], [0.1, 0.75], [0.55, 0.55], [0.8, 0.02], [1.0, 0.0]]
    assert pareto.select_nearest_to_ideal(values, "chebyshev") == 2
    assert pareto.select_nearest_to_ideal(values, "euclidean") == 1


def test_a_range_too_small_to_trade_does_not_decide():
    values = [[0.016, 0.005], [0.105, 0.003], [0.179, 0.0]]
    assert pareto.select_nearest_to_ideal(values) == 1
    assert pareto.select_nearest_to_ideal(values, min_range=0.1) == 0
    assert pareto.select_nearest_to_ideal(values, "chebyshev", min_range=(0.1, 0.001)) == 1


@settings(deadline=None)
@given(tables)
def test_a_small_least_range_changes_nothing(values):
    for distance in pareto.DISTANCES:
        here = pareto.select_nearest_to_ideal(values, distance)
        assert pareto.select_nearest_to_ideal(values, distance, min_range=0.5) == here


def test_ties_go_to_the_first_objective_then_row():
    values = [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    assert [pareto.select_nearest_to_ideal(values, distance) for distance in pareto.DISTANCES] == [1, 1]


def test_nothing_and_nonsense():
    assert pareto.find_pareto_front([]).shape == (0,)
    assert pareto.compute_hypervolume([], REFERENCE) == 0
    assert pareto.compute_hypervolume([[11.0, 0.0]], REFERENCE) == 0
    with pytest.raises(ValueError, match="reference"):
        pareto.compute_hypervolume([[1.0, 2.0]], (1.0,))
    with pytest.raises(ValueError, match="manhattan"):
        pareto.select_nearest_to_ideal([[1.0, 2.0]], "manhattan")
    with pytest.raises(ValueError, match="finite"):
        pareto.select_nearest_to_ideal([[np.nan, 2.0]])
    with pytest.raises(ValueError, match="shape"):
        pareto.find_pareto_front([1.0, 2.0])
