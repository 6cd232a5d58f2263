"""The searched space, and searches through it: budgets, determinism, failures, and that a model beats chance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emqa_dask.settings import Detect
from emqa_dask.tune import bayes, evolution, pareto
from emqa_dask.tune.lattice import make_cell_physics
from emqa_dask.tune.search import METHODS, run_search
from emqa_dask.tune.space import SearchSpace

SPACE = SearchSpace()
NAMES = ("count", "crowding")
unit = st.floats(0, 1)


def conflict(settings):
    """Two objectives with a known front: threshold 0.02 and sigma 2 against 0.2 and 4, with overlap 0.3 for both."""
    t = np.array([np.log10(s["threshold"]) for s in settings])
    m = np.array([np.log2(s["min_sigma"]) for s in settings])
    o = np.array([s["overlap"] for s in settings])
    towards = [(t - np.log10(a)) ** 2 + (m - b) ** 2 / 4 + (o - 0.3) ** 2 for a, b in ((0.02, 1), (0.2, 2))]
    return np.stack(towards, axis=1)


def run(evaluate=conflict, **changes):
    return run_search(evaluate, SPACE, NAMES, **({"evaluations": 24, "seed": 0, "reference": (1.5, 1.5)} | changes))


@settings(deadline=None)
@given(st.tuples(unit, unit, unit, unit))
def test_every_point_of_the_cube_is_a_valid_setting(point):
    settings = SPACE.make_settings(point)
    Detect(**settings).check()
    assert settings["min_sigma"] < settings["max_sigma"]
    assert SPACE.min_sigma[0] <= settings["min_sigma"] <= SPACE.min_sigma[1] * 2**0.125
    again = SPACE.make_settings(SPACE.locate(settings))
    assert again == pytest.approx(settings)


def test_equal_bounds_fix_a_setting_and_take_no_coordinate():
    space = SearchSpace(overlap=(0.5, 0.5), min_sigma=(3.0, 3.0))
    assert space.names == ("threshold", "sigma_ratio")
    settings = space.make_settings([0.0, 1.0])
    assert settings["overlap"] == 0.5
    assert settings["min_sigma"] == 3.0
    assert settings["threshold"] == pytest.approx(0.01)


def test_thresholds_and_sigmas_are_searched_logarithmically():
    middle = SearchSpace(min_sigma=(1, 16), threshold=(0.01, 1)).make_settings([0.5] * 4)
    assert middle["threshold"] == pytest.approx(0.1)
    assert middle["min_sigma"] == pytest.approx(4)


def test_the_physics_sets_the_scales():
    space = SearchSpace.make_for_physics(make_cell_physics(0.4, 0.4, 90, [[0, 0]]), 0.04)
    assert space.min_sigma == pytest.approx((1.0, 2.6))
    assert space.min_sigma[0] < 2.25 < space.min_sigma[1]
    assert SearchSpace.make_for_physics(
        make_cell_physics(0.4, 0.4, 90, [[0, 0]]), 0.04, threshold=(0.1, 0.2)
    ).threshold == (
        0.1,
        0.2,
    )
    with pytest.raises(ValueError, match="--nm-per-pixel"):
        SearchSpace.make_for_physics(make_cell_physics(0.4, 0.4, 90, [[0, 0]]), np.nan)


@pytest.mark.parametrize(
    "bounds",
    [
        {"threshold": (0, 0.1)}, {"overlap": (-0.1, 0.5)}, {"overlap": (0.1, 1.5)}, {"min_sigma": (3, 2)},
        {"sigma_ratio": (1, 2)}, {"min_sigma": (1, np.inf)}, {"threshold": (np.nan, 1)}, {"scales_per_octave": 0},
    ],
)  # fmt: skip
def test_bounds_that_cannot_be_are_refused(bounds):
    with pytest.raises(ValueError, match=next(iter(bounds))):
        SearchSpace(**bounds)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("evaluations", "batch"), [(1, 4), (17, 4), (30, 7)])
def test_a_search_spends_its_budget_in_batches(method, evaluations, batch):
    asked = []

    def evaluate(settings):
        asked.append(len(settings))
        return conflict(settings)

    table = run(evaluate, method=method, evaluations=evaluations, batch=batch).table
    assert sum(asked) == len(table) == evaluations
    assert max(asked) <= batch
    assert min(asked) >= 1
    assert table["evaluation"].tolist() == list(range(1, evaluations + 1))
    values = table[list(NAMES)].to_numpy()
    np.testing.assert_array_equal(values, conflict(table.to_dict("records")))
    assert table["is_pareto"].tolist() == pareto.find_pareto_front(values).tolist()
    assert table["hypervolume"].iloc[-1] == pareto.compute_hypervolume(values, (1.5, 1.5))


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_is_a_trace_and_another_seed_another(method):
    first, again, other = (run(method=method, seed=seed).table for seed in (3, 3, 4))
    assert first.equals(again)
    assert not first.equals(other)


@pytest.mark.parametrize("method", METHODS)
def test_known_settings_come_first_and_count(method):
    known = [SPACE.make_settings([0.1, 0.2, 0.3, 0.4]), SPACE.make_settings([0.9, 0.8, 0.7, 0.6])]
    table = run(method=method, initial=known, evaluations=20).table
    assert len(table) == 20
    assert table.loc[:1, list(known[0])].to_dict("records") == known


def test_the_chosen_settings_are_those_that_were_evaluated():
    result = run(method="random")
    for distance in pareto.DISTANCES:
        settings = result.select_settings(distance)
        row = result.select_row(distance)
        Detect(**settings).check()
        assert conflict([settings])[0].tolist() == row[list(NAMES)].tolist()


@pytest.mark.parametrize("method", METHODS)
def test_failed_settings_stay_in_the_table_off_the_front(method):
    def failing(settings):
        values = conflict(settings)
        values[[s["overlap"] > 0.5 for s in settings], 0] = np.nan
        values[[s["threshold"] > 0.2 for s in settings], 1] = np.inf
        return values

    result = run(failing, method=method, evaluations=30)
    failed = ~np.isfinite(result.table[list(NAMES)]).all(axis=1)
    assert 0 < failed.sum() < 30
    assert not result.table["is_pareto"][failed].any()
    assert np.isfinite(result.table["hypervolume"]).all()
    assert np.isfinite(result.select_row()[list(NAMES)].astype(float)).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_search_ends_and_reports_when_all_settings_fail(method):
    result = run(lambda settings: np.full((len(settings), 2), np.nan), method=method, reference=None)
    assert len(result.table) == 24
    assert (result.table["hypervolume"] == 0).all()
    with pytest.raises(ValueError, match="finite"):
        result.select_row()


def test_a_model_beats_chance_at_the_same_budget():
    volumes = {
        method: [run(method=method, seed=seed).table["hypervolume"].iloc[-1] for seed in range(5)] for method in METHODS
    }
    assert np.median(volumes["bayes"]) > np.median(volumes["random"])
    assert np.median(volumes["bayes"]) > np.median(volumes["evolution"])


def test_one_objective_and_three_are_searched_as_well():
    for width in (1, 3):
        result = run_search(
            lambda settings, w=width: np.column_stack([conflict(settings), conflict(settings)[:, :1]])[:, :w],
            SPACE, tuple("abc"[:width]), evaluations=16, seed=1,
        )  # fmt: skip
        assert result.table[list("abc"[:width])].notna().all(axis=None)


def test_the_batch_in_flight_is_not_asked_twice():
    rng = np.random.default_rng(0)
    points = rng.random((12, 3))
    asked = np.array(bayes.propose_points(points, rng.random((12, 2)), 4, seed=5))
    gaps = np.linalg.norm(asked[:, None] - np.vstack([points, asked]), axis=-1)
    assert ((asked >= 0) & (asked <= 1)).all()
    assert (np.sort(gaps, axis=1)[:, 1] > 1e-6).all()


def test_generations_follow_their_answers():
    first = np.random.default_rng(0).random((evolution.POPULATION_SIZE, 2))
    generations = evolution.generate_populations(first, 1, seed=0)
    asked = next(generations)
    np.testing.assert_array_equal(asked, first)
    for _ in range(12):
        asked = generations.send(((asked - 0.3) ** 2).sum(axis=1, keepdims=True))
    assert abs(asked - 0.3).mean() < 0.1 < abs(first - 0.3).mean()


@pytest.mark.parametrize(
    ("changes", "part"), [({"method": "grid"}, "bayes, random, evolution"), ({"evaluations": 0}, "0 evaluations"),
    ({"evaluate": lambda settings: np.zeros((1, 2))}, "objectives")],
)  # fmt: skip
def test_searches_that_cannot_be_are_refused(changes, part):
    with pytest.raises(ValueError, match=part):
        run(**changes)
