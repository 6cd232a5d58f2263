"""Which selection of labelled images is assumed, and when labels say nothing about a group."""

import numpy as np
import pytest
from scipy import stats

from emqa_dask.measure import estimation_design
from emqa_dask.measure.estimation import define_simple_design, estimate_ratio
from emqa_dask.measure.estimation_design import choose_selection, compute_chance
from emqa_dask.measure.estimation_swelling import convert_to_swelling, estimate_swelling

SESSIONS = np.repeat([0, 1, 2], [100, 100, 50])


def test_random_labels_are_a_random_sample():
    reviewed = np.random.default_rng(0).choice(250, 30, replace=False)
    selection = choose_selection(SESSIONS, reviewed)
    assert selection.assumption == estimation_design.RANDOM_IMAGES
    assert selection.design.probabilities == pytest.approx(30 / 250)


def test_as_many_labels_of_each_session_are_strata():
    reviewed = np.concatenate([np.arange(4), 100 + np.arange(4), 200 + np.arange(40)])
    selection = choose_selection(SESSIONS, reviewed)
    assert selection.assumption == estimation_design.RANDOM_IN_SESSIONS
    assert sorted(set(selection.design.probabilities)) == pytest.approx([4 / 100, 40 / 50])


def test_labels_of_one_session_have_no_design():
    selection = choose_selection(SESSIONS, np.arange(20))
    assert selection.design is None
    assert selection.reason.startswith("labels of 1 of 3 sessions")
    selection = choose_selection(SESSIONS, np.concatenate([np.arange(20), [100, 200]]))
    assert selection.reason.endswith("a session has only one")


def test_probabilities_decide_for_any_sessions():
    selection = choose_selection(SESSIONS, np.arange(20), np.full(20, 0.2))
    assert selection.assumption == estimation_design.PROBABILITIES


def test_too_few_labels_and_all_labels():
    assert choose_selection(SESSIONS, np.arange(0)).reason == "no labelled image"
    assert "too few" in choose_selection(SESSIONS, np.arange(1)).reason
    assert choose_selection(SESSIONS[:1], np.arange(1)).assumption == estimation_design.ALL_IMAGES


def test_chance_equals_hypergeometric_distribution():
    sessions = np.repeat([0, 1], [60, 40])
    reviewed = np.concatenate([np.arange(10), 60 + np.arange(0)])
    distribution = stats.hypergeom(100, 60, 10)
    n_first = np.arange(11)
    exact = distribution.pmf(n_first)[np.abs(n_first - 6) >= 4].sum()
    assert compute_chance(sessions, reviewed) == pytest.approx(exact, abs=0.004)


def test_swelling_equals_its_formula_at_every_end():
    rng = np.random.default_rng(1)
    volumes = np.column_stack([rng.gamma(4, 50.0, 30), np.full(30, 1e4)])
    design = define_simple_design(500, np.arange(30))
    fraction = estimate_ratio(design, volumes)
    swelling = estimate_swelling(design, volumes)
    for end in ("value", "low", "high"):
        volume_fraction = getattr(fraction, end)
        assert getattr(swelling, end) == pytest.approx(100 * volume_fraction / (1 - volume_fraction))


def test_uncertain_thickness_widens_swelling_as_drawn():
    rng = np.random.default_rng(2)
    design = define_simple_design(10**6, np.arange(400))
    fraction = estimate_ratio(design, np.column_stack([rng.gamma(4, 50.0, 400), np.full(400, 1e4)]))
    swelling = convert_to_swelling(fraction, 0.1)
    drawn = fraction.value + fraction.standard_error * rng.standard_normal(200_000)
    drawn = drawn / (1 + 0.1 * rng.standard_normal(200_000))
    drawn = 100 * drawn / (1 - drawn)
    assert swelling.standard_error == pytest.approx(np.std(drawn), rel=0.06)
    assert (swelling.low, swelling.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), rel=0.02)
    assert swelling.low < convert_to_swelling(fraction).low


def test_swelling_of_more_volume_than_foil_is_unknown():
    design = define_simple_design(50, np.arange(20))
    swelling = estimate_swelling(design, np.column_stack([np.linspace(1, 3, 20), np.ones(20)]))
    assert np.isnan([swelling.value, swelling.low, swelling.high]).all()
