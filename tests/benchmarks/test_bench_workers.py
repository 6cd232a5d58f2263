"""The benchmark of workers runs, and runs of stubs take at least the time of the stubs."""

import json

import pytest

from benchmarks.bench_workers import main

pytestmark = pytest.mark.real


def test_stage_and_pool_are_measured_with_each_number_of_workers(tmp_path):
    main(["--parts", "log", "--n", "4", "--size", "128", "--rounds", "1", "--json", str(tmp_path / "log.json")])
    rows = json.loads((tmp_path / "log.json").read_text())["rows"]
    assert [(row["stage"], row["workers"]) for row in rows] == [("plain", 1), ("plain", 2), ("LoG", 1), ("LoG", 2)]
    assert all(row["per_s"] > 0 for row in rows)


def test_runs_of_stubs_are_measured_and_have_a_law(tmp_path):
    """Times have lower bounds alone, since a busy machine takes longer; tests/run/test_scaling.py has the laws."""
    options = ["--workers", "1", "4", "--stubs", "8", "--rounds", "1", "--compute-s", "1", "--disk-s", "0.01"]
    main(["--parts", "stubs", *options, "--json", str(tmp_path / "stubs.json")])
    document = json.loads((tmp_path / "stubs.json").read_text())["stubs"]
    for law in (document["task_law"], document["summary"]["law"]):
        assert all(law[name] >= 0 for name in ("start_s", "shared_s", "compute_s", "io_s"))
    assert {run["workers"] for run in document["runs"]} == {1, 4}
    for run in document["runs"]:
        assert run["stage_seconds"]["compute"] >= run["n_images"]
        assert run["stage_seconds"]["disk"] >= 0.01 * run["n_images"]
        assert run["seconds"] >= run["task_seconds"] >= run["n_images"] * 1.01 / run["workers"]
