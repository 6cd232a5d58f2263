"""Measurements of one image against hand calculations, and edge corrections against simulated fields."""

import dataclasses
import math

import numpy as np
import pytest

from emqa_dask.measure import weighted
from emqa_dask.measure.edge_correction import compute_edge_weights
from emqa_dask.measure.micrograph import Field, Objects, measure_objects
from emqa_dask.measure.neighbours import compute_neighbour_distance
from emqa_dask.measure.sizes import BIN_LIMITS, N_BINS, count_sizes
from emqa_dask.measure.swelling import compute_swelling
from emqa_dask.settings import Measure, Settings, SettingsError
from emqa_dask.tables import MEASUREMENTS, SIZES, conform


def make_disks(centres, diameters, shape, labels=None) -> Objects:
    """Disks with the boxes that a detector gives: clipped to the image. Centres y, x of pixels, px."""
    centres = np.asarray(centres, float).reshape(-1, 2)
    diameters = np.asarray(diameters, float).reshape(-1)
    radii = diameters[:, None] / 2
    boxes = np.clip(np.hstack([centres + 0.5 - radii, centres + 0.5 + radii]), 0, [*shape, *shape])
    labels = np.array(["cavity"] * len(diameters) if labels is None else labels, object)
    return Objects(centres, boxes, math.pi / 4 * diameters**2, np.ones(len(diameters)), diameters, labels)


def test_measurements_equal_a_hand_calculation():
    disks = make_disks([[50, 50], [50, 150], [90, 50]], [10, 20, 30], (100, 200))
    settings = Measure(foil_thickness_nm=80, foil_thickness_uncertainty_nm=8, edge_correction=False)
    (row, of_class), sizes = measure_objects(disks, Field((100, 200), 0.5), settings)

    assert (row["label"], of_class["label"]) == (None, "cavity")
    assert {**of_class, "label": None} == pytest.approx(row, nan_ok=True)
    assert (row["n_objects"], row["n_cut"], row["n_corrected"]) == (3, 1, 3)
    assert row["area_um2"] == pytest.approx(100 * 200 * 0.25e-6)
    assert row["density_per_nm2"] == pytest.approx(3 / 5000)
    assert row["density_per_um2"] == pytest.approx(600)
    assert row["density_per_um3"] == pytest.approx(600 / 0.08)
    assert row["density_per_mpx"] == pytest.approx(150)
    assert (row["mean_diameter_px"], row["mean_diameter_nm"]) == (20, 10)
    assert row["std_diameter_nm"] == pytest.approx(math.sqrt(200 / 3) / 2)
    assert row["d50_px"] == 20
    assert row["area_fraction"] == pytest.approx(math.pi / 4 * (100 + 400 + 900) / 20000)
    volume = math.pi / 6 * (5**3 + 10**3 + 15**3)
    assert row["volume_nm3"] == pytest.approx(volume)
    assert row["swelling_percent"] == pytest.approx(100 * volume / (5000 * 80 - volume))
    # Central difference of the formula at 80 nm +- 0.01 nm.
    low, high = (100 * volume / (5000 * t - volume) for t in (80.01, 79.99))
    assert row["swelling_uncertainty_percent"] == pytest.approx(8 * (high - low) / 0.02, rel=1e-6)
    assert sum(size["n_objects"] for size in sizes if size["label"] is None) == 3
    conform([{"micrograph_id": "a", "detector": "log", **row}], MEASUREMENTS)
    conform([{"micrograph_id": "a", "detector": "log", **size} for size in sizes], SIZES)


def test_image_without_objects_has_zeros_and_no_sizes():
    (row,), sizes = measure_objects(make_disks([], [], (64, 64)), Field((64, 64), 1.0), Measure(foil_thickness_nm=50))
    for name in ("n_objects", "n_cut", "n_corrected", "density_per_nm2", "area_fraction", "volume_nm3"):
        assert row[name] == 0, name
    assert row["swelling_percent"] == 0
    assert math.isnan(row["mean_diameter_px"])
    assert math.isnan(row["neighbour_distance_nm"])
    assert sizes == []


@pytest.mark.parametrize("nm_per_pixel", [math.nan, 0.0, -1.0])
def test_unknown_pixel_size_leaves_pixels_only(nm_per_pixel):
    disks = make_disks([[50, 50], [20, 30]], [10, 20], (100, 200))
    (row, _), sizes = measure_objects(disks, Field((100, 200), nm_per_pixel), Measure(foil_thickness_nm=50))
    assert row["mean_diameter_px"] > 0
    assert row["density_per_mpx"] > 0
    in_nm = [name for name in row if name.endswith(("_nm", "_nm2", "_nm3", "_um2", "_um3", "_percent"))]
    assert [name for name in in_nm if not math.isnan(row[name])] == ["foil_thickness_nm"]
    assert {size["unit"] for size in sizes} == {"px"}


def test_object_with_an_empty_mask_counts_without_a_size():
    disks = make_disks([[50, 50], [20, 30]], [10, 20], (100, 200))
    disks.diameters_px[1] = disks.areas_px[1] = np.nan
    (row, _), _ = measure_objects(disks, Field((100, 200), 1.0), Measure(edge_correction=False))
    assert (row["n_objects"], row["mean_diameter_px"]) == (2, 10)
    assert row["area_fraction"] == pytest.approx(math.pi / 4 * 100 / 20000)
    assert row["volume_nm3"] == pytest.approx(math.pi / 6 * 1000)


def test_pixels_that_are_not_square_count_by_their_area():
    disks = make_disks([[50, 50]], [10], (100, 200))
    (row, _), _ = measure_objects(disks, Field((100, 200), 1.0, 4.0), Measure())
    assert row["area_um2"] == pytest.approx(100 * 200 * 4e-6)
    assert row["mean_diameter_nm"] == 20


def test_classes_are_measured_apart_and_together():
    disks = make_disks([[20, 20], [50, 50], [70, 70]], [4, 6, 8], (100, 100), ["loop", "cavity", "loop"])
    rows, _ = measure_objects(disks, Field((100, 100), 1.0), Measure(edge_correction=False))
    assert [(row["label"], row["n_objects"], row["mean_diameter_px"]) for row in rows] == [
        (None, 3, 6),
        ("cavity", 1, 6),
        ("loop", 2, 6),
    ]


def test_swelling_is_unknown_without_thickness_or_room():
    assert math.isnan(compute_swelling(100, 10, math.nan)[0])
    assert math.isnan(compute_swelling(100, 10, 0)[0])
    assert math.isnan(compute_swelling(100, 10, 10)[0])  # as much volume as the foil
    assert compute_swelling(0, 10, 10)[0] == 0


def test_thickness_has_to_exceed_its_uncertainty():
    settings = Settings()
    with pytest.raises(SettingsError, match="foil_thickness_uncertainty_nm"):
        dataclasses.replace(settings, measure=Measure(foil_thickness_uncertainty_nm=5)).check()


def simulate_field(rng, density, shape, draw_diameters) -> Objects:
    """Disks with uniform centres on a plane, as the window of `shape` shows them. density per px."""
    margin = 60
    height, width = (side + 2 * margin for side in shape)
    n = rng.poisson(density * height * width)
    centres = rng.uniform(0, 1, (n, 2)) * [height, width] - margin
    diameters = draw_diameters(n)
    nearest = np.clip(centres, 0, shape)
    is_seen = np.hypot(*(centres - nearest).T) < diameters / 2
    return make_disks(centres[is_seen] - 0.5, diameters[is_seen], shape)


def test_edge_correction_is_unbiased_where_the_plain_count_is_not():
    rng = np.random.default_rng(3)
    shape = (256, 320)
    density = 0.004  # per px; the standard error of the mean of 200 fields is 0.4 %

    def draw(n):
        return rng.choice([10.0, 30.0, 60.0], n, p=[0.5, 0.3, 0.2])

    rows = []
    for _ in range(200):
        disks = simulate_field(rng, density, shape, draw)
        rows.append(measure_objects(disks, Field(shape, 1.0), Measure())[0][0])
    area = math.prod(shape)
    corrected = np.mean([row["n_corrected"] for row in rows]) / area
    plain = np.mean([row["n_objects"] for row in rows]) / area
    assert corrected == pytest.approx(density, rel=0.01)
    assert abs(plain / density - 1) > 0.05
    uncut = np.mean([row["n_objects"] - row["n_cut"] for row in rows]) / area
    assert abs(uncut / density - 1) > 0.05
    weights = [row["n_corrected"] for row in rows]
    assert np.average([row["mean_diameter_px"] for row in rows], weights=weights) == pytest.approx(26, rel=0.01)
    assert np.mean([row["area_fraction"] for row in rows]) == pytest.approx(
        density * math.pi / 4 * (0.5 * 100 + 0.3 * 900 + 0.2 * 3600), rel=0.015
    )


def test_edge_weight_by_hand():
    boxes = [[10, 10, 20, 30], [0, 10, 20, 30], [0.5, 10, 20, 30], [10, 10, 20, 100], [1, 1, 99, 99]]
    weights = compute_edge_weights(boxes, (100, 100))
    assert weights[0] == pytest.approx(100 * 100 / (88 * 78))
    assert list(weights[1:4]) == [0, 0, 0]
    assert weights[4] == pytest.approx(10 * 10)  # as large as the image, less its margin: the largest weight
    assert compute_edge_weights(np.zeros((0, 4)), (5, 5)).shape == (0,)


def test_neighbour_distance_is_that_of_a_poisson_process():
    rng = np.random.default_rng(0)
    shape = (200, 200)
    density = 60 / math.prod(shape)
    distances = []
    weights = []
    for _ in range(200):
        n = rng.poisson(density * math.prod(shape))
        distance = compute_neighbour_distance(rng.uniform(0, 1, (n, 2)) * shape - 0.5, shape)
        distances.append(distance)
        weights.append(n)
    # The mean of a Poisson process of density rho is 1 / (2 sqrt(rho)).
    assert np.average(distances, weights=weights) == pytest.approx(1 / (2 * math.sqrt(density)), rel=0.01)


def test_neighbour_distance_needs_two_objects_away_from_the_edge():
    assert math.isnan(compute_neighbour_distance([[5, 5]], (20, 20)))
    assert math.isnan(compute_neighbour_distance([[1, 1], [18, 18]], (20, 20)))
    assert compute_neighbour_distance([[9, 8], [9, 12]], (20, 20)) == 4


def test_weighted_statistics_equal_those_of_repeated_values():
    rng = np.random.default_rng(1)
    values = rng.normal(size=40)
    weights = rng.integers(1, 6, 40).astype(float)
    repeated = np.repeat(values, weights.astype(int))
    assert weighted.compute_mean(values, weights) == pytest.approx(repeated.mean())
    assert weighted.compute_std(values, weights) == pytest.approx(repeated.std())
    equal = weighted.compute_quantiles(values, np.ones(40), (0.1, 0.5, 0.9))
    assert equal == pytest.approx(np.quantile(values, (0.1, 0.5, 0.9), method="hazen"))
    assert weighted.compute_quantiles(np.array([np.nan]), np.ones(1), (0.5,)) == pytest.approx([math.nan], nan_ok=True)


def test_bins_of_sizes_hold_every_finite_diameter():
    diameters = np.array([10.0, 10.1, 0.0, 1e12, np.nan, 5.0])
    weights = np.array([1.0, 2.0, 1.0, 1.0, 1.0, 0.0])
    bins, n_objects, n_corrected = count_sizes(diameters, weights)
    assert bins[0] == 0
    assert bins[-1] == N_BINS - 1
    assert BIN_LIMITS[bins[1]] == 10
    assert list(n_objects) == [1, 2, 1]
    assert list(n_corrected) == [1, 3, 1]
    assert len(BIN_LIMITS) == N_BINS + 1
    assert (np.diff(BIN_LIMITS) > 0).all()
