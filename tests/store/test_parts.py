"""Laws of parts: what is written is read with the same schema, empty and all-null tables too; half a part is none."""

import itertools
import math

import numpy as np
import pandas as pd
import pandas.testing
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emqa_dask import tables
from emqa_dask.store import files, parts
from emqa_dask.store.layout import Workspace

SCHEMAS = {name: value for name, value in vars(tables).items() if isinstance(value, pa.Schema)}


def sample(schema, n):
    """`n` rows with a value in every column, and one with nulls only."""
    values = {
        "string": lambda i: f"é\n<{i}>",
        "float": lambda i: i + 0.5 if i else math.nan,
        "double": lambda i: i + 0.5 if i else math.nan,
        "int64": lambda i: 2**53 + i,
        "int32": lambda i: i,
        "int16": lambda i: -i,
        "int8": lambda i: -i,
        "bool": lambda i: bool(i % 2),
        "binary": lambda i: bytes([i, 0, 255]),
    }

    def value(kind, i):
        if not pa.types.is_list(kind):
            return values[str(kind)](i)
        if pa.types.is_integer(kind.value_type):
            return [3, -4]
        if pa.types.is_struct(kind.value_type):
            return [{field.name: values[str(field.type)](i) for field in kind.value_type}]
        return [0.5, 0.25] if pa.types.is_floating(kind.value_type) else ["a", "b"]

    return [{f.name: value(f.type, i) for f in schema} for i in range(n)]


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("rows", ["none", "some", "nulls"])
def test_a_part_keeps_its_schema_and_values(tmp_path, name, rows):
    schema = SCHEMAS[name]
    root = str(tmp_path)
    given_rows = {"none": [], "some": sample(schema, 3), "nulls": [{schema.names[0]: None}] * 2}[rows]
    parts.write_part(root, "t", "p", given_rows, schema)
    assert parts.has_part(root, "t", "p", schema)
    assert pq.read_schema(Workspace(root).part("t", "p")).equals(schema)
    expected = tables.conform(given_rows, schema).to_pandas()
    pandas.testing.assert_frame_equal(parts.read_part(root, "t", "p", schema), expected)
    # and once more: what was read can be written
    parts.write_part(root, "t", "q", parts.read_part(root, "t", "p", schema), schema)
    pandas.testing.assert_frame_equal(parts.read_part(root, "t", "q", schema), expected)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 20), max_size=4), columns=st.sampled_from([None, ["score", "micrograph_id"]]))
def test_a_table_does_not_depend_on_its_parts(tmp_path_factory, cuts, columns):
    root = str(tmp_path_factory.mktemp("w"))
    rows = pd.DataFrame({"micrograph_id": [f"m{i}" for i in range(20)], "score": [i / 20 for i in range(20)]})
    edges = [0, *sorted(cuts), 20]
    for i, (a, b) in enumerate(itertools.pairwise(edges)):
        parts.write_part(root, "d", f"s-{i:08d}", rows[a:b], tables.DETECTIONS)
    found = parts.read_table(root, "d", tables.DETECTIONS, columns)
    expected = tables.conform(rows, tables.DETECTIONS).to_pandas()
    pandas.testing.assert_frame_equal(found, expected if columns is None else expected[columns])


def test_absent_parts_give_an_empty_table_with_all_columns(tmp_path):
    root = str(tmp_path)
    expected = tables.empty(tables.FLAGS)
    pandas.testing.assert_frame_equal(parts.read_table(root, "flags", tables.FLAGS), expected)
    pandas.testing.assert_frame_equal(parts.load_table(Workspace(root).catalog, tables.FLAGS), expected)
    assert parts.list_parts(root, "flags") == []


def test_a_requested_partition_without_part_is_an_error(tmp_path):
    parts.write_part(str(tmp_path), "d", "a", [], tables.FLAGS)
    with pytest.raises(FileNotFoundError):
        parts.read_table(str(tmp_path), "d", tables.FLAGS, partitions=["a", "b"])
    assert len(parts.read_table(str(tmp_path), "d", tables.FLAGS, partitions=["a"])) == 0


def test_half_a_part_is_no_part(tmp_path):
    root = str(tmp_path)
    parts.write_part(root, "d", "a", sample(tables.FLAGS, 5), tables.FLAGS)
    path = tmp_path / "d" / "a.parquet"
    whole = path.read_bytes()
    for stop in range(0, len(whole), 7):
        path.write_bytes(whole[:stop])
        assert not parts.has_part(root, "d", "a")
        with pytest.raises(ValueError, match=r"a\.parquet is damaged"):
            parts.read_part(root, "d", "a", tables.FLAGS)
    path.write_bytes(whole)
    assert parts.has_part(root, "d", "a")


def test_a_part_with_other_columns_is_not_accepted(tmp_path):
    root = str(tmp_path)
    parts.write_part(root, "d", "a", [], tables.FLAGS)
    assert not parts.has_part(root, "d", "a", tables.EVENTS)
    with pytest.raises(ValueError, match=r"lacks the columns attempt, bytes"):
        parts.read_part(root, "d", "a", tables.EVENTS)


def test_a_surplus_column_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="surprise"):
        parts.write_part(str(tmp_path), "d", "a", [{"surprise": 1}], tables.FLAGS)
    assert not (tmp_path / "d").exists()


def test_hidden_and_foreign_files_are_no_parts(tmp_path):
    parts.write_part(str(tmp_path), "d", "s-00000008", [], tables.FLAGS)
    parts.write_part(str(tmp_path), "d", "s-00000000", [], tables.FLAGS)
    (tmp_path / "d" / ".s-00000016.1234.partial").write_bytes(b"")
    (tmp_path / "d" / "notes.txt").write_bytes(b"")
    assert parts.list_parts(str(tmp_path), "d") == ["s-00000000", "s-00000008"]


def test_json_is_read_as_written_and_has_no_nan(tmp_path):
    uri = files.join(str(tmp_path), "p.json")
    parts.write_json(uri, {"ü": [1, None, "x"]})
    assert parts.read_json(uri) == {"ü": [1, None, "x"]}
    with pytest.raises(ValueError, match="JSON"):
        parts.write_json(uri, math.nan)


def test_a_table_survives_writing_and_reading_in_pieces(tmp_path):
    uri = str(tmp_path / "events.parquet")
    rows = pd.DataFrame({"stage": [f"s{i}" for i in range(25)], "attempt": 1})
    with parts.open_table_writer(uri, tables.EVENTS) as write:
        for start in range(0, 25, 10):
            write(rows[start : start + 10])
        assert not files.exists(uri)
    pieces = list(parts.iterate_table(uri, tables.EVENTS, ["stage", "attempt"], rows=7))
    assert max(map(len, pieces)) <= 7
    pd.testing.assert_frame_equal(
        pd.concat(pieces, ignore_index=True), parts.load_table(uri, tables.EVENTS)[["stage", "attempt"]]
    )
    assert parts.count_rows(uri) == 25


def test_a_growing_table_has_few_row_groups(tmp_path):
    uri = str(tmp_path / "events.parquet")
    n = parts.MIN_ROWS_PER_GROUP // 8
    for k in range(20):  # as each batch of a watched archive does
        stored = list(parts.iterate_table(uri, tables.EVENTS))
        with parts.open_table_writer(uri, tables.EVENTS) as write:
            for rows in stored:
                write(rows)
            write(pd.DataFrame({"stage": "detect", "attempt": range(k * n, (k + 1) * n)}))
    assert parts.load_table(uri, tables.EVENTS)["attempt"].tolist() == list(range(20 * n))
    metadata = pq.ParquetFile(uri).metadata
    assert metadata.num_row_groups == 20 // 8 + 1


def test_a_table_whose_writing_fails_is_not_there(tmp_path):
    uri = str(tmp_path / "events.parquet")

    def write_half():
        with parts.open_table_writer(uri, tables.EVENTS) as write:
            write([{"stage": "detect"}])
            raise KeyError("no")

    with pytest.raises(KeyError):
        write_half()
    assert files.list_names(str(tmp_path)) == []
    assert list(parts.iterate_table(uri, tables.EVENTS)) == []
    assert parts.count_rows(uri) == 0


def test_rows_that_are_left_out_are_the_others(tmp_path):
    uri = str(tmp_path / "events.parquet")
    rows = pd.DataFrame({"stage": list("abacbab"), "attempt": range(7)})
    with parts.open_table_writer(uri, tables.EVENTS) as write:
        write(rows)
    pieces = list(parts.iterate_table(uri, tables.EVENTS, ["stage", "attempt"], rows=3, row_filter=("stage", "b")))
    assert pd.concat(pieces)["attempt"].tolist() == [1, 4, 6]
    assert list(parts.iterate_table(uri, tables.EVENTS, row_filter=("stage", "z"))) == []


def test_parts_written_together_equal_parts_written_singly(tmp_path):
    table = "predictions"
    schema = tables.PREDICTIONS
    rng = np.random.default_rng(5)
    of = np.array(list("caacbbdaacab"), dtype=object)
    rows = pd.DataFrame({"micrograph_id": [f"m{k}" for k in range(len(of))], "detector": ["log", "net"] * 6})
    rows["predicted_f1"] = np.where(rng.random(len(of)) < 0.3, np.nan, rng.random(len(of)))
    rows["because"] = [[f"reason {j}" for j in range(n)] for n in rng.integers(0, 4, len(of))]
    names = ["d", "a", "none of them", "b", "c"]
    for name in names:
        parts.write_part(str(tmp_path / "one"), table, name, rows[of == name], schema)
    parts.write_parts(str(tmp_path / "all"), table, rows, of, names, schema)
    for name in names:
        one, other = ((tmp_path / root / table / f"{name}.parquet").read_bytes() for root in ("one", "all"))
        assert one == other
    assert parts.list_parts(str(tmp_path / "all"), table) == sorted(names)


def test_a_row_of_no_part_is_refused_before_writing(tmp_path):
    rows = pd.DataFrame({"micrograph_id": ["m0", "m1"]})
    with pytest.raises(ValueError, match="of 'b', none of these"):
        parts.write_parts(str(tmp_path), "predictions", rows, ["a", "b"], ["a"], tables.PREDICTIONS)
    assert parts.list_parts(str(tmp_path), "predictions") == []


def test_rows_that_are_left_out_of_parts_are_the_others(tmp_path):
    for name in "ab":
        rows = pd.DataFrame({"micrograph_id": [f"{name}{k}" for k in range(4)], "jpeg": [b"x"] * 4})
        parts.write_part(str(tmp_path), "thumbnails", name, rows, tables.THUMBNAILS)
    only = ("micrograph_id", ["b3", "a1", "not there"])
    found = parts.read_table(str(tmp_path), "thumbnails", tables.THUMBNAILS, row_filter=only)
    assert list(found["micrograph_id"]) == ["a1", "b3"]


def test_a_part_is_equal_from_memory_and_disk(tmp_path, monkeypatch):
    rows = pd.DataFrame({"micrograph_id": [f"m{k}" for k in range(50)], "jpeg": [bytes([k]) * 99 for k in range(50)]})
    parts.write_part(str(tmp_path), "thumbnails", "a", rows, tables.THUMBNAILS)
    read = [parts.read_part(str(tmp_path), "thumbnails", "a", tables.THUMBNAILS)]
    monkeypatch.setattr(parts, "MAX_BUFFERED_BYTES", 100)
    read.append(parts.read_part(str(tmp_path), "thumbnails", "a", tables.THUMBNAILS))
    for one in read:
        pd.testing.assert_frame_equal(one, rows, check_dtype=False)
