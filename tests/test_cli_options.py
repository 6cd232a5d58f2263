"""Options of the command line that no other test gives, and a list of those that no test gives."""

import argparse
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from emqa_dask import models
from emqa_dask.cli import main
from emqa_dask.cli.arguments import build_parser
from emqa_dask.synthetic.particles import draw_particles

TESTS = Path(__file__).parent
RUN = ["--detector", "log", "--set", "run.scheduler=in-process"]
N_IMAGES = 6


def list_verbs(parser, name=""):
    """(words, parser) of each verb that has no further ones."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield name, parser
    for word, verb_parser in (item for group in groups for item in group.choices.items()):
        yield from list_verbs(verb_parser, f"{name} {word}".strip())


def test_tests_give_every_option_on_the_command_line():
    paths = [*TESTS.rglob("*.py"), *(TESTS.parent / "docs/examples").iterdir()]
    text = "\n".join(path.read_text("utf-8") for path in paths)
    words = set(re.findall(r"""["' ](-[-\w]+)(?=["' =,])""", text))
    missing = {}
    for name, parser in list_verbs(build_parser()):
        options = [action.option_strings for action in parser._actions if action.option_strings]
        missing[name] = [strings[-1] for strings in options if not words & set(strings)]
    assert {name: options for name, options in missing.items() if options} == {}


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("options") / "scans"
    for k in range(N_IMAGES):
        (folder / f"day{k % 2}").mkdir(parents=True, exist_ok=True)
        image = draw_particles(np.random.default_rng(k), (256, 256)).image
        per_cm = (1e7, 1e7)  # 1 nm/px
        tifffile.imwrite(folder / f"day{k % 2}/{k}.tif", image, resolution=per_cm, resolutionunit="CENTIMETER")
    (folder / "notes.dat").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def workspace(scans, tmp_path_factory):
    root = str(tmp_path_factory.mktemp("options") / "ws")
    assert main(["triage", str(scans), "--workspace", root, "--include", "*.tif", *RUN]) == 0
    return root


def read(workspace, name):
    return pd.read_parquet(Path(workspace, f"{name}.parquet"))


@pytest.mark.parametrize("verb", ["triage", "ingest"])
def test_include_leaves_other_files_out(verb, scans, tmp_path):
    root = str(tmp_path / "ws")
    assert main([verb, str(scans), "--workspace", root, "--include", "day1/*", *RUN]) == 0
    assert sorted(read(root, "catalog")["uri"]) == ["day1/1.tif", "day1/3.tif", "day1/5.tif"]


def test_a_watch_takes_times_and_rates(scans, tmp_path):
    command = [sys.executable, "-m", "emqa_dask", "watch", str(scans), "--workspace", str(tmp_path / "ws"), "--json"]
    command += ["--every", "0.2", "--settle", "0.3", "--report-every", "1", "--gap", "60", "--false-alarms", "0.05"]
    command += ["--webhook", "http://127.0.0.1:9/", "--include", "day0/*", *RUN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        verdicts = [json.loads(next(process.stdout)) for _ in range(3)]
        deadline_s = time.monotonic() + 60
        while not (tmp_path / "ws/report/index.html").exists() and time.monotonic() < deadline_s:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert sorted(verdict["uri"] for verdict in verdicts) == ["day0/0.tif", "day0/2.tif", "day0/4.tif"]
    assert (tmp_path / "ws/report/index.html").exists()


def test_status_ends_when_no_run_is_at_work(workspace, capsys):
    assert main(["status", workspace, "--watch", "--every", "0.1"]) == 0
    assert f"micrographs {N_IMAGES} in" in capsys.readouterr().out


def test_retry_takes_the_failures_of_one_stage(tmp_path, capsys):
    root = str(tmp_path / "ws")
    (tmp_path / "bad.tif").write_bytes(b"II*\0")
    assert main(["triage", str(tmp_path / "bad.tif"), "--workspace", root, *RUN]) == 2
    main(["retry", root, "--failed", "--stage", "detect"])
    assert "nothing has failed in detect" in capsys.readouterr().out
    assert main(["retry", root, "--failed", "--stage", "ingest"]) == 2
    assert "nothing has failed" not in capsys.readouterr().out


def test_a_plan_by_folder_is_estimated_with_its_probabilities(workspace, tmp_path):
    assert main(["review", "plan", workspace, "--budget", "4", "--for", "density", "--by", "folder"]) == 0
    plan = read(workspace, "review_plan")
    drawn = plan[plan["position"].notna()]
    shares = plan.groupby("sample")["review_probability"].sum()
    counts = drawn["sample"].value_counts()
    assert list(counts.index.sort_values()) == ["day0", "day1"]
    assert counts.sum() == 4
    assert (abs(counts - shares) < 1).all()  # each folder has its share, rounded up or down
    labels = drawn[["uri"]].assign(n_objects=[5, 6, 7, 8])
    labels.to_csv(tmp_path / "labels.csv", index=False)
    drawn[["uri", "review_probability"]].to_csv(tmp_path / "probabilities.csv", index=False)
    command = ["estimate", workspace, str(tmp_path / "labels.csv"), "--by", "folder"]
    assert (
        main([*command, "--probabilities", str(tmp_path / "probabilities.csv"), "--out", str(tmp_path / "e.csv")]) == 0
    )
    estimates = pd.read_csv(tmp_path / "e.csv")
    assert {"day0", "day1"} <= set(estimates["sample"])


def test_an_estimate_prints_the_quantities_that_are_named(workspace, tmp_path, capsys):
    uris = read(workspace, "catalog")["uri"]
    pd.DataFrame({"uri": uris, "n_objects": range(len(uris))}).to_csv(tmp_path / "labels.csv", index=False)
    command = ["estimate", workspace, str(tmp_path / "labels.csv"), "--out", str(tmp_path / "e.csv")]
    assert main([*command, "--show", "n_objects"]) == 0
    printed = capsys.readouterr().out
    assert "  objects of all images: " in printed
    assert "  objects per image, median: " not in printed
    assert {"n_objects", "n_per_image_q50"} <= set(pd.read_csv(tmp_path / "e.csv")["quantity"])
    assert main([*command, "--quantile", "0.25", "--quantile", "0.5"]) == 0
    assert "  objects per image, 25 % quantile: " in capsys.readouterr().out
    quantities = set(pd.read_csv(tmp_path / "e.csv")["quantity"])
    assert {"n_per_image_q25", "n_per_image_q50"} <= quantities
    assert "n_per_image_q90" not in quantities
    assert main([*command, "--quantile", "50"]) == 1
    assert "--quantile 50: give a probability between 0 and 1" in capsys.readouterr().err
    assert main([*command, "--show", "weight"]) == 1
    assert "--show weight: give one of density, mean_diameter" in capsys.readouterr().err


def test_export_writes_polygons(workspace, tmp_path):
    out = tmp_path / "objects.json"
    command = [
        "export",
        workspace,
        "--format",
        "coco",
        "--masks",
        "polygon",
        "--verdict",
        "trust",
        "--verdict",
        "review",
    ]
    assert main([*command, "--verdict", "out_of_domain", "--verdict", "junk", "--out", str(out)]) == 0
    assert len(json.loads(out.read_text())["images"]) == N_IMAGES


def test_tuning_compares_methods_and_chooses_by_chebyshev(workspace, scans, tmp_path):
    command = ["tune", "log", str(scans), "--workspace", workspace, "--count-per-um2", "100", "--images", "1"]
    command += ["--evaluations", "6", "--method", "random", "--baselines", "--choose", "chebyshev", *RUN]
    assert main([*command, "--out", str(tmp_path / "tuned.toml")]) == 0
    text = "".join(path.read_text() for path in tmp_path.rglob("*") if path.suffix in (".csv", ".toml", ".json"))
    assert all(method in text for method in ("random", "bayes", "evolution"))
    assert main(
        ["triage", str(scans), "--workspace", str(tmp_path / "ws"), "--settings", str(tmp_path / "tuned.toml")]
    ) in (
        0,
        2,
    )


def test_bench_states_price_and_deadline(tmp_path):
    command = ["bench", "--synthetic", "4", "--workers", "1", "2", "--rounds", "1", "--for-images", "5000", *RUN]
    command += ["--deadline-hours", "3", "--price-per-worker-hour", "0.5", "--out", str(tmp_path / "bench.json")]
    assert main(command) == 0
    document = json.loads((tmp_path / "bench.json").read_text())
    prediction = document["summary"]["predictions"][0]
    assert prediction["price"] == pytest.approx(0.5 * prediction["hours"] * prediction["workers"])


def test_a_detector_is_tuned_further_with_a_frozen_backbone(tmp_path):
    (tmp_path / "images").mkdir()
    sample = draw_particles(np.random.default_rng(0), (256, 256))
    annotations = []
    for k in range(2):
        tifffile.imwrite(tmp_path / f"images/{k}.tif", sample.image)
        annotations.append({"id": k + 1, "image_id": k, "category_id": 1, "bbox": [40, 50, 30, 30], "iscrowd": 0})
    images = [{"id": k, "file_name": f"{k}.tif", "width": 256, "height": 256} for k in range(2)]
    coco = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cavity"}]}
    (tmp_path / "labels.json").write_text(json.dumps(coco))
    command = ["train", "detector", "--coco", str(tmp_path / "labels.json"), "--images", str(tmp_path / "images")]
    command += ["--start", "cavity-tem", "--frozen", "--steps", "1", "--validation", "0.5", "--device", "cpu"]
    assert main([*command, "--licence", "CC0 1.0", "--out", str(tmp_path / "model")]) == 0
    assert "CC0 1.0" in json.dumps(models.read_model_card(tmp_path / "model"))


def test_training_without_reviewed_images_says_so(workspace, tmp_path, capsys):
    assert main(["train", "detector", "--reviewed", workspace, "--out", str(tmp_path / "m")]) == 1
    assert "review" in capsys.readouterr().err


def test_an_ensemble_of_a_torchvision_network_sees_whole_images(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for k in range(16):
        image = rng.normal(100 * (k % 2), 20, (48, 48)).astype(np.float32)
        tifffile.imwrite(tmp_path / f"{k}.tif", image)
        split = ("train", "train", "validation", "test")[k // 2 % 4]
        rows.append({"uri": f"{k}.tif", "label": "bright" if k % 2 else "dark", "split": split})
    pd.DataFrame(rows).to_csv(tmp_path / "labels.csv", index=False)
    command = ["train", "ensemble", str(tmp_path / "labels.csv"), "--out", str(tmp_path / "model"), "--members", "1"]
    command += ["--backbone", "shufflenet_v2_x0_5", "--whole", "--window", "48", "--precision", "bfloat16"]
    command += ["--epochs", "1", "--batch", "4", "--examples", "2"]
    assert main([*command, "--set", "run.scheduler=in-process"]) == 0
    card = models.read_model_card(tmp_path / "model")
    assert "shufflenet_v2_x0_5" in json.dumps(card, default=str)
