"""The benchmark of workers runs, and the law that emqa bench fits to runs of stubs is the stubs' own."""

import json

import pytest

from benchmarks.bench_workers import main

pytestmark = pytest.mark.real


def test_stage_and_pool_are_measured_with_each_number_of_workers(tmp_path):
    main(["--parts", "log", "--n", "4", "--size", "128", "--rounds", "1", "--json", str(tmp_path / "log.json")])
    rows = json.loads((tmp_path / "log.json").read_text())["rows"]
    assert [(row["stage"], row["workers"]) for row in rows] == [("plain", 1), ("plain", 2), ("LoG", 1), ("LoG", 2)]
    assert all(row["per_s"] > 0 for row in rows)


def test_fitted_compute_time_is_that_of_the_stubs(tmp_path):
    options = ["--workers", "1", "4", "--stubs", "8", "--rounds", "1", "--compute-s", "1", "--disk-s", "0.01"]
    main(["--parts", "stubs", *options, "--json", str(tmp_path / "stubs.json")])
    document = json.loads((tmp_path / "stubs.json").read_text())["stubs"]
    assert document["task_law"]["compute_s"] == pytest.approx(1.01, rel=0.2)  # and some time of a core
    assert document["summary"]["law"]["compute_s"] > 0.5  # start and report of a busy machine vary by seconds
    for run in document["runs"]:
        assert run["stage_seconds"]["compute"] == pytest.approx(run["n_images"], rel=0.2)
        assert run["stage_seconds"]["disk"] >= 0.01 * run["n_images"]
        assert run["seconds"] >= run["task_seconds"] >= run["n_images"] * 1.01 / run["workers"]
