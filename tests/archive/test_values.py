"""No value of a file can stop a batch: dates, sizes, header numbers and texts are fitted, a row that is not fails."""

import math
import os
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
import tifffile
from bad_files import image, write_mrc
from hypothesis import given, settings
from hypothesis import strategies as st

from emqa_dask import tables
from emqa_dask.archive.metadata.headers import Header, flatten_metadata
from emqa_dask.archive.rows import clip_integer, dump_header, fit_row
from emqa_dask.archive.scan import scan_archive
from emqa_dask.archive.scan_remote import _make_remote_entry
from emqa_dask.archive.survey import survey_file
from emqa_dask.pipeline.tasks import survey as survey_tasks
from emqa_dask.pipeline.workspace import part_folders
from emqa_dask.settings import Archive, Settings
from emqa_dask.store import parts
from emqa_dask.store.layout import Workspace

YEAR_NS = 365 * 86400 * 10**9
LARGE = [10**400, -(10**400), 10**5000, 2**63, -(2**63) - 1]
ANY = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from(LARGE), st.floats(), st.text(), st.binary(),
    st.characters(categories=["Cs"]), st.just("a\0b"), st.lists(st.integers()), st.complex_numbers(),
    st.just(np.float32(1e38)), st.just(np.array([1, 2])),
)  # fmt: skip


@pytest.mark.parametrize("schema", [tables.CATALOG, tables.MICROGRAPHS], ids=["catalog", "micrographs"])
@settings(max_examples=30, deadline=None, database=None)
@given(data=st.data())
def test_any_value_fits_its_column(schema, data):
    values = data.draw(st.lists(ANY, min_size=2, max_size=4))
    rows = [fit_row(dict.fromkeys(schema.names, value), schema) for value in values]
    fitted = tables.conform(rows, schema)
    fitted.validate(full=True)
    assert fitted.num_rows == len(values)


@pytest.mark.parametrize(
    ("value", "kept"),
    [(0, 0), (-5, -5), (2**63 - 1, 2**63 - 1), (2**63, 2**63 - 1), (-(2**70), -(2**63)), (math.inf, 2**63 - 1),
     (-math.inf, -(2**63)), (math.nan, None), (2.0, 2), ("x", None), (10**400, 2**63 - 1)],
)  # fmt: skip
def test_integers_are_cut_to_64_bits(value, kept):
    assert clip_integer(value) == kept


def test_dates_before_1970_and_after_2262(tmp_path):
    dates = {"today": 0, "old": -20 * YEAR_NS, "new": 300 * YEAR_NS}
    for name, date in dates.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", image(1))
        os.utime(tmp_path / f"{name}.tif", ns=(date, date))
    kept = {name: os.stat(tmp_path / f"{name}.tif").st_mtime_ns for name in dates}
    if kept["new"] != dates["new"]:
        pytest.skip("this file system holds no date after 2262")
    entries = list(scan_archive(tmp_path))
    survey_tasks.survey_files(Workspace(str(tmp_path / "w")), "part", entries, Settings())
    rows = parts.read_part(str(tmp_path / "w"), part_folders.SURVEY_FILES, "part", tables.CATALOG).set_index("uri")
    assert rows["status"].eq("ok").all()
    assert rows.loc["old.tif", "modified_ns"] == -20 * YEAR_NS
    assert rows.loc["new.tif", "modified_ns"] == 2**63 - 1


@pytest.mark.parametrize(
    ("when", "kept"),
    [(1.5, 1_500_000_000), (1e30, 2**63 - 1), (math.nan, 0), (math.inf, 2**63 - 1), ("yesterday", 0),
     (datetime(9999, 1, 1, tzinfo=UTC), 2**63 - 1), (datetime(1960, 1, 1, tzinfo=UTC), -315_619_200 * 10**9)],
)  # fmt: skip
def test_dates_of_buckets(when, kept):
    entry = _make_remote_entry({"mtime": when, "size": 10**30}, "memory://x/a.tif", "a.tif")
    assert (entry.modified_ns, entry.size_bytes) == (kept, 2**63 - 1)


def test_row_that_fits_into_no_table_costs_that_file_alone(tmp_path, monkeypatch):
    for name in "abc":
        tifffile.imwrite(tmp_path / f"{name}.tif", image(ord(name)))
    entries = list(scan_archive(tmp_path))

    def read(entry, settings):  # a reader with a fault: a size of 70 bits, and a voltage that is a text
        row, found = survey_file(entry, settings)
        if entry.uri == "b.tif":
            row["size_bytes"] = 2**70
            found[0]["voltage_kv"] = "200 kV"
        return row, found

    monkeypatch.setattr(survey_tasks, "survey_file", read)
    survey_tasks.survey_files(Workspace(str(tmp_path / "w")), "part", entries, Settings())
    rows = parts.read_part(str(tmp_path / "w"), part_folders.SURVEY_FILES, "part", tables.CATALOG)
    frames = parts.read_part(str(tmp_path / "w"), part_folders.SURVEY_FRAMES, "part", tables.MICROGRAPHS)
    assert list(rows["status"]) == ["ok", "failed", "ok"]
    assert rows["reason"][1] == survey_tasks.UNSTORABLE
    assert "OverflowError" in rows["error"][1]
    assert list(frames["uri"]) == ["a.tif", "c.tif"]


def test_numbers_beyond_floats_in_headers_are_dropped(tmp_path):
    write_mrc(tmp_path / "x.mrc", image(1, dtype="float32")[None], angstrom=np.inf)
    (entry,) = scan_archive(tmp_path / "x.mrc")
    row, (found,) = survey_file(entry, Archive())
    assert row["status"] == "ok"
    assert math.isnan(found["nm_per_pixel"])
    assert flatten_metadata({"a": 10**400, "b": {"c": math.nan}, "d": 2**70}) == {"a": 10**400, "d": 2**70}
    assert dump_header({"name\ud800": "\ud800\0x", "huge": 10**5000, "n": 1}) == '{"name\\\\ud800": "x", "n": 1}'


def test_instrument_of_a_megabyte_is_cut():
    row = fit_row({"instrument": "x" * 10**6, "acquired": None, "magnification": 10**400}, tables.MICROGRAPHS)
    assert len(row["instrument"]) == 200
    assert row["acquired"] is None
    assert math.isnan(row["magnification"])
    assert Header().instrument is None


def test_types_that_no_rule_fits_are_refused_by_name():
    with pytest.raises((pa.ArrowException, ValueError, TypeError)):
        tables.conform([{"uri": 1.5, "size_bytes": "x"}], tables.CATALOG)
