"""benchmarks/compare_workspaces.py finds each difference between two workspaces, and nothing where they are equal."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks.compare_workspaces import find_table_files, has_equal_numbers, is_equal, main
from tests.whole_runs import undisturbed


@pytest.fixture(scope="module")
def before(small_archive, tmp_path_factory) -> Path:
    return undisturbed(small_archive, tmp_path_factory.mktemp("before") / "ws")


@pytest.fixture
def after(before, tmp_path) -> Path:
    return shutil.copytree(before, tmp_path / "after")


def change_parts(workspace: Path, name: str, change) -> None:
    for path in find_table_files(workspace, name):
        pq.write_table(change(pq.ParquetFile(path).read()), path)


def set_column(table: pa.Table, column: str, values) -> pa.Table:
    return table.set_column(table.column_names.index(column), column, values)


def compare(before: Path, after: Path, *options: str) -> int:
    return main([str(before), str(after), *options])


def test_two_runs_of_one_archive_are_equal(before, small_archive, tmp_path, capsys):
    after = undisturbed(small_archive, tmp_path / "ws", "--set", "store.shard_length=3")
    assert compare(before, after) == 1  # other partitions: other names of them in the ledger, and other shards
    found = capsys.readouterr().out
    assert "micrographs.partition" not in found
    differing = [line.split()[0] for line in found.splitlines() if line.endswith("  differs")]
    assert differing == ["micrographs", "micrographs.zarr"]
    shutil.rmtree(after)
    undisturbed(small_archive, after)
    assert compare(before, after) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines[1:-1]} >= {"catalog", "detections", "triage", "triage.csv"}
    assert lines[-1].endswith("compared, 0 differ")


def test_a_changed_value_is_reported_with_its_row(before, after, capsys):
    def change(table: pa.Table) -> pa.Table:
        values = table["predicted_f1"].to_numpy().copy()
        values[np.flatnonzero(~np.isnan(values))[:1]] += 1e-12
        return set_column(table, "predicted_f1", pa.array(values))

    change_parts(after, "predictions", change)
    assert compare(before, after) == 1
    assert "predicted_f1 differs in" in capsys.readouterr().out
    assert compare(before, after, "--rtol", "1e-9") == 0


def test_rows_in_another_order_are_equal(before, after):
    change_parts(after, "catalog", lambda table: table.take(pa.array(np.arange(len(table))[::-1])))
    assert compare(before, after) == 0


def test_detections_of_an_image_in_another_order_differ(before, after):
    change_parts(after, "detections", lambda table: table.take(pa.array(np.arange(len(table))[::-1])))
    assert compare(before, after) == 1


def test_a_lost_row_is_named(before, after, capsys):
    change_parts(after, "triage", lambda table: table.slice(1))
    assert compare(before, after) == 1
    assert "row only before: " in capsys.readouterr().out


def test_renamed_tables_columns_and_codes_are_equal(before, after, capsys):
    for path in after.glob("evidence-*"):
        path.rename(path.with_name(path.name.replace("evidence", "detection_features")))
    renames = {"verdict": "decision"}
    change_parts(after, "triage", lambda t: t.rename_columns([renames.get(c, c) for c in t.column_names]))
    with (after / "triage.csv").open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.reader(stream))
    rows[0] = [renames.get(column, column) for column in rows[0]]
    with (after / "triage.csv").open("w", newline="", encoding="utf-8-sig") as stream:
        csv.writer(stream).writerows(rows)
    codes = pc.replace_substring_regex
    change_parts(after, "catalog", lambda t: set_column(t, "kind", codes(t["kind"], "^micrograph$", "image")))
    assert compare(before, after) == 1
    capsys.readouterr()
    options = ["--renamed", "verdict=decision", "--renamed-table", "evidence=detection_features"]
    assert compare(before, after, *options) == 1
    assert "kind differs" in capsys.readouterr().out
    assert compare(before, after, *options, "--renamed-value", "micrograph=image") == 0


def test_a_folder_that_is_no_workspace_is_refused(before, tmp_path, capsys):
    assert compare(before, tmp_path / "none") == 1
    assert f"{tmp_path / 'none'} is no workspace" in capsys.readouterr().out


def test_changed_pixels_are_reported(before, after, capsys):
    shard = next(path for path in (after / "micrographs.zarr").rglob("c/*/0/0"))
    shard.write_bytes(shard.read_bytes()[:-1])
    assert compare(before, after) == 1
    assert f"{shard.relative_to(after)} differs" in capsys.readouterr().out


def test_a_missing_table_is_reported(before, after, capsys):
    (after / "flags.parquet").unlink()
    assert compare(before, after) == 1
    assert "the table is missing after" in capsys.readouterr().out


def test_nan_equals_nan_and_null_equals_null():
    assert is_equal(float("nan"), float("nan"))
    assert is_equal([1.0, float("nan"), None], [1.0, float("nan"), None])
    assert not is_equal(float("nan"), None)
    assert not is_equal(0.1, np.nextafter(0.1, 1).item())
    assert not is_equal([1.0], [1.0, 2.0])


def test_reworded_texts_have_the_same_numbers():
    assert has_equal_numbers("blur 0.31, limit 0.2", ["limit 0.2 passed", "detail ends at 0.31"])
    assert not has_equal_numbers("blur 0.31", "blur 0.32")
    assert has_equal_numbers(None, None)
    assert not has_equal_numbers(None, "")
