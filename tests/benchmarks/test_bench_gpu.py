"""The measurement of a GPU runs on a CPU with tiny images, part by part, so that it runs where a GPU is lent."""

import json

import pytest

from benchmarks import bench_gpu
from emqa_dask.backend import to_device


def has_gpu() -> bool:
    try:
        to_device(bench_gpu.np.zeros(1), "cuda")
    except RuntimeError:
        return False
    return True


def run_parts(tmp_path, capsys, *parts):
    """The figures of `parts` on tiny images, and the table that is printed."""
    path = tmp_path / "figures.json"
    assert bench_gpu.main(["--device", "cpu", "--quick", "--json", str(path), "--parts", *parts]) == 0
    return json.loads(path.read_text()), capsys.readouterr().out


def test_steps_log_and_network_are_measured(tmp_path, capsys):
    figures, table = run_parts(tmp_path, capsys, "steps", "log", "network")
    assert figures["left_out"] == []
    steps = figures["steps"]
    assert all(row["ms_per_megapixel"] > 0 for row in steps.values())
    shares = [row["share_of_limit"] for row in steps.values() if row["share_of_limit"] is not None]
    assert len(shares) >= 6
    assert all(share > 0 for share in shares)
    assert steps["Mask R-CNN, network (float32)"]["share_of_limit"] is not None
    assert figures["network"]["same_box_and_mask"] > 0.95
    assert figures["log"]["find_blobs fast"]["times_faster"] > 0
    assert figures["log"]["batch search, unpruned"]["reference_matched"] > 0.9  # pruning only removes blobs
    for name in steps:
        assert f"\n{name} " in table
    assert "plain loop" in table


@pytest.mark.real
def test_whole_triages_are_measured_and_compared(tmp_path, capsys):
    figures, table = run_parts(tmp_path, capsys, "triage", "threads")
    assert list(figures["triage"]) == ["LoG", "network", "ensemble"]
    for row in figures["triage"].values():
        assert row["differences"] == {}
        assert row["tables"] >= 8
        assert row["images_per_s"] > 0
        assert row["gpu_percent"] is None
    assert set(figures["threads"]) == {"1", "2"}
    assert table.count("tables equal") == 3


def test_a_part_without_time_left_is_named(tmp_path, capsys):
    assert bench_gpu.main(["--device", "cpu", "--quick", "--budget-s", "-1", "--parts", "log", "threads"]) == 0
    assert "left out, no time: log, threads" in capsys.readouterr().out


@pytest.mark.skipif(has_gpu(), reason="there is a GPU here: nothing to refuse")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_machine_without_a_gpu_is_refused_in_a_sentence(capsys):
    assert bench_gpu.main([]) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("bench_gpu: device 'cuda' was asked for, but there is no")
    assert "\n" not in said
