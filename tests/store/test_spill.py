"""Rows come back in order, all of them, however they were put in; bytes come back as they were."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emqa_dask.store import spill
from emqa_dask.store.spill import ExternalSort, SpillFile

SCHEMA = pa.schema([("name", pa.string()), ("part", pa.int32()), ("data", pa.binary())])
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)


@given(
    keys=st.lists(st.tuples(NAMES, st.integers(-1, 5)), max_size=120),
    run=st.integers(1, 40),
    chunk=st.integers(1, 9),
    cut=st.integers(1, 50),
)
@settings(deadline=None)
def test_rows_come_back_sorted_as_python_sorts(keys, run, chunk, cut):
    rows = [{"name": n, "part": p, "data": bytes([k])} for k, (n, p) in enumerate(keys)]
    with pytest.MonkeyPatch.context() as patch, ExternalSort(SCHEMA, ("name", "part")) as runs:
        patch.setattr(spill, "ROWS_PER_RUN", run)
        patch.setattr(spill, "ROWS_PER_CHUNK", chunk)
        for k in range(0, len(rows), cut):
            runs.add(pa.Table.from_pylist(rows[k : k + cut], SCHEMA))
        for _ in range(2):  # the same again
            tables = list(runs.iterate_sorted(10))
            found = [row for table in tables for row in table.to_pylist()]
            assert [(row["name"], row["part"]) for row in found] == sorted(keys)
            assert sorted(row["data"] for row in found) == sorted(row["data"] for row in rows)
            assert all(len(table) >= 10 for table in tables[:-1])


def test_a_table_is_never_in_memory_as_a_whole(monkeypatch):
    monkeypatch.setattr(spill, "ROWS_PER_RUN", 200)
    monkeypatch.setattr(spill, "ROWS_PER_CHUNK", 10)
    order = np.random.default_rng(0).permutation(20_000)
    with ExternalSort(pa.schema([("key", pa.int64())]), ["key"]) as runs:
        for part in np.split(order, 200):
            runs.add(pa.table({"key": part}))
        sizes = []
        found = []
        for table in runs.iterate_sorted(500):
            sizes.append(len(table))
            found.append(table["key"].to_numpy())
    np.testing.assert_array_equal(np.concatenate(found), np.arange(20_000))
    assert max(sizes) <= 500 + 100 * 10  # a chunk of each of the 100 runs


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
