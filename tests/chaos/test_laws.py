"""What chaos.py and poison.py compare by: a law that could not be broken would prove nothing."""

import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import chaos, poison, workspaces
from benchmarks.compare_workspaces import find_table_files
from emqa_dask.pipeline.commands.triage import run


@pytest.fixture(scope="module")
def twins(small_archive, in_process, tmp_path_factory):
    """Two workspaces of one archive, run one after the other."""
    pair = [tmp_path_factory.mktemp("twins") / name for name in "ab"]
    for workspace in pair:
        run(str(small_archive), str(workspace), in_process, say=lambda text: None)
    return pair


def column(*values):
    return pa.chunked_array([pa.array(values, pa.float64(), from_pandas=False)])


def test_columns_are_equal_in_every_bit():
    nan = float("nan")
    assert workspaces.has_same_bytes(column(nan, None, 1.0), column(nan, None, 1.0))
    assert not workspaces.has_same_bytes(column(0.0), column(-0.0))
    assert not workspaces.has_same_bytes(column(nan), column(None))
    assert not workspaces.has_same_bytes(column(1.0), column(1.0 + 2**-52))


def test_two_runs_leave_the_same(twins):
    assert workspaces.list_differences(*twins) == []


@pytest.mark.parametrize("name", ["catalog", "detections", "predictions", "failures", "triage"])
def test_a_row_that_is_there_twice_is_seen(twins, tmp_path, name):
    other = shutil.copytree(twins[1], tmp_path / "other")
    path = find_table_files(other, name)[0]
    rows = pq.read_table(path)
    pq.write_table(pa.concat_tables([rows, rows.slice(0, 1)]) if len(rows) else rows.drop_columns("uri"), path)
    assert [found.split(":")[0] for found in workspaces.list_differences(other, twins[0])] == [name]


def test_a_shard_with_another_byte_is_seen(twins, tmp_path):
    other = shutil.copytree(twins[1], tmp_path / "other")
    shard = next(other.glob("micrographs.zarr/*/0/c/*/0/0"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    assert workspaces.list_differences(other, twins[0]) == [str(shard.relative_to(other))]


def write_again(path, data):
    fresh = path.with_name(".fresh")
    fresh.write_bytes(data)
    os.replace(fresh, path)


def test_a_finished_part_that_is_written_again_is_seen(twins, tmp_path):
    other = shutil.copytree(twins[1], tmp_path / "other")
    watched = chaos.Parts(other)
    watched.hold()
    assert len(watched.held) == len(workspaces.list_parts(twins[1])) > 0
    held = next(other.glob("features-*/*.parquet"))
    write_again(held, held.read_bytes())
    late = held.with_name("late.parquet")
    for data in (b"one", b"two"):
        write_again(late, data)
        watched.look()
    assert watched.repeated == {held.relative_to(other).as_posix()}
    assert watched.raced == {late.relative_to(other).as_posix()}
    assert watched.damaged == []
    watched.hold()
    assert [text.split(":")[0] for text in watched.damaged] == ["late.parquet"]


def test_a_guilty_image_that_nobody_blames_is_seen(twins):
    rows = workspaces.read_sorted_table(twins[0], "micrographs").to_pandas().head(1)
    guilty = rows[["uri"]].assign(poison="raise", content=rows["pixel_sha256"])
    workspace, reference = twins
    broken, found = poison.check_laws(workspace, reference, "detect", guilty)
    assert [row["is_right"] for row in found] == [False]
    assert len(broken) == 1
    assert rows["uri"].iloc[0] in broken[0]
