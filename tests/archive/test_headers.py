"""Units, resolution tags, dates and cohorts: pixel sizes in nm or honestly unknown."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emqa_dask.archive.metadata.dates import parse_date
from emqa_dask.archive.metadata.headers import flatten_metadata
from emqa_dask.archive.metadata.pixel_size import resolution_to_nm
from emqa_dask.archive.metadata.pixel_size_outliers import find_pixel_size_outliers
from emqa_dask.archive.metadata.units import is_reciprocal, length_to_nm, nm_per_unit, parse_length_nm
from emqa_dask.archive.metadata.values import parse_number
from emqa_dask.archive.rows import dump_header


def test_units_to_nm():
    same = [(500, "pm"), (5, "Å"), (5, "\u212b"), (5, "A"), (5, "angstrom"), (0.5, "nm"), (5e-4, "µm"), (5e-4, "μm"),
            (5e-4, "um"), (5e-4, "micron"), (5e-7, "mm"), (5e-10, "m"), (5e-10, "meters")]  # fmt: skip
    assert [length_to_nm(*pair) for pair in same] == pytest.approx([0.5] * len(same))


def test_vendors_spellings_of_units():
    spelled = ["&#181;m", "[u_m]", "u_m", "\\u00b5m", "\\u00B5m", "micrometre", "Micrometers", "(um)", " µm "]
    assert [nm_per_unit(unit) for unit in spelled] == pytest.approx([1e3] * len(spelled))
    assert nm_per_unit("n_m") == nm_per_unit("[n_m]") == nm_per_unit("nanometer") == 1.0
    assert nm_per_unit("inch") == 2.54e7
    assert all(math.isnan(nm_per_unit(unit)) for unit in ("p_x", "pixel", "M", "s", "nm2", "1/nm"))


def test_length_texts():
    texts = ["1µm", "1000 nm", "1,0 µm", "0.001mm", "10000 Å"]
    assert [parse_length_nm(text) for text in texts] == pytest.approx([1000] * len(texts))
    assert parse_length_nm("2,48", "nm") == pytest.approx(2.48)
    assert all(math.isnan(parse_length_nm(text)) for text in ("", "5", "x nm", "5 px", None))


def test_an_axis_that_runs_backwards_has_a_size():
    assert length_to_nm(-0.5, "nm") == 0.5


@pytest.mark.parametrize("pair", [(1, "px"), (1, ""), (1, None), (0, "nm"), (math.inf, "nm"), ("x", "nm")])
def test_no_length_is_nan(pair):
    assert math.isnan(length_to_nm(*pair))


@given(st.floats(1e-6, 1e6), st.sampled_from(["pm", "Å", "nm", "µm", "mm", "cm", "m", "inch", "nanometre"]))
def test_units_scale_linearly(value, unit):
    assert length_to_nm(2 * value, unit) == pytest.approx(2 * length_to_nm(value, unit))


def test_reciprocal_units_are_no_lengths():
    for unit in ("1/nm", "1 / nm", "nm^-1", "1/Å", "mrad", "rad", "nm⁻¹"):
        assert is_reciprocal(unit)
        assert math.isnan(length_to_nm(1.0, unit))
    assert not any(is_reciprocal(u) for u in ("nm", "µm", "", None, "m"))


@pytest.mark.parametrize("dpi", [72, 96, 150, 300, 600, 1200, 3200, 4000, 4800])
def test_print_settings_are_no_pixel_size(dpi):
    assert math.isnan(resolution_to_nm((dpi, 1), 2))
    assert math.isnan(resolution_to_nm((dpi * 1000, 2540), 3))


def test_microscope_resolution_counts():
    assert resolution_to_nm((50_000_000, 1), 3) == pytest.approx(0.2)
    assert resolution_to_nm((25_400_000, 1), 2) == pytest.approx(1.0)
    assert math.isnan(resolution_to_nm((25_400_000, 1), 1))
    assert math.isnan(resolution_to_nm((0, 1), 2))
    assert math.isnan(resolution_to_nm((1, 0), 2))


def test_numbers_and_dates():
    assert parse_number("  1.5e3 ") == 1500
    assert parse_number(b"7") == 7
    assert parse_number((1, 4)) == 0.25
    assert all(math.isnan(parse_number(v)) for v in ("notafloat", None, "", "nan", (1, 0), [], float("inf")))
    assert parse_date("2018:11:15 19:42:31") == "2018-11-15T19:42:31"
    assert parse_date("06/13/2016", "05:06:40 PM", month_first=True) == "2016-06-13T17:06:40"
    assert parse_date("13 Jul 2018", "10:00:00") == "2018-07-13T10:00:00"
    assert parse_date("2016-02-03") == "2016-02-03T00:00:00"
    assert parse_date("yesterday-ish") is None
    assert parse_date("12:18:34") is None  # and not today's date with that time
    assert parse_date("March 2019") is None
    assert parse_date(None) is None


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.just(np.float32("nan"))
trees = st.recursive(scalars, lambda t: st.dictionaries(st.text() | st.integers(), t) | st.lists(t), max_leaves=8)


@settings(max_examples=50)
@given(st.dictionaries(st.text(max_size=8), trees, max_size=5))
def test_header_json_is_strict_and_short(tree):
    words = dump_header(tree)
    assert len(words.encode()) < 4096
    assert isinstance(json.loads(words, parse_constant=pytest.fail), dict)


def test_header_json_stays_short_for_much_metadata():
    words = dump_header({f"key {k}": {"inner": "x" * 100, "surrogate": "\udc80"} for k in range(1000)})
    assert 3000 < len(words.encode()) < 4096


def test_prune_flattens():
    assert flatten_metadata({"a": {"b": 1, "c": [1, 2]}, "d": b"text\0", "e": math.nan}) == {"a.b": 1, "d": "text"}


def test_cohorts_flag_tenfold_and_hundredfold():
    size = np.array([1.0, 1.1, 0.9, 1.0, 10.5, 0.0105, 2.0, np.nan, 5.0, 50.0])
    cohort = np.array(["a"] * 8 + ["b", "b"], dtype=object)
    assert np.flatnonzero(find_pixel_size_outliers(size, cohort)).tolist() == [4, 5]
    assert find_pixel_size_outliers(np.array([]), np.array([])).shape == (0,)
    assert not find_pixel_size_outliers(np.array([1.0, 1.0, 1.0, 10.0]), np.array([None] * 4, dtype=object)).any()


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=30), st.floats(0.01, 100), st.randoms(use_true_random=False))
def test_cohorts_do_not_depend_on_unit_or_order(sizes, factor, random):
    sizes = np.array(sizes)
    cohort = np.array(["a", "b"], dtype=object)[np.arange(len(sizes)) % 2]
    flags = find_pixel_size_outliers(sizes, cohort)
    order = list(range(len(sizes)))
    random.shuffle(order)
    np.testing.assert_array_equal(find_pixel_size_outliers(sizes[order], cohort[order]), flags[order])
    np.testing.assert_array_equal(find_pixel_size_outliers(sizes * 2.0 ** round(math.log2(factor)), cohort), flags)
