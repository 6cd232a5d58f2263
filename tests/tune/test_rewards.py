"""Rewards on lattices with known answers: zero where all is right, larger with everything that is wrong."""

import functools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emqa_dask.synthetic.lattices import CELLS, draw_lattice
from emqa_dask.tune import boundaries, rewards
from emqa_dask.tune.lattice import LatticePhysics, make_cell_physics, make_density_physics
from emqa_dask.tune.rewards import Scene, load_reward

PX = 10.0  # distance of nearest neighbours
CASES = [(name, turn) for name in sorted(CELLS) for turn in (0.0, 33.0, 71.0)]


@functools.cache
def lattice(name="SrTiO3 [001]", turn=20.0, seed=0):
    """The sites of a lattice as a table of points, and their scene."""
    a, b, gamma, basis = CELLS[name]
    physics = make_cell_physics(a, b, gamma, [(u, v) for u, v, *_ in basis])
    sample = draw_lattice(
        np.random.default_rng(seed), (260, 240), cell=name, rotation_deg=turn, nm_per_pixel=physics.spacing_nm / PX,
        jitter_px=0.0, vacancies=0.0, disorder=False,
    )  # fmt: skip
    return table(sample.meta["sites_yx"]), Scene(sample.image, sample.nm_per_pixel, physics)


def table(yx, sigma=2.25):
    y, x = np.asarray(yx, float).reshape(-1, 2).T
    r = math.sqrt(2) * sigma
    return pd.DataFrame({"y_px": y, "x_px": x, "sigma_px": sigma, "y0": y - r, "x0": x - r, "y1": y + r, "x1": x + r})


def with_places(points, yx):
    return pd.concat([points, table(yx)], ignore_index=True)


@pytest.mark.parametrize(("name", "turn"), CASES)
def test_the_true_columns_have_no_error(name, turn):
    points, scene = lattice(name, turn)
    assert rewards.count_error(points, scene) < 0.01
    assert rewards.crowding(points, scene) == 0
    assert rewards.lattice_residual(points, scene) < 1e-6
    assert rewards.size_prior(points, scene) < 1e-6


@pytest.mark.parametrize(("name", "turn"), CASES)
def test_jitter_is_the_residual_also_of_mirrored_lattices(name, turn):
    points, scene = lattice(name, turn)
    rng = np.random.default_rng(1)
    yx = points[["y_px", "x_px"]].to_numpy()
    jittered = table(yx + rng.normal(0, 0.06 * PX, yx.shape))
    assert rewards.lattice_residual(jittered, scene) == pytest.approx(0.06 * math.sqrt(2), rel=0.2)
    assert rewards.lattice_residual(table(yx * [1, -1]), scene) < 1e-6
    assert rewards.lattice_residual(table(yx[rng.random(len(yx)) < 0.7]), scene) < 1e-6
    assert rewards.lattice_residual(table(rng.uniform(0, 240, yx.shape)), scene) > 0.3


@given(st.integers(2, 7), st.integers(0, 6))
def test_the_count_error_is_that_of_the_count(every, first):
    points, scene = lattice()
    kept = points.drop(points.index[first::every])
    signed = rewards.signed_count_error(kept, scene)
    assert signed == pytest.approx(len(kept) / len(points) - 1, abs=0.02)
    assert rewards.count_error(kept, scene) == abs(signed)
    assert rewards.signed_count_error(points.iloc[:0], scene) == -1
    twice = pd.concat([points, points])
    whole, doubled = (1 + rewards.signed_count_error(rows, scene) for rows in (points, twice))
    assert doubled == pytest.approx(2 * whole)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 90))
def test_the_image_edge_does_not_change_a_lattice_count(dy, dx, turn):
    shape = (150, 170)
    cos = math.cos(math.radians(turn))
    sin = math.sin(math.radians(turn))
    physics = make_cell_physics(PX * 0.1, 1.4 * PX * 0.1, 90, [(0, 0)])
    y, x = np.mgrid[-30:30, -30:30].reshape(2, -1)
    place = np.column_stack([(y + dy) * PX, 1.4 * (x + dx) * PX]) @ [[cos, sin], [-sin, cos]] + np.array(shape) / 2
    inside = ((place > -0.5) & (place < np.array(shape) - 0.5)).all(axis=1)
    assert rewards.count_error(table(place[inside]), Scene(np.zeros(shape), 0.1, physics)) < 0.01


def test_what_piles_up_on_the_edge_counts_for_nothing():
    points, scene = lattice()
    height, width = scene.image.shape
    edge = [[-0.5, 20], [height - 0.5, 100], [50, width - 0.5]]
    found = rewards.signed_count_error(with_places(points, edge), scene)
    assert found == pytest.approx(rewards.signed_count_error(points, scene))


@settings(deadline=None)
@given(st.integers(1, 12))
def test_points_between_the_columns_are_crowded(extra):
    points, scene = lattice()
    yx = points[["y_px", "x_px"]].to_numpy()
    inner = yx[((yx > 30) & (yx < 200)).all(axis=1)][: 9 * extra : 9]
    step = yx[np.argsort(((yx - inner[0]) ** 2).sum(axis=1))[1:3]] - inner[0]
    between = inner + step.sum(axis=0) / 2 if abs(step[0] @ step[1]) < 1 else inner + step[0] / 2
    expected = 2 / 0.3905**2 * 260 * 240 * scene.nm_per_pixel**2
    assert rewards.crowding(with_places(points, between), scene) >= len(between) / expected * 0.999
    twice = rewards.crowding(with_places(points, yx), scene)  # corners keep their distance
    assert twice == pytest.approx(2 * len(points) / expected, rel=0.1)


def test_too_few_points_have_no_neighbours():
    points, scene = lattice()
    assert rewards.crowding(points.iloc[:4], scene) == 0
    assert rewards.lattice_residual(points.iloc[:3], scene) == math.inf
    assert rewards.size_prior(points.iloc[:0], scene) == math.inf


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 40), st.integers(0, 40))
def test_disagreement_is_one_minus_f1_by_boxes_and_by_places(missing, extra):
    points, scene = lattice()
    far = table(np.random.default_rng(0).uniform(1000, 2000, (extra, 2)))
    found = pd.concat([points.iloc[missing:], far], ignore_index=True)
    expected = 1 - 2 * (len(points) - missing) / (len(found) + len(points))
    assert rewards.disagreement(found, scene._replace(reference=points)) == pytest.approx(expected)
    places = points[["y_px", "x_px"]]
    assert rewards.disagreement(found, scene._replace(reference=places)) == pytest.approx(expected)


def test_a_point_within_reach_of_two_matches_one():
    near = table([[10.0, 10.0], [10.5, 10.0]])
    _, scene = lattice()
    scene = scene._replace(reference=table([[10.1, 10.0]])[["y_px", "x_px"]])
    assert rewards.disagreement(near, scene) == pytest.approx(1 - 2 / 3)
    assert rewards.disagreement(near.iloc[:0], scene) == 1
    assert rewards.disagreement(near.iloc[:0], scene._replace(reference=near.iloc[:0])) == 0


def test_points_without_physics_match_within_the_radius():
    detections = table([[10.0, 10.0], [40.0, 40.0]], 2.0)  # radius 2.83 px
    reference = table([[12.0, 11.9], [42.1, 42.1]])[["y_px", "x_px"]]  # 2.76 and 2.97 px away
    scene = Scene(np.zeros((60, 60)), reference=reference)
    assert rewards.disagreement(detections, scene) == pytest.approx(0.5)


def test_the_size_prior_is_symmetric_and_takes_a_reference():
    points, scene = lattice()
    twice, half = (points.assign(sigma_px=points["sigma_px"] * f) for f in (2, 0.5))
    assert rewards.size_prior(twice, scene) == pytest.approx(math.log(2))
    assert rewards.size_prior(half, scene) == pytest.approx(math.log(2))
    boxes = twice[["y0", "x0", "y1", "x1"]]  # still the boxes of the smaller sigma
    assert rewards.size_prior(twice, scene._replace(reference=boxes)) == pytest.approx(math.log(2))


def test_particles_need_a_density_only():
    scene = Scene(np.zeros((200, 400)), 2.0, make_density_physics(250))
    yx = np.random.default_rng(0).uniform(-0.5, [199.5, 399.5], (40_000, 2))
    assert rewards.signed_count_error(table(yx), scene) == pytest.approx(499, rel=0.02)
    with pytest.raises(ValueError, match="cell"):
        rewards.lattice_residual(table(np.zeros((40, 2))), scene)


@pytest.mark.parametrize("name", ["count_error", "crowding", "lattice_residual", "size_prior", "disagreement"])
def test_rewards_are_those_of_square_pixels_when_rows_are_doubled(name):
    points, scene = lattice()
    rng = np.random.default_rng(4)
    yx = points[["y_px", "x_px"]].to_numpy() + rng.normal(0, 0.05 * PX, (len(points), 2))
    yx = yx[rng.random(len(yx)) < 0.9]
    reference = points[["y_px", "x_px"]] if name == "disagreement" else None
    scene = scene._replace(reference=reference)
    stretched = scene._replace(image=np.repeat(scene.image, 2, axis=0), nm_per_pixel_y=scene.nm_per_pixel / 2)
    if reference is not None:
        stretched = stretched._replace(reference=reference * [2, 1] + [0.5, 0])
    expected = load_reward(name)(table(yx), scene)
    # Half as high pixels: the middle of row y is at 2 y + 0.5, and a sigma of s px is sqrt(2) s.
    assert load_reward(name)(table(yx * [2, 1] + [0.5, 0], 2.25 * math.sqrt(2)), stretched) == pytest.approx(expected)
    assert expected > 0 or name in ("crowding", "size_prior")


@pytest.mark.parametrize("name", ["count_error", "signed_count_error", "crowding", "lattice_residual", "size_prior"])
def test_what_a_reward_needs_is_asked_for(name):
    points, scene = lattice()
    with pytest.raises(ValueError, match="physics"):
        load_reward(name)(points, scene._replace(physics=None))
    with pytest.raises(ValueError, match="nm-per-pixel"):
        load_reward(name)(points, scene._replace(nm_per_pixel=math.nan))


def test_disagreement_needs_a_reference():
    points, scene = lattice()
    with pytest.raises(ValueError, match="reference"):
        rewards.disagreement(points, scene)


def test_rewards_by_name_and_by_import_path():
    assert load_reward("crowding") is rewards.crowding
    assert load_reward("emqa_dask.tune.rewards:crowding") is rewards.crowding
    for wrong, part in (
        ("crowdng", "count_error"), ("nowhere:f", "nowhere"), ("math:nothing", "nothing"), ("math:pi", "float"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=part):
            load_reward(wrong)


def test_an_own_reward_gets_points_and_scene(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text("def few(points, scene):\n    return len(points) / scene.image.size\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    points, scene = lattice()
    assert load_reward("my_rewards:few")(points, scene) == len(points) / (260 * 240)


def test_square_lattice_physics_by_density_equals_that_by_cell():
    points, scene = lattice("Au [001]")
    density = LatticePhysics(scene.physics.columns_per_nm2)
    for name in ("count_error", "crowding", "size_prior"):
        assert load_reward(name)(points, scene._replace(physics=density)) == pytest.approx(
            load_reward(name)(points, scene)
        )


def disks(contrast=1.0, seed=0):
    """Blurred disks of 6 to 14 px radius on a slope with texture, as image and table."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:240, :260].astype(float)
    image = 0.002 * y + 0.02 * rng.standard_normal(y.shape)
    rows = []
    for cy in range(30, 230, 45):
        for cx in range(30, 250, 45):
            r = rng.uniform(6, 14)
            image = image + contrast / (1 + np.exp(np.hypot(y - cy, x - cx) - r))
            rows.append((cy, cx, r / math.sqrt(2)))
    points = pd.concat([table([row[:2]], row[2]) for row in rows], ignore_index=True)
    return image, points.assign(score=0.8, polarity=int(np.sign(contrast)))


@pytest.mark.parametrize("contrast", [1.0, -1.0])
def test_true_disks_are_aligned_and_others_are_not(contrast):
    image, points = disks(contrast)
    assert boundaries.compute_gradient_alignment(points, image).min() > 0.9
    assert boundaries.compute_gradient_alignment(points.assign(polarity=0), image).min() > 0.9
    assert boundaries.compute_gradient_alignment(points.assign(polarity=-points["polarity"]), image).max() < 0
    beside = points.assign(y_px=points["y_px"] + 22, x_px=points["x_px"] + 22)
    assert boundaries.compute_gradient_alignment(beside, image).max() < 0.8
    assert (
        boundaries.compute_gradient_alignment(points.assign(sigma_px=np.nan), image).min() > 0.9
    )  # radius from the box


def test_alignment_does_not_depend_on_gain_offset_or_dtype():
    image, points = disks()
    here = boundaries.compute_gradient_alignment(points, image)
    np.testing.assert_allclose(boundaries.compute_gradient_alignment(points, 50 * image + 7), here, atol=1e-4)
    np.testing.assert_allclose(
        boundaries.compute_gradient_alignment(points, (20000 * image + 9000).astype(np.uint16)), here, atol=0.01
    )
    turned = points.assign(y_px=points["x_px"], x_px=points["y_px"])
    np.testing.assert_allclose(boundaries.compute_gradient_alignment(turned, image.T), here, atol=0.01)
    holed = image.copy()
    holed[::40, ::40] = np.nan
    assert boundaries.compute_gradient_alignment(points, holed).min() > 0.7


@pytest.mark.parametrize("name", ["doubtful_count", "doubtful_area"])
def test_the_true_disks_beat_fewer_more_smaller_and_larger_ones(name):
    image, points = disks()
    scene = Scene(image)
    judge = load_reward(name)
    beside = points.assign(y_px=points["y_px"] + 22, x_px=points["x_px"] + 22, score=0.3)
    best = judge(points, scene)
    assert best < 0
    larger = points.assign(sigma_px=points["sigma_px"] * 1.7)  # of the same score: no LoG gives that
    others = [
        points.iloc[:12],
        pd.concat([points, beside]),
        points.assign(sigma_px=points["sigma_px"] / 1.7),
        points.iloc[:0],
    ]
    for worse in others + [larger] * (name == "doubtful_count"):
        assert judge(worse, scene) > best
    assert judge(points.iloc[:0], scene) == 0
