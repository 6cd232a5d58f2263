"""The report's section on samples: rows, cut tables, plots against conditions, and hostile names."""

import re

import numpy as np
import pandas as pd

from emqa_dask import tables
from emqa_dask.report import sample_section


def make_samples(n: int = 3, **columns) -> pd.DataFrame:
    """Samples with objects of 2 to 4 nm, one row of all classes and one of a class each."""
    rows = []
    for k in range(n):
        for label in (None, "cavity"):
            rows.append(
                {
                    "grouping": "session",
                    "sample": f"s{k}",
                    "detector": "log",
                    "label": label,
                    "n_images": 10,
                    "n_measured": k + 1,
                    "excluded": [{"reason": "blur", "n_images": 4}],
                    "n_objects": 100,
                    "density_per_um2": 10.0 + k,
                    "density_per_um2_low": 9.0,
                    "density_per_um2_high": 15.0,
                    "mean_diameter_nm": 3.0,
                    "area_fraction": 0.25,
                    "size_counts": [5.0, 0.0, 2.0],
                    "size_low_nm": 2.0,
                    **{name: values[k] for name, values in columns.items()},
                }
            )
    return tables.conform(pd.DataFrame(rows), tables.SAMPLES).to_pandas()


def test_section_has_a_row_per_sample_with_intervals():
    (grouping,) = sample_section.fill_section(make_samples())["groupings"]
    assert [row["sample"] for row in grouping["rows"]] == ["s0", "s1", "s2"]  # the only class is not repeated
    row = grouping["rows"][1]
    assert (row["n_measured"], row["share"], row["excluded"]) == (2, 0.2, "blur 4")
    assert row["density"] == {"value": "11", "interval": "9 to 15"}
    assert row["area_fraction"]["value"] == "25 %"
    assert row["diameter"] == {"value": "3", "interval": ""}
    assert (grouping["n_images"], grouping["n_measured"]) == (30, 6)
    assert grouping["plots"] == []
    assert "<rect" in row["sizes"]


def test_no_micrographs_give_no_section():
    assert sample_section.fill_section(tables.empty(tables.SAMPLES)) is None


def test_plots_show_every_sample_with_a_condition():
    samples = make_samples(dose=[1.0, 2.0, np.nan], first_acquired=["2020-01-01", "2021-02-03T04:05:06", None])
    (grouping,) = sample_section.fill_section(samples)["groupings"]
    titles = [plot["title"] for plot in grouping["plots"]]
    assert titles == [
        *("Density against dose", "Density against date"),
        *("Mean diameter against dose", "Mean diameter against date"),
    ]
    assert all(plot["svg"].count("<circle") == 2 for plot in grouping["plots"])
    assert "2020-01-01" in grouping["plots"][1]["svg"]
    # The larger density is higher up.
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', grouping["plots"][0]["svg"])]
    assert heights[0] > heights[1]


def test_long_tables_are_cut_to_the_samples_with_most_images():
    n = sample_section.MAX_SAMPLES + 5
    (grouping,) = sample_section.fill_section(make_samples(n))["groupings"]
    assert (grouping["n_shown"], grouping["n_samples"]) == (sample_section.MAX_SAMPLES, n)
    assert {row["sample"] for row in grouping["rows"]} == {f"s{k}" for k in range(5, n)}


def test_plots_are_cut_to_the_samples_with_most_images():
    n = sample_section.MAX_POINTS + 5
    (grouping,) = sample_section.fill_section(make_samples(n, dose=np.arange(n)))["groupings"]
    assert grouping["plots"][0]["line"].endswith("the 500 samples with the most images")
    svg = grouping["plots"][0]["svg"]
    assert svg.count("<circle") == sample_section.MAX_POINTS
    assert "<title>s5: " in svg
    assert "<title>s4: " not in svg


def test_names_cannot_close_an_element_of_a_plot():
    samples = make_samples(dose=[1.0, 2.0, 3.0], sample=["</title><script>", "b", "c"])
    (grouping,) = sample_section.fill_section(samples)["groupings"]
    assert "<script" not in "".join(plot["svg"] for plot in grouping["plots"])


def test_sample_without_pixel_sizes_is_shown_in_pixels():
    columns = {"density_per_um2": [np.nan], "density_per_mpx": [70.0], "mean_diameter_nm": [np.nan]}
    samples = make_samples(1, **columns, mean_diameter_px=[9.0], size_counts=[[]], size_low_nm=[np.nan])
    (grouping,) = sample_section.fill_section(samples)["groupings"]
    assert grouping["rows"][0]["density"]["value"] == "70 per Mpx"
    assert grouping["rows"][0]["diameter"]["value"] == "9 px"
    assert grouping["has_pixels_only"]
    assert grouping["rows"][0]["sizes"] == ""
