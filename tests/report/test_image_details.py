"""The view of an image says what is known about its acquisition, and the numbers of custom checks."""

import math

import numpy as np
import pandas as pd

from emqa_dask import tables
from emqa_dask.report.image_details import describe_checks, describe_headers
from emqa_dask.settings.custom_checks import CustomCheck


def describe(**values) -> list[tuple[str, str]]:
    """Details of a micrograph of which only `values` are known."""
    rows = tables.conform([{"micrograph_id": "m", **values}], tables.MICROGRAPHS).to_pandas()
    return describe_headers(rows)["m"]


def test_known_values_are_shown_with_their_units():
    assert describe(
        instrument="TEM 1", voltage_kv=200, magnification=50_000, acquired="2021-03-04T05:06:07", detector="HAADF",
        dose_e_per_nm2=1234.5678, exposure_s=0.25, stage_x_um=-12.5, stage_y_um=3.0, tilt_deg=30.0,
    ) == [
        ("Microscope", "TEM 1, 200 kV, 50,000×"),
        ("Acquired", "2021-03-04 05:06:07"),
        ("Camera or signal", "HAADF"),
        ("Dose", "1,235 e/nm²"),
        ("Exposure", "0.25 s"),
        ("Stage", "x -12.5 µm, y 3 µm, tilt 30°"),
    ]  # fmt: skip


def test_unknown_values_are_left_out():
    assert describe() == []
    assert describe(voltage_kv=80.0, dose_e_per_nm2=math.nan) == [("Microscope", "80 kV")]


def test_invisible_characters_of_a_header_are_escaped():
    assert describe(detector="camera\u202e\n") == [("Camera or signal", "camera\\u202e\\n")]


def test_checks_have_their_numbers_and_limits():
    checks = (CustomCheck("sharp_edge", "m:f", 0.5, False), CustomCheck("level", "m:g", 3.0, True))
    values = pd.DataFrame(
        [("a", "level", 4.0), ("a", "sharp_edge", 0.123456), ("b", "level", np.nan)],
        columns=tables.CUSTOM_CHECKS.names,
    )
    assert describe_checks(values, checks) == {
        "a": [("Check sharp edge", "0.1235 (fault below 0.5)"), ("Check level", "4 (fault above 3)")],
        "b": [("Check level", "unknown (fault above 3)")],
    }
