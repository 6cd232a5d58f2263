"""One image crashes, one hangs, one exhausts memory, one raises: four rows that say so, and nobody else suffers."""

import pytest

from benchmarks import poison, workspaces

pytestmark = [pytest.mark.real, pytest.mark.skipif("sys.platform != 'linux'", reason="the poison is for Linux")]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("poison") / "archive"
    workspaces.write_archive(folder, 24, seed=6)
    return folder


@pytest.mark.parametrize("stage", ["detect", "survey"])
def test_the_guilty_are_named_and_the_others_complete(archive, tmp_path, stage):
    options = poison.run_options(timeout_s=8, memory_gib=1.5, shard_length=6)
    figures = poison.poison(tmp_path, archive, stage, 1, 2, options)
    assert figures["broken"] == []
    assert all(row["is_right"] for row in figures["rows"])
    assert {row["kind"] for row in figures["rows"]} == {"crash", "timeout", "memory", "error"}
    assert figures["evaluations"] <= figures["evaluations_allowed"]
    assert figures["evaluations_again"] == 0
