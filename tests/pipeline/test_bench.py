"""emqa bench on a small archive: the document of its runs, its summary, and what is refused."""

import json

import pytest

from emqa_dask.cli import main
from emqa_dask.pipeline.commands.bench import BenchOptions, bench, list_runs
from emqa_dask.pipeline.commands.bench_summary import compare_measurements, describe_summary, summarise_runs
from emqa_dask.run.scaling import ScalingLaw
from emqa_dask.settings import Settings, replace

LAW = ScalingLaw(start_s=5.0, shared_s=0.01, io_s=0.0, compute_s=0.4, error=0.0)


def make_runs(workers=(1, 2, 4), rounds=2, n_files=40) -> list[dict]:
    """Runs whose times follow LAW."""
    options = BenchOptions(workers=workers, rounds=rounds, n_files=n_files)
    return [
        plan
        | {
            "n_images": plan["n_files"],
            "megapixels": 2.0 * plan["n_files"],
            "seconds": float(LAW.predict_seconds(plan["n_files"], plan["workers"])),
            "task_seconds": 1.0,
            "stage_seconds": {"detect": 0.3 * plan["n_files"]},
            "peak_memory_mib": 100.0,
            "gpu_percent": None,
            "has_failures": False,
        }
        for plan in list_runs(options, n_files)
    ]


def test_runs_alternate_and_weak_runs_are_in_proportion():
    runs = list(list_runs(BenchOptions(workers=(2, 1), rounds=2), 40))
    first = [(run["scaling"], run["workers"], run["n_files"]) for run in runs if run["round"] == 0]
    assert first == [("strong", 1, 40), ("weak", 1, 20), ("strong", 2, 40)]
    assert [run["round"] for run in runs] == [0, 0, 0, 1, 1, 1]


def test_summary_of_known_times_has_their_law_and_efficiencies():
    summary = summarise_runs(make_runs(), n_images=10_000, deadline_hours=0.5, price_per_worker_hour=2.0)
    assert ScalingLaw(**summary["law"]) == pytest.approx(LAW, abs=1e-6)
    rows = {(row["scaling"], row["workers"]): row for row in summary["groups"]}
    # 40 images: 21.4 s with one worker, 9.4 s with four; 10 images with one worker: 9.1 s.
    assert rows["strong", 4]["efficiency"] == pytest.approx(21.4 / 9.4 / 4)
    assert rows["weak", 4]["efficiency"] == pytest.approx((40 / 9.4) / (10 / 9.1) / 4)
    assert rows["strong", 1]["stage_ms_per_megapixel"] == pytest.approx({"detect": 150.0})
    # 10,000 images in 1800 s: 5 + 100 + 4000 / w <= 1800, so w = 3; they take 1438 s and cost 3 x 2 x 0.3995.
    assert summary["cheapest_workers"] == 3
    prediction = next(row for row in summary["predictions"] if row["workers"] == 3)
    assert prediction["hours"] == pytest.approx((105 + 4000 / 3) / 3600)
    assert prediction["price"] == pytest.approx(6 * prediction["hours"])
    json.dumps(summary, allow_nan=False)
    assert any("3 workers" in line for line in describe_summary(summary))


def test_utilisation_of_gpus_is_stated_where_it_was_measured():
    runs = [run | {"gpu_percent": 20.0 + 10 * run["round"]} for run in make_runs(rounds=3)]
    summary = summarise_runs(runs, n_images=10, deadline_hours=1.0, price_per_worker_hour=None)
    assert {row["gpu_percent"] for row in summary["groups"]} == {30.0}
    assert any("GPUs 30 % busy" in line for line in describe_summary(summary))
    unmeasured = summarise_runs(make_runs(), n_images=10, deadline_hours=1.0, price_per_worker_hour=None)
    assert not any("busy" in line for line in describe_summary(unmeasured))


def test_comparison_states_ratios_and_differences():
    first = {"summary": summarise_runs(make_runs(), 100, 1.0, None), "source": "a", "scheduler": "local"}
    first |= {"machine": {"cores": 2}, "versions": {"dask": "1"}, "settings": "x"}
    faster = [run | {"seconds": run["seconds"] / 2} for run in make_runs(workers=(1, 2))]
    second = first | {"summary": summarise_runs(faster, 100, 1.0, None), "versions": {"dask": "2"}}
    lines = list(compare_measurements(first, second))
    assert lines[0] == "different versions: dask 1 and 2"
    assert "strong, 1 workers: 2.00 times the megapixels per second (faster)" in lines
    assert not any("4 workers" in line for line in lines)


@pytest.mark.real
def test_one_and_two_workers_are_measured_on_an_archive(small_archive, tmp_path, capsys):
    out = tmp_path / "figures" / "bench.json"
    command = ["bench", str(small_archive), "--workers", "1", "2", "--rounds", "1", "--detector", "log"]
    assert main([*command, "--out", str(out), "--files", "10"]) == 0
    document = json.loads(out.read_text())
    assert [(run["scaling"], run["workers"], run["n_files"]) for run in document["runs"]] == [
        ("strong", 1, 10),
        ("weak", 1, 5),
        ("strong", 2, 10),
    ]
    assert all(run["n_images"] > 0 and run["seconds"] > 0 for run in document["runs"])
    assert {"detect", "featurise", "predict"} <= set(document["runs"][0]["stage_seconds"])
    page = out.with_suffix(".html").read_text()
    assert "Scaling of emqa triage" in page
    assert "http://" not in page
    assert {run["gpu_percent"] for run in document["runs"]} == {None}  # a triage on a CPU
    assert "not measured" in page
    assert [path.name for path in sorted(out.parent.iterdir())] == ["bench.html", "bench.json"]
    assert main(["bench", "--compare", str(out), str(out)]) == 0
    assert "1.00 times" in capsys.readouterr().out
    assert main(["bench", str(small_archive), "--workers", "1", "--out", str(out)]) == 1
    assert "two numbers or more" in capsys.readouterr().err


def test_one_process_measures_a_drawn_archive(tmp_path, in_process, capsys):
    options = BenchOptions(rounds=1, n_files=3)
    settings = replace(in_process, {"detect": {"detectors": ["log"]}})
    document = bench("", str(tmp_path / "b.json"), settings, options, print)
    assert document["source"] == "synthetic"
    assert {run["n_images"] for run in document["runs"] if run["scaling"] == "strong"} == {3}
    assert "the number of workers has no effect" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": (2,)}, "two numbers or more"),
        ({"workers": (0, 1)}, "--workers"),
        ({"rounds": 0}, "--rounds"),
        ({"workers": (1, 99)}, "99 workers need"),
    ],
)
def test_options_that_say_nothing_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        bench(str(tmp_path), str(tmp_path / "b.json"), Settings(), BenchOptions(**options), print)


def test_empty_folders_and_foreign_files_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises((ValueError, OSError), match="empty"):
        bench(str(tmp_path / "empty"), str(tmp_path / "b.json"), Settings(), BenchOptions(), print)
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(FileExistsError, match=r"no measurement of emqa bench"):
        bench(str(tmp_path), str(tmp_path / "notes.json"), Settings(), BenchOptions(), print)
    assert (tmp_path / "notes.json").read_text() == "{}"
