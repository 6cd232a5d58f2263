"""Order maps: laws of the map, crystals without a region, regions that are known, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from emqa_dask.detect.log import detect_image
from emqa_dask.settings import Detect
from emqa_dask.synthetic.lattices import CELLS
from emqa_dask.synthetic.profiles import make_sample
from emqa_dask.tune import band_filter, order_mixture, translations
from emqa_dask.tune.order import compute_order_map
from emqa_dask.tune.order_figures import draw_overlay, save_overlay

SIMULATED = Path(__file__).parents[2] / "../shared/data/abtem_sim"
SHAPE = (300, 320)


def columns(image, spacing_px, polarity="bright"):
    low, high = max(1.0, 0.13 * spacing_px), max(1.2, 0.3 * spacing_px)
    limits = {"min_sigma": low, "max_sigma": high, "num_sigma": 4, "threshold": 0.05, "overlap": 0.3}
    return detect_image(image, Detect(polarity=polarity, max_detections=20000, **limits))[["y_px", "x_px"]]


def crystal(seed=0, *, disorder=False, cell="SrTiO3 [001]", nm_per_pixel=0.022, **choices):
    choices = {"jitter_px": 0.3, "vacancies": 0.01, "dtype": "float32"} | choices
    sample = make_sample(
        "atomic-stem",
        np.random.default_rng(seed),
        SHAPE,
        clear=True,
        disorder=disorder,
        cell=cell,
        nm_per_pixel=nm_per_pixel,
        **choices,
    )
    return sample, columns(sample.image, sample.meta["spacing_px"])


def iou(a, b):
    return (a & b).sum() / max((a | b).sum(), 1)


@pytest.fixture(scope="module")
def damaged():
    """A crystal with a disordered region, its points and their map."""
    sample, points = crystal(5, disorder=True)
    return sample, points, compute_order_map(sample.image, points)


def test_a_disordered_region_is_found_where_it_is(damaged):
    sample, points, found = damaged
    truth = sample.meta["disordered"]
    assert iou(found.mask, truth) > 0.85
    assert found.area_fraction == pytest.approx(truth.mean(), abs=0.03)
    assert len(found.points) == len(points)
    y, x = np.rint(points.to_numpy()).astype(int).T
    assert (found.points["is_disordered"] == truth[y, x]).mean() > 0.95
    assert found.points["p_disordered"].between(0, 1).all()


@pytest.mark.parametrize(
    ("cell", "nm_per_pixel", "seed"),
    [("Au [110]", 0.025, 8), ("MoS2 [001]", 0.02, 8), ("YBCO [100]", 0.025, 8), ("Si [110]", 0.016, 10)],
)
def test_regions_are_found_in_other_crystals(cell, nm_per_pixel, seed):
    sample, points = crystal(seed, disorder=True, cell=cell, nm_per_pixel=nm_per_pixel)
    assert iou(compute_order_map(sample.image, points).mask, sample.meta["disordered"]) > 0.85


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_perfect_crystals_have_no_region(cell):
    sample, points = crystal(11, cell=cell, background=1.0)
    found = compute_order_map(sample.image, points)
    assert found.area_fraction == 0
    assert not found.mask.any()
    assert not found.points["is_disordered"].any()
    assert (found.tiles["disordered_fraction"] == 0).all()
    assert found.settings["covariance"] is None


def test_columns_displaced_at_random_are_a_region():
    rng = np.random.default_rng(3)
    y, x = (axis.ravel() for axis in np.mgrid[6:290:12, 6:310:12].astype(float))
    truth = np.zeros(SHAPE, bool)
    truth[80:220, 90:230] = True
    moved = truth[y.astype(int), x.astype(int)]
    y[moved] += rng.uniform(-6, 6, moved.sum())
    x[moved] += rng.uniform(-6, 6, moved.sum())
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    image = sum(np.exp(-((rows - a) ** 2 + (cols - b) ** 2) / 12) for a, b in zip(y, x))
    image = image + 0.05 * rng.standard_normal(SHAPE)
    found = compute_order_map(image, np.stack([y, x], 1))
    assert iou(found.mask, truth) > 0.85


@pytest.mark.parametrize("turns", [(0.1, 0.45, 0.8), (0.2, 1.1, 0.7), (0.1, 0.32, 0.32)])
def test_grains_are_no_disorder(turns):
    rows, cols = np.mgrid[:300, :300].astype(float)

    def lattice(turn):
        u, v = cols * np.cos(turn) + rows * np.sin(turn), rows * np.cos(turn) - cols * np.sin(turn)
        return np.exp(3 * (np.cos(2 * np.pi * u / 11) + np.cos(2 * np.pi * v / 11) - 2))

    grains = [lattice(turn) for turn in turns]
    image = np.where(cols < 120, grains[0], np.where(rows < 160, grains[1], grains[2]))
    image += 0.05 * np.random.default_rng(0).standard_normal(image.shape)
    assert compute_order_map(image, columns(image, 11)).area_fraction == 0


def test_a_texture_without_a_lattice_is_disordered_throughout():
    texture = band_filter.blur_image(np.random.default_rng(1).standard_normal(SHAPE), 2.5)
    found = compute_order_map(texture, columns(texture, 12))
    assert found.area_fraction > 0.97
    assert found.points["is_disordered"].mean() > 0.97


def test_white_noise_and_few_points_are_unknown():
    noise = np.random.default_rng(2).standard_normal(SHAPE)
    for found in (
        compute_order_map(noise, columns(noise, 8)),
        compute_order_map(noise, [[5, 5], [9, 9]]),
        compute_order_map(noise, []),
    ):
        assert np.isnan(found.area_fraction)
        assert found.points["p_disordered"].isna().all()
        assert not found.points["is_disordered"].any()
        assert found.tiles["disordered_fraction"].isna().all()
        assert found.settings["verdict"].startswith("unknown")


def test_vacuum_beside_a_crystal_is_not_claimed():
    sample, points = crystal(4)
    image = sample.image.copy()
    image[:, 180:] = image.min() + 1e-3 * np.random.default_rng(0).standard_normal((SHAPE[0], SHAPE[1] - 180))
    assert compute_order_map(image, points[points["x_px"] < 178]).area_fraction == 0


@pytest.mark.parametrize("turn", [np.rot90, np.fliplr, np.flipud])
def test_turning_the_image_turns_the_map(damaged, turn):
    sample, points, found = damaged
    y, x = points.to_numpy().T
    height, width = SHAPE
    moved = {np.rot90: (width - 1 - x, y), np.fliplr: (y, width - 1 - x), np.flipud: (height - 1 - y, x)}[turn]
    turned = compute_order_map(np.ascontiguousarray(turn(sample.image)), np.stack(moved, 1))
    assert iou(turned.mask, turn(found.mask)) > 0.97
    assert (turned.points["is_disordered"] == found.points["is_disordered"]).mean() > 0.99


@pytest.mark.parametrize(("gain", "offset"), [(7.3, 0), (1, -500), (1e-6, 3e-5), (1e5, 1e6)])
def test_gain_and_offset_change_nothing(damaged, gain, offset):
    sample, points, found = damaged
    changed = compute_order_map(gain * sample.image.astype(np.float64) + offset, points)
    assert iou(changed.mask, found.mask) > 0.999
    np.testing.assert_allclose(changed.points["p_disordered"], found.points["p_disordered"], atol=0.02)


def test_results_do_not_depend_on_point_order_or_repetition(damaged):
    sample, points, found = damaged
    turn = np.random.default_rng(0).permutation(len(points))
    shuffled = compute_order_map(sample.image, points.iloc[turn])
    np.testing.assert_array_equal(shuffled.mask, found.mask)
    pd.testing.assert_frame_equal(shuffled.points, found.points.iloc[turn].reset_index(drop=True))
    again = compute_order_map(sample.image, points.to_numpy())
    np.testing.assert_array_equal(again.mask, found.mask)
    pd.testing.assert_frame_equal(again.points, found.points)
    assert again.settings == found.settings


def test_the_image_and_the_points_are_left_alone(damaged):
    sample, points, _ = damaged
    image = sample.image.copy()
    before = points.copy()
    compute_order_map(image, points)
    np.testing.assert_array_equal(image, sample.image)
    pd.testing.assert_frame_equal(points, before)


def test_windows_tile_the_image_and_add_up(damaged):
    sample, points, _ = damaged
    found = compute_order_map(sample.image, points, window_px=70)
    windows = found.tiles
    area = (windows["y1"] - windows["y0"]) * (windows["x1"] - windows["x0"])
    assert area.sum() == found.mask.size
    assert windows["n_points"].sum() == len(points)
    assert (area * windows["disordered_fraction"]).sum() == pytest.approx(found.mask.sum())
    assert len(windows) == round(300 / 70) * round(320 / 70)


@pytest.mark.parametrize("covariance", order_mixture.COVARIANCES)
def test_every_covariance_type_finds_the_region(damaged, covariance):
    sample, points, _ = damaged
    found = compute_order_map(sample.image, points, covariance=covariance, threshold=0.7)
    assert (found.settings["covariance"], found.settings["threshold"]) == (covariance, 0.7)
    assert iou(found.mask, sample.meta["disordered"]) > 0.85


def test_the_chosen_pair_is_on_the_pareto_front(damaged):
    sample, points, found = damaged
    chosen = found.settings["compactness"], found.settings["perimeter_px"]
    for covariance in order_mixture.COVARIANCES:
        for threshold in order_mixture.THRESHOLDS:
            other = compute_order_map(sample.image, points, covariance=covariance, threshold=threshold).settings
            better = other["compactness"] > chosen[0] and other["perimeter_px"] < chosen[1]
            assert not better, (covariance, threshold)


def test_rewards_of_known_shapes():
    disc = np.hypot(*np.mgrid[-50:51, -50:51]) <= 40
    compactness, length = order_mixture.measure_regions(disc, px=0.5)
    assert compactness == pytest.approx(1, abs=0.12)
    assert length == pytest.approx(0.5 * 2 * np.pi * 40, rel=0.07)
    ragged = disc & (np.indices(disc.shape)[0] % 4 < 2)
    assert order_mixture.measure_regions(ragged)[0] < 0.2
    assert np.isnan(order_mixture.measure_regions(np.zeros((5, 5), bool))).all()


def test_translations_are_those_of_the_lattice():
    sample, _ = crystal(0, cell="MoS2 [001]", rotation_deg=0.0, jitter_px=0.0)
    a = 0.316 / sample.nm_per_pixel
    found = translations.find_translations(band_filter.filter_band(sample.image, sample.meta["spacing_px"]), None)
    lengths = np.sort(np.hypot(*found.T))
    np.testing.assert_allclose(lengths[:6], a, rtol=0.02)
    np.testing.assert_allclose(lengths[6:12], np.sqrt(3) * a, rtol=0.02)
    np.testing.assert_allclose(found.sum(axis=0), 0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": np.zeros((4, 4, 3))}, "shape"),
        ({"image": np.full(SHAPE, np.nan)}, "NaN"),
        ({"image": np.zeros(SHAPE, complex)}, "complex"),
        ({"points": [[1, 2, 3]]}, "shape"),
        ({"points": [[1, 999]]}, "outside"),
        ({"points": [[1, np.nan]]}, "outside"),
        ({"covariance": "round"}, "full, tied, diag, spherical"),
        ({"threshold": 1.5}, "threshold"),
        ({"patch_px": 1}, "patch_px"),
        ({"window_px": 0}, "window_px"),
    ],
)
def test_what_makes_no_sense_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        compute_order_map(**({"image": np.zeros(SHAPE), "points": [[1, 2]]} | change))


def test_the_overlay_shows_region_and_points(damaged, tmp_path):
    sample, points, found = damaged
    axes = draw_overlay(sample.image, found, title="crystal").axes[0]
    assert f"{100 * found.area_fraction:.1f} %" in axes.get_title()
    assert sum(len(line.get_xdata()) for line in axes.lines) == len(points)
    save_overlay(tmp_path / "map.png", sample.image, found)
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="belong together"):
        draw_overlay(sample.image[1:], found)


@pytest.mark.parametrize("name", ["sto_haadf_dose1e+05.tif", "sto_haadf_dose2e+06.tif"])
def test_a_multislice_crystal_is_ordered_until_a_part_is_scrambled(name):
    path = SIMULATED / name
    if not path.exists():
        pytest.skip(f"needs {path}, a data set that is not part of the repository")
    image = tifffile.imread(path).astype(np.float64)
    columns_px = json.loads((SIMULATED / "sto_haadf.json").read_text())["columns_px"]
    points = np.array([[column["y"], column["x"]] for column in columns_px])
    assert compute_order_map(image, points).area_fraction == 0
    rng = np.random.default_rng(0)
    truth = np.zeros(image.shape, bool)
    truth[100:260, 140:320] = True
    part = band_filter.blur_image(rng.standard_normal(image.shape), 5.0)
    part = image.mean() + image.std() * part / part.std() + 0.1 * image.std() * rng.standard_normal(image.shape)
    scrambled = np.where(truth, part, image)
    assert iou(compute_order_map(scrambled, columns(scrambled, 28)).mask, truth) > 0.75
