"""Response surfaces: a known function is found again, nothing is extrapolated, the card holds the whole surface."""

import tomllib

import numpy as np
import pandas as pd
import pytest

from emqa_dask import models, response_surface
from emqa_dask.predict import surface_fit

AXES = {
    "dose_e_per_nm2": np.array([30.0, 100, 300, 1000, 3000]),
    "defocus_nm": np.array([-300.0, -150, 0, 150, 300]),
    "nm_per_pixel": np.array([0.08, 0.12, 0.18]),
}


def compute_f1(points):
    """More dose is better, overfocus worse than underfocus, large pixels a little worse."""
    dose, defocus, nm_per_pixel = np.asarray(points).T
    return 1 / (1 + np.exp(-2 * (np.log10(dose / 300) - defocus / 300 + 2 * np.log10(0.12 / nm_per_pixel))))


@pytest.fixture(scope="module")
def surface():
    return surface_fit.fit_response_surface(AXES, compute_f1(response_surface.list_grid_points(AXES)))


def make_images(**columns):
    unknown = {"dose_e_per_nm2": np.nan, "nm_per_pixel": np.nan, "stated_defocus_nm": np.nan, "defocus_nm": np.nan}
    return pd.DataFrame([unknown | columns])


def test_a_known_response_is_found_between_the_points(surface):
    points = np.random.default_rng(0).uniform([np.log(30), -300, 0.08], [np.log(3000), 300, 0.18], (200, 3))
    points[:, 0] = np.exp(points[:, 0])
    np.testing.assert_allclose(response_surface.evaluate_surface(surface, points), compute_f1(points), atol=0.03)


def test_held_out_points_are_predicted_from_the_others():
    f1 = compute_f1(response_surface.list_grid_points(AXES))
    held_out = surface_fit.assess_response_surface(AXES, f1)
    assert held_out.spearman > 0.98
    assert held_out.mae < 0.03
    assert held_out.mae == pytest.approx(np.abs(held_out.f1 - f1).mean())


def test_noise_alone_is_not_predicted():
    held_out = surface_fit.assess_response_surface(AXES, np.random.default_rng(1).uniform(0, 1, 75))
    assert abs(held_out.spearman) < 0.35
    assert held_out.mae > 0.2


@pytest.mark.parametrize(
    "point",
    [
        *[(29, 0, 0.1), (3001, 0, 0.1), (300, -301, 0.1), (300, 301, 0.1), (300, 0, 0.079), (300, 0, 0.181)],
        *[(np.nan, 0, 0.1), (300, np.nan, 0.1), (300, 0, np.nan), (0, 0, 0.1), (-5, 0, 0.1), (np.inf, 0, 0.1)],
    ],
)
def test_nothing_is_said_outside_the_grid(surface, point):
    assert np.isnan(response_surface.evaluate_surface(surface, [point])).all()


def test_corners_of_the_grid_belong_to_it(surface):
    corners = response_surface.list_grid_points({name: values[[0, -1]] for name, values in AXES.items()})
    assert np.isfinite(response_surface.evaluate_surface(surface, corners * (1 + 1e-12))).all()


def test_the_best_conditions_are_those_of_the_function(surface):
    best, f1 = response_surface.find_best_conditions(surface)
    assert best == {"dose_e_per_nm2": 3000, "defocus_nm": -300, "nm_per_pixel": 0.08}
    assert f1 == pytest.approx(compute_f1([[3000, -300, 0.08]])[0], abs=0.02)


def test_a_card_holds_the_whole_surface(surface, tmp_path):
    models.write_model_card(tmp_path, {"name": "a", **response_surface.make_card_table(surface, n_images=3)})
    table = tomllib.loads((tmp_path / "card.toml").read_text())
    again = response_surface.read_response_surface(table)
    points = response_surface.list_grid_points(AXES) * 0.999
    np.testing.assert_array_equal(
        response_surface.evaluate_surface(again, points), response_surface.evaluate_surface(surface, points)
    )
    assert table["conditions"]["n_images"] == 3
    assert response_surface.read_response_surface({"name": "b"}) is None


@pytest.mark.parametrize("key", ["axes", "lengths", "weights", "mean"])
def test_an_incomplete_card_is_refused(surface, key):
    table = response_surface.make_card_table(surface)
    del table["conditions"][key]
    with pytest.raises(ValueError, match=key):
        response_surface.read_response_surface(table)
    short = response_surface.make_card_table(surface)
    short["conditions"]["weights"] = [1.0]
    with pytest.raises(ValueError, match="do not fit"):
        response_surface.read_response_surface(short)


def test_a_stated_defocus_counts_before_the_magnitude(surface):
    conditions = {"dose_e_per_nm2": 300, "nm_per_pixel": 0.12}
    stated = response_surface.predict_f1_at_doses(
        surface, make_images(**conditions, stated_defocus_nm=-150, defocus_nm=20), [1, 2, 16]
    )
    expected = response_surface.evaluate_surface(surface, [(300, -150, 0.12), (600, -150, 0.12)])
    np.testing.assert_allclose(stated, [[*expected, np.nan]])


def test_of_a_magnitude_both_signs_count(surface):
    f1 = response_surface.predict_f1_at_doses(
        surface, make_images(dose_e_per_nm2=300, nm_per_pixel=0.12, defocus_nm=150), [1]
    )
    both = response_surface.evaluate_surface(surface, [(300, -150, 0.12), (300, 150, 0.12)])
    np.testing.assert_allclose(f1, [[both.mean()]])


@pytest.mark.parametrize("unknown", ["dose_e_per_nm2", "nm_per_pixel", "defocus_nm"])
def test_an_unknown_condition_gives_no_f1(surface, unknown):
    conditions = {"dose_e_per_nm2": 300, "nm_per_pixel": 0.12, "defocus_nm": 150} | {unknown: np.nan}
    assert np.isnan(response_surface.predict_f1_at_doses(surface, make_images(**conditions), [1])).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([100], r"\[100.0\]: no curve follows from that; give at least 3"),
        ([100, 100, 200], "at least 3 values"),
        ([100, 0, 200], "finite and above 0"),
        ([100, np.nan, 200], "finite and above 0"),
    ],
)
def test_an_axis_needs_three_possible_values(values, message):
    with pytest.raises(ValueError, match=message):
        surface_fit.check_axes({"dose_e_per_nm2": values})


def test_a_response_without_differences_is_refused():
    with pytest.raises(ValueError, match="there is no response to fit"):
        surface_fit.fit_response_surface(AXES, np.full(75, 0.4))
