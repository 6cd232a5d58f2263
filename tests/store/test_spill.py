"""Rows come back in order, all of them, however they were put in; bytes come back as they were."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emqa_dask.store import spill
from emqa_dask.store.spill import RangeSort, SpillFile

SCHEMA = pa.schema([("name", pa.string()), ("part", pa.int32()), ("data", pa.binary())])
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)


KEYS = st.tuples(NAMES, st.integers(-1, 5))


@given(
    keys=st.lists(KEYS, max_size=120), limits=st.lists(KEYS, max_size=9), run=st.integers(1, 40), cut=st.integers(1, 50)
)
@settings(deadline=None)
def test_rows_come_back_sorted_as_python_sorts(keys, limits, run, cut):
    rows = [{"name": n, "part": p, "data": bytes([k])} for k, (n, p) in enumerate(keys)]
    with pytest.MonkeyPatch.context() as patch, RangeSort(SCHEMA, ("name", "part"), sorted(limits)) as ranges:
        patch.setattr(spill, "ROWS_PER_RUN", run)
        for k in range(0, len(rows), cut):
            ranges.add(pa.Table.from_pylist(rows[k : k + cut], SCHEMA))
        for _ in range(2):  # the same again
            found = [row for table in ranges.iterate_sorted() for row in table.to_pylist()]
            assert [(row["name"], row["part"]) for row in found] == sorted(keys)
            assert sorted(row["data"] for row in found) == sorted(row["data"] for row in rows)
        names = [name for table in ranges.iterate_sorted(["name", "part"]) for name in table["name"].to_pylist()]
        assert names == sorted(name for name, _ in keys)


def test_a_table_is_never_in_memory_as_a_whole(monkeypatch):
    monkeypatch.setattr(spill, "ROWS_PER_RUN", 200)
    order = np.random.default_rng(0).permutation(20_000)
    limits = [(k,) for k in range(500, 20_000, 500)]
    with RangeSort(pa.schema([("key", pa.int64())]), ["key"], limits) as ranges:
        for part in np.split(order, 200):
            ranges.add(pa.table({"key": part}))
        found = [table["key"].to_numpy() for table in ranges.iterate_sorted()]
    np.testing.assert_array_equal(np.concatenate(found), np.arange(20_000))
    assert {len(keys) for keys in found} == {500}


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_bytes_come_back(pieces):
    with SpillFile() as spilled:
        at = [spilled.append(piece) for piece in pieces]
        assert spilled.n_bytes == sum(map(len, pieces))
        for offset, piece in reversed(list(zip(at, pieces))):
            assert spilled.get(offset, len(piece)) == piece


def test_nothing_is_left_in_the_folder(tmp_path):
    spilled = SpillFile(str(tmp_path))
    spilled.append(b"abc")
    assert list(tmp_path.iterdir()) == []
    spilled.close()
