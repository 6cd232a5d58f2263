"""Results of samples against hand calculations, and their intervals against simulated samples."""

import math

import numpy as np
import pandas as pd
import pytest

from emqa_dask.measure.sample_intervals import N_BUCKETS, bootstrap_ratios
from emqa_dask.measure.samples import NO_PIXEL_SIZE, SampleTotals
from emqa_dask.measure.sizes import BIN_LIMITS
from emqa_dask.tables import MEASUREMENTS, SAMPLES, SIZES, conform


def make_measurement(name, n, diameter_nm, *, label=None, sample="a", area_um2=2.0, detector="log") -> dict:
    """A row of an image of 1000 x 1000 px with `n` objects of one diameter."""
    side_nm = math.sqrt(area_um2)
    return {
        "sample": sample,
        "micrograph_id": name,
        "detector": detector,
        "label": label,
        "n_objects": n,
        "n_corrected": float(n),
        "area_um2": area_um2,
        "foil_thickness_nm": 100.0,
        "density_per_um2": n / area_um2,
        "mean_diameter_nm": diameter_nm if n else math.nan,
        "mean_diameter_px": diameter_nm / side_nm if area_um2 > 0 and n else diameter_nm if n else math.nan,
        "area_fraction": 0.01 * n,
        "volume_nm3": n * math.pi / 6 * diameter_nm**3,
        "height_px": 1000,
        "width_px": 1000,
    }


def make_sizes(rows: list[dict]) -> pd.DataFrame:
    """The sizes of rows of make_measurement()."""
    sizes = [
        {
            **{name: row[name] for name in ("sample", "micrograph_id", "detector", "label")},
            "unit": "nm",
            "low": BIN_LIMITS[np.searchsorted(BIN_LIMITS, row["mean_diameter_nm"], "right") - 1],
            "n_corrected": row["n_corrected"],
        }
        for row in rows
        if row["n_objects"] and row["area_um2"] > 0
    ]
    return pd.DataFrame(sizes, columns=["sample", *SIZES.names])


def summarise(rows: list[dict], images: list[dict] = ()) -> pd.DataFrame:
    totals = SampleTotals()
    images = images or [
        {"sample": row["sample"], "verdict": "trust", "reason": None, "acquired": None, "is_overlapping": False}
        for row in rows
        if row["label"] is None
    ]
    totals.add_images(pd.DataFrame(images))
    totals.add_measurements(
        pd.DataFrame(rows, columns=["sample", *MEASUREMENTS.names, "height_px", "width_px"]), make_sizes(rows)
    )
    table = conform(pd.DataFrame(list(totals.summarise(5.0)), columns=SAMPLES.names), SAMPLES)
    return table.to_pandas()


def test_results_equal_a_hand_calculation():
    (row,) = summarise([make_measurement("x", 10, 20.0), make_measurement("y", 30, 40.0)]).to_dict("records")
    assert (row["sample"], row["n_images"], row["n_trusted"], row["n_measured"], row["n_objects"]) == ("a", 2, 2, 2, 40)
    assert row["area_um2"] == 4
    assert row["density_per_um2"] == pytest.approx(10)
    assert row["mean_diameter_nm"] == pytest.approx((10 * 20 + 30 * 40) / 40)
    assert row["area_fraction"] == pytest.approx(0.2)
    volume = math.pi / 6 * (10 * 20**3 + 30 * 40**3)
    assert row["swelling_percent"] == pytest.approx(100 * volume / (4e6 * 100 - volume))
    assert row["swelling_uncertainty_percent"] == pytest.approx(0.05 * row["swelling_percent"], rel=0.01)
    assert row["density_std_per_um2"] == pytest.approx(np.std([5, 15], ddof=1))
    assert row["mean_diameter_std_nm"] == pytest.approx(np.std([20, 40], ddof=1))
    assert math.isnan(row["density_per_mpx"])
    assert sum(row["size_counts"]) == 40
    assert row["d10_nm"] == pytest.approx(20, rel=0.13)
    assert row["d50_nm"] == pytest.approx(40, rel=0.13)


def test_five_images_have_intervals():
    rows = [make_measurement(name, 10 + 5 * k, 20.0 + k) for k, name in enumerate("vwxyz")]
    (row,) = summarise(rows).to_dict("records")
    assert row["density_per_um2"] == pytest.approx(10)
    assert row["density_per_um2_low"] < 10 < row["density_per_um2_high"]
    assert row["swelling_percent_low"] < row["swelling_percent"] < row["swelling_percent_high"]
    (row,) = summarise(rows[:4]).to_dict("records")
    assert math.isnan(row["density_per_um2_low"])
    assert math.isnan(row["density_per_um2_high"])
    assert math.isfinite(row["density_std_per_um2"])


def test_one_image_has_values_without_intervals():
    (row,) = summarise([make_measurement("x", 10, 20.0)]).to_dict("records")
    assert row["density_per_um2"] == 5
    for name in ("density_per_um2_low", "density_per_um2_high", "density_std_per_um2", "swelling_percent_low"):
        assert math.isnan(row[name]), name


def test_images_without_a_class_count_with_their_area():
    rows = [
        make_measurement("x", 10, 20.0),
        make_measurement("x", 10, 20.0, label="loop"),
        make_measurement("y", 0, 1.0),
    ]
    table = summarise(rows).set_index(pd.Index(["all", "loop"]))
    assert table.loc["loop", "label"] == "loop"
    assert list(table["density_per_um2"]) == [2.5, 2.5]
    assert table["n_measured"].eq(2).all()


def test_images_without_pixel_size_are_left_out_beside_others():
    rows = [make_measurement("x", 10, 20.0), make_measurement("y", 50, 9.0, area_um2=math.nan)]
    (row,) = summarise(rows).to_dict("records")
    assert row["density_per_um2"] == 5
    assert row["n_measured"] == 1
    assert list(row["excluded"]) == [{"reason": NO_PIXEL_SIZE, "n_images": 1}]


def test_sample_without_pixel_sizes_has_results_in_pixels():
    rows = [make_measurement(name, 50, 9.0, area_um2=math.nan) for name in "xy"]
    (row,) = summarise(rows).to_dict("records")
    assert row["density_per_mpx"] == 50
    assert row["mean_diameter_px"] == 9
    for name in ("density_per_um2", "mean_diameter_nm", "swelling_percent", "d50_nm", "area_um2"):
        assert math.isnan(row[name]), name


def test_sample_without_trusted_images_has_one_row_with_reasons():
    images = [
        {"sample": "a", "verdict": "review", "reason": "blur", "acquired": "2021-05-01", "is_overlapping": True},
        {"sample": "a", "verdict": "junk", "reason": "blank", "acquired": None, "is_overlapping": False},
        {
            "sample": "a",
            "verdict": "review",
            "reason": "blur",
            "acquired": "2020-05-01T10:00:00",
            "is_overlapping": True,
        },
    ]
    (row,) = summarise([], images).to_dict("records")
    assert (row["n_images"], row["n_trusted"], row["n_measured"], row["n_overlapping"]) == (3, 0, 0, 2)
    assert pd.isna(row["detector"])
    assert list(row["excluded"]) == [{"reason": "blur", "n_images": 2}, {"reason": "blank", "n_images": 1}]
    assert (row["first_acquired"], row["last_acquired"]) == ("2020-05-01T10:00:00", "2021-05-01")
    assert math.isnan(row["density_per_um2"])


def test_trusted_images_without_measurements_are_left_out_with_reason():
    trusted = {"verdict": "trust", "reason": None, "acquired": None, "is_overlapping": False}
    images = [{"sample": name} | trusted for name in "aaab"]
    rows = summarise([make_measurement("x", 10, 20.0)], images).set_index("sample")
    assert list(rows.loc["a", "excluded"]) == [{"reason": "not_measured", "n_images": 2}]
    assert list(rows.loc["b", "excluded"]) == [{"reason": "not_measured", "n_images": 1}]
    assert (rows.loc["a", "n_measured"], rows.loc["b", "n_measured"]) == (1, 0)


def test_samples_without_objects_have_a_density_of_zero():
    (row,) = summarise([make_measurement(name, 0, 1.0) for name in "vwxyz"]).to_dict("records")
    assert (row["density_per_um2"], row["density_per_um2_low"], row["density_per_um2_high"]) == (0, 0, 0)
    assert row["swelling_percent"] == 0
    assert math.isnan(row["mean_diameter_nm"])
    assert len(row["size_counts"]) == 0


def test_batches_give_the_same_totals_as_one():
    rng = np.random.default_rng(0)
    rows = [make_measurement(f"{k:04x}", int(n), 20.0 + k % 7) for k, n in enumerate(rng.poisson(5, 700))]
    trusted = {"sample": "a", "verdict": "trust", "reason": None, "acquired": None, "is_overlapping": False}
    images = [trusted] * len(rows)
    whole = SampleTotals()
    batched = SampleTotals()
    for totals, size in ((whole, 700), (batched, 64)):
        for start in range(0, 700, size):
            part = rows[start : start + size]
            totals.add_images(pd.DataFrame(images[start : start + size]))
            totals.add_measurements(pd.DataFrame(part), make_sizes(part))
    (a,), (b,) = list(whole.summarise(0)), list(batched.summarise(0))
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert value == pytest.approx(b[name], nan_ok=True) if isinstance(value, float) else value == b[name], name
    assert a["n_measured"] == 700 > N_BUCKETS


@pytest.mark.parametrize(("n_images", "least_coverage"), [(5, 0.89), (40, 0.93)])
def test_intervals_cover_the_truth(n_images, least_coverage):
    """Overdispersed counts. Of 1,500 samples 91 % and 95 % covered it; less two standard errors of 700."""
    rng = np.random.default_rng(11)
    n_covered = 0
    for _ in range(700):
        areas = rng.uniform(1, 2, n_images)
        counts = rng.poisson(rng.negative_binomial(8, 8 / (8 + 20), n_images) * areas)
        totals = np.column_stack([counts, areas])
        _, low, high = bootstrap_ratios(totals, {"density": lambda t: t[..., 0] / t[..., 1]})["density"]
        n_covered += low <= 20 <= high
    assert least_coverage <= n_covered / 700 <= 0.97
