"""Densities and spacings of lattices from projected cells, crystals, plane spacings and counts."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from emqa_dask.synthetic.lattices import CELLS, draw_lattice
from emqa_dask.tune import lattice

CUBIC = [90.0, 90.0, 90.0]
FCC = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
DIAMOND = FCC + [[x + 0.25, y + 0.25, z + 0.25] for x, y, z in FCC]
PEROVSKITE = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
CRYSTALS = {
    "SrTiO3 [001]": (0.3905, PEROVSKITE[:2], [0, 0, 1]),
    "Au [001]": (0.4078, FCC, [0, 0, 1]),
    "Au [110]": (0.4078, FCC, [1, 1, 0]),
    "Si [110]": (0.5431, DIAMOND, [1, 1, 0]),
}
axes = st.tuples(*[st.integers(-4, 4)] * 3).filter(any)


def of_cell(name):
    a, b, gamma, basis = CELLS[name]
    return lattice.make_cell_physics(a, b, gamma, [(u, v) for u, v, *_ in basis])


def written(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", sorted(CRYSTALS))
def test_a_crystal_along_its_zone_axis_is_the_projected_cell(name):
    a, atoms, axis = CRYSTALS[name]
    crystal = lattice.make_crystal_physics([a] * 3, CUBIC, atoms, axis)
    cell = of_cell(name)
    assert crystal.columns_per_nm2 == pytest.approx(cell.columns_per_nm2, rel=1e-3)
    assert crystal.spacing_nm == pytest.approx(cell.spacing_nm, rel=1e-3)
    assert crystal.four_nearest_nm == pytest.approx(cell.four_nearest_nm, rel=1e-3)


def test_oxygen_adds_two_columns_and_one_lies_on_titanium():
    every = lattice.make_crystal_physics([0.3905] * 3, CUBIC, PEROVSKITE, [0, 0, 1])
    heavy = lattice.make_crystal_physics([0.3905] * 3, CUBIC, PEROVSKITE[:2], [0, 0, 1])
    assert every.columns_per_nm2 == pytest.approx(4 / 0.3905**2)
    assert heavy.columns_per_nm2 == pytest.approx(2 / 0.3905**2)
    assert every.spacing_nm == pytest.approx(0.3905 / 2)
    assert heavy.spacing_nm == pytest.approx(0.3905 / math.sqrt(2))
    assert heavy.four_nearest_nm == pytest.approx(4 * 0.3905 / math.sqrt(2))


@pytest.mark.parametrize("name", sorted(CELLS))
def test_the_expected_count_is_that_of_the_synthetic_lattice(name):
    physics = of_cell(name)
    shape = (400, 500)
    sample = draw_lattice(
        np.random.default_rng(1), shape, cell=name, nm_per_pixel=physics.spacing_nm / 9, jitter_px=0.0, vacancies=0.0,
        disorder=False,
    )  # fmt: skip
    expected = lattice.compute_expected_count(physics, shape, sample.nm_per_pixel)
    assert len(sample.meta["sites_yx"]) == pytest.approx(expected, rel=0.02)
    assert physics.spacing_nm / sample.nm_per_pixel == pytest.approx(sample.meta["spacing_px"])


@settings(deadline=None)
@given(st.sampled_from(sorted(CELLS)), st.integers(-3, 3), st.integers(-3, 3), st.booleans())
def test_another_basis_of_the_same_lattice_is_the_same_physics(name, up, down, is_swapped):
    a, b, gamma, basis = CELLS[name]
    turn = np.array([[1, up], [0, 1]]) @ np.array([[1, 0], [down, 1]])
    turn = turn[::-1] if is_swapped else turn
    vectors = turn @ np.array([[0, a], [b * math.sin(math.radians(gamma)), b * math.cos(math.radians(gamma))]])
    lengths = np.linalg.norm(vectors, axis=1)
    angle = math.degrees(math.acos(vectors[0] @ vectors[1] / lengths.prod()))
    fractions = np.array([(u, v) for u, v, *_ in basis]) @ np.linalg.inv(turn) + [3, -2]
    other = lattice.make_cell_physics(*lengths, angle, fractions)
    here = of_cell(name)
    assert other.columns_per_nm2 == pytest.approx(here.columns_per_nm2)
    assert other.spacing_nm == pytest.approx(here.spacing_nm)
    assert other.four_nearest_nm == pytest.approx(here.four_nearest_nm)
    assert np.linalg.norm(other.vectors_nm, axis=1) == pytest.approx(np.linalg.norm(here.vectors_nm, axis=1))


@settings(deadline=None)
@given(axes, st.permutations(range(3)), st.tuples(*[st.sampled_from([-1, 1])] * 3))
def test_equivalent_axes_of_cubic_crystals_give_equal_physics(axis, order, signs):
    here = lattice.make_crystal_physics([0.4078] * 3, CUBIC, FCC, axis)
    there = lattice.make_crystal_physics([0.4078] * 3, CUBIC, FCC, [signs[k] * axis[order[k]] for k in range(3)])
    assert there.columns_per_nm2 == pytest.approx(here.columns_per_nm2)
    assert there.spacing_nm == pytest.approx(here.spacing_nm)


@settings(deadline=None)
@given(axes)
def test_columns_times_their_period_hold_the_crystals_atoms(axis):
    # fcc: the period along [uvw] is that of the axis, or half of it where the face centres lie on it.
    primitive = np.array(axis) // np.gcd.reduce(axis)
    period = 0.4078 * np.linalg.norm(primitive) / (2 if (primitive % 2).sum() == 2 else 1)
    physics = lattice.make_crystal_physics([0.4078] * 3, CUBIC, FCC, axis)
    assert physics.columns_per_nm2 / period == pytest.approx(4 / 0.4078**3)


@settings(deadline=None)
@given(st.floats(0.2, 0.9), st.floats(0.2, 0.9), st.floats(0.2, 0.9), *[st.floats(60, 120)] * 3, axes)
def test_any_cell_with_one_atom_has_one_column(a, b, c, alpha, beta, gamma, axis):
    assume(abs(alpha - beta) + 5 < gamma < alpha + beta - 5 and alpha + beta + gamma < 350)
    cosines = np.cos(np.radians([alpha, beta, gamma]))
    volume = a * b * c * math.sqrt(1 - (cosines**2).sum() + 2 * cosines.prod())
    primitive = np.array(axis) // np.gcd.reduce(axis)
    metric = np.array([[1, cosines[2], cosines[1]], [cosines[2], 1, cosines[0]], [cosines[1], cosines[0], 1]])
    edges = primitive * [a, b, c]
    physics = lattice.make_crystal_physics([a, b, c], [alpha, beta, gamma], [[0.3, 0.1, 0.7]], axis)
    assert 1 / physics.columns_per_nm2 == pytest.approx(volume / math.sqrt(edges @ metric @ edges))


def test_density_and_columns_per_cell_give_a_count():
    particles = lattice.make_density_physics(2500)
    assert lattice.compute_expected_count(particles, (1000, 2000), 0.5) == pytest.approx(2500 * 0.5 * 1.0)
    assert math.isnan(particles.spacing_nm)
    cell = lattice.make_cell_physics(0.4, 0.5, 80, columns_per_cell=3)
    assert cell.columns_per_nm2 == pytest.approx(3 / (0.4 * 0.5 * math.sin(math.radians(80))))
    assert lattice.make_cell_physics(0.4, 0.5, 80, columns_per_cell=1).spacing_nm == pytest.approx(0.4)


def test_files_of_all_four_forms(tmp_path):
    cell = written(tmp_path / "cell.toml", "a_nm=0.3905\nb_nm=0.3905\ngamma_deg=90\ncolumns=[[0,0],[0.5,0.5]]")
    crystal = written(
        tmp_path / "crystal.toml",
        "[crystal]\na_nm=0.3905\nb_nm=0.3905\nc_nm=0.3905\nalpha_deg=90\nbeta_deg=90\ngamma_deg=90\n"
        "atoms=[[0,0,0],[0.5,0.5,0.5]]\nzone_axis=[0,0,1]",
    )
    planes = written(tmp_path / "planes.toml", "spacings_nm=[0.3905,0.3905]\nangle_deg=90\ncolumns_per_cell=2")
    density = written(tmp_path / "density.toml", "count_per_um2=13115520")
    found = [lattice.read_lattice(path).columns_per_nm2 for path in (cell, crystal, planes, density)]
    assert found == pytest.approx([2 / 0.3905**2] * 4, rel=1e-5)


def test_plane_spacings_of_a_hexagonal_lattice(tmp_path):
    sides = lattice.make_cell_physics(0.316, 0.316, 120, columns_per_cell=1)
    d = 0.316 * math.sqrt(0.75)
    text = f"spacings_nm=[{d},{d}]\nangle_deg=60\ncolumns_per_cell=1"
    planes = lattice.read_lattice(written(tmp_path / "planes.toml", text))
    assert planes.columns_per_nm2 == pytest.approx(sides.columns_per_nm2)
    assert planes.spacing_nm == pytest.approx(0.316)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a_nm=0.3\nb_nm=0.3\ngamma_deg=90", "columns"),
        ("a_nm=0.3\nb_nm=0.3\ngamma_deg=90\ncolumns=[[0,0]]\ncolumns_per_cell=1", "columns_per_cell"),
        ("a_nm=0.3\nb_nm=0.3\ngamma_deg=190\ncolumns=[[0,0]]", "190"),
        ("a_nm=0.3\ngamma_deg=90\ncolumns=[[0,0]]", "b_nm is missing"),
        ("a_nm=0.3\nb_nm=0.3\ngamma_deg=90\ncolumns=[[0,0,0]]", "columns"),
        ("a_nm=0.3\nb_nm=0.3\ngamma_deg=90\ncolums=[[0,0]]", "colums"),
        ("count_per_um2=-1", "count_per_um2"),
        ("spacings_nm=[0.3]\nangle_deg=90\ncolumns_per_cell=1", "spacings_nm"),
        ("spacings_nm=[0.3,0.3]\nangle_deg=90\ncolumns_per_cell=0", "columns_per_cell"),
        ("[crystal]\na_nm=1", "is missing"),
        ("a_nm=", "TOML"),
    ],
)
def test_a_file_that_says_no_lattice_is_refused_by_name(tmp_path, text, part):
    with pytest.raises(ValueError, match=r"wrong\.toml.*" + part):
        lattice.read_lattice(written(tmp_path / "wrong.toml", text))


@pytest.mark.parametrize(
    ("axis", "angles", "part"),
    [([0, 0, 0], CUBIC, "zone_axis"), ([0.5, 1, 1], CUBIC, "zone_axis"), ([0, 0, 1], [10, 60, 120], "make no cell")],
)
def test_a_crystal_that_cannot_be_is_refused(axis, angles, part):
    with pytest.raises(ValueError, match=part):
        lattice.make_crystal_physics([0.4] * 3, angles, FCC, axis)


@pytest.mark.parametrize("nm_per_pixel", [math.nan, 0.0, -1.0, math.inf])
def test_a_lattice_without_pixel_size_names_the_remedy(nm_per_pixel):
    with pytest.raises(ValueError, match=r"archive\.nm_per_pixel.*--nm-per-pixel"):
        lattice.compute_expected_count(of_cell("Au [001]"), (10, 10), nm_per_pixel)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.toml: no such lattice file"):
        lattice.read_lattice(tmp_path / "none.toml")
