"""emqa study f1 on a workspace and labels: its rows against the boxes, its splits, and what it refuses."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emqa_dask import boxes, tables
from emqa_dask.cli import main
from emqa_dask.pipeline.commands.triage import run
from emqa_dask.pipeline.studies.f1 import splits, workspace_table
from emqa_dask.pipeline.studies.f1.workspace_table import make_study_rows
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.predict.published_table import read_published
from emqa_dask.settings import replace
from emqa_dask.store import parts
from emqa_dask.store.layout import Workspace
from emqa_dask.synthetic.archive import synthesise
from tests.few_trees import run_with_few_trees

FOLDERS = ("day 1", "day 2")


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """An archive of two folders, 12 micrographs each; the truths beside it."""
    folder = tmp_path_factory.mktemp("labelled")
    for seed, name in enumerate(FOLDERS):
        synthesise(folder / name, "nanoparticle-tem", n=12, seed=40 + seed, shape=(128, 128), faults=())
        (folder / f"{name}.truth").rename(folder.parent / f"{folder.name} {name}.truth")
    return folder


@pytest.fixture(scope="module")
def labels(archive) -> list[str]:
    return [str(archive.parent / f"{archive.name} {name}.truth/annotations.json") for name in FOLDERS]


@pytest.fixture(scope="module")
def settings(in_process):
    return replace(in_process, {"measure": {"foil_thickness_nm": 100.0}})


@pytest.fixture(scope="module")
def workspace(archive, settings, tmp_path_factory) -> str:
    root = str(tmp_path_factory.mktemp("workspaces") / "ws")
    assert run(str(archive), root, settings, steps=("ingest", "detect", "featurise"), say=lambda text: None) == 0
    return root


@pytest.fixture(scope="module")
def studied(workspace, labels, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("studies") / "out"
    command = ["study", "f1", workspace, *labels, "--out", out, "--short", "--repeats", 1, "--iou", 0.3]
    command += ["--train-on", "log=A", "--test-on", "A=day 1/*", "--test-on", "B=day 2/*"]
    assert run_with_few_trees(*command) == 0
    return out


def make_rows(workspace, labels, settings, train_on=(), test_on=(), **options) -> pd.DataFrame:
    return make_study_rows(workspace, labels, settings, splits.parse_split_plan(train_on, test_on), **options).table


def test_rows_are_matched_at_the_iou(studied, workspace, labels, settings):
    table = read_published(studied / "table.csv")
    detections = parts.read_table(workspace, list_run_folders(settings)["detections"], SCHEMAS["detections"])
    micrographs = parts.load_table(Workspace(workspace).micrographs, tables.MICROGRAPHS)
    truth = {}
    for name, path in zip(FOLDERS, labels, strict=True):
        content = json.loads(Path(path).read_text())
        for image in content["images"]:
            own = [row["bbox"] for row in content["annotations"] if row["image_id"] == image["id"]]
            truth[f"{name}/{image['file_name']}", image["frame"]] = [[y, x, y + h, x + w] for x, y, w, h in own]
    f1 = {}
    for row in micrographs.itertuples():
        found = detections[(detections["micrograph_id"] == row.micrograph_id) & (detections["score"] >= 0.1)]
        true = np.reshape(truth[row.uri, row.frame], (-1, 4))
        if len(found):
            f1.setdefault(row.uri, []).append(boxes.match_boxes(found[["y0", "x0", "y1", "x1"]], true, 0.3).f1)
    assert len(table) >= 20
    for uri, rows in table.groupby("image"):
        assert sorted(rows["true_f1"]) == pytest.approx(sorted(f1[uri]))


def test_splits_have_the_names_of_the_sets(studied):
    table = read_published(studied / "table.csv")
    assert set(table["split"]) == {"A_A", "A_B"}
    assert table["image"].str.startswith("day 1/").equals(table["split"] == "A_A")
    summary = json.loads((studied / "summary.json").read_text())
    assert (summary["detectors"], summary["iou_threshold"], summary["score_floor"]) == (["log"], 0.3, 0.1)
    assert summary["kind_of_labels"] == "boxes"


def test_a_short_study_leaves_sweep_and_intervals_out(studied):
    assert {f"figure{k}" for k in (3, 5, 6, 7, 8, 9)} == {path.name[:7] for path in studied.glob("*.png")}
    assert not (studied / "coverage.csv").exists()


def test_labels_without_use_are_named(workspace, labels, tmp_path, capsys):
    content = json.loads(Path(labels[0]).read_text())
    foreign = [image | {"file_name": f"{k}.png"} for k, image in enumerate(content["images"])]
    for change, message in (
        ({"images": foreign}, "labels.json: these are labels of another archive: '0.png' is not in the workspace"),
        ({"annotations": []}, "labels.json: none of its 12 images has an object: label what the detector"),
        ({}, "labels.json: 12 labelled images with detections: the study needs 20; label more"),
    ):
        (tmp_path / "labels.json").write_text(json.dumps(content | change))
        assert main(["study", "f1", workspace, str(tmp_path / "labels.json"), "--out", str(tmp_path / "out")]) == 1
        assert message in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["labels.json"]


def test_swelling_error_needs_a_thickness(workspace, labels, settings):
    assert make_rows(workspace, labels, settings)["swelling_error"].notna().any()
    unknown = replace(settings, {"measure": {"foil_thickness_nm": 0.0}})
    assert "swelling_error" not in make_rows(workspace, labels, unknown)


def test_boxes_count_as_spheres():
    volume = workspace_table.sum_volumes([[0, 0, 4, 9], [1, 1, 3, 3]], 2.0)  # diameters of 12 and 4 nm
    assert volume == pytest.approx(np.pi / 6 * (1728 + 64))


def test_a_set_of_few_images_states_the_number(workspace, labels, tmp_path, capsys):
    uri = parts.load_table(Workspace(workspace).micrographs, tables.MICROGRAPHS)["uri"].min()
    command = ["study", "f1", workspace, *labels, "--out", str(tmp_path / "out"), "--test-on", f"one={uri}"]
    assert main([*command, "--test-on", "rest=*"]) == 1
    assert "split: log_one has" in (message := capsys.readouterr().err)
    assert "5 are needed" in message
    assert os.listdir(tmp_path) == []


def test_folders_are_the_sets_by_default(workspace, labels, settings):
    table = make_rows(workspace, labels, settings, detectors=["log"])
    assert table["split"].str.startswith("log_day-").all()


def test_counts_are_labels_too(workspace, labels, settings, tmp_path):
    content = [json.loads(Path(path).read_text()) for path in labels]
    lines = ["uri,frame,n_objects"]
    for name, part in zip(FOLDERS, content, strict=True):
        numbers = pd.Series([row["image_id"] for row in part["annotations"]]).value_counts()
        lines += [f"{name}/{i['file_name']},{i['frame']},{numbers.get(i['id'], 0)}" for i in part["images"]]
    (tmp_path / "counts.csv").write_text("\n".join(lines))
    table = make_rows(workspace, [str(tmp_path / "counts.csv")], settings)
    assert table["true_f1"].between(0, 1).all()
    assert table["precision"].isna().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--train-on", "net=A"], "--train-on net: names no detector of this run, which has log"),
        (["--train-on", "log"], "write DETECTOR=SET"),
        (["--train-on", "log=A_B"], "no space, colon or underscore"),
        (["--test-on", "A"], "write SET=GLOB"),
        (["--test-on", "A=nowhere/*"], "no labelled image matches; the first one is 'day "),
        (["--detector", "net"], "--detector net: names no detector"),
        (["--iou", "2"], "--iou"),
    ],
)
def test_names_that_the_run_lacks_are_refused(workspace, labels, tmp_path, capsys, options, message):
    assert main(["study", "f1", workspace, *labels, "--out", str(tmp_path / "out"), *options]) == 1
    assert message in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_calibration_draws_the_short_study(workspace, labels, tmp_path, capsys):
    shutil.copytree(workspace, tmp_path / "ws")
    settings = (tmp_path / "ws/settings.toml").read_bytes()
    (tmp_path / "mine").mkdir()
    command = ["calibrate", tmp_path / "ws", *labels, "--detector", "log", "--figures"]
    assert run_with_few_trees(*command, tmp_path / "mine") == 1
    assert "mine is there and is not what emqa would write" in capsys.readouterr().err
    assert (tmp_path / "ws/settings.toml").read_bytes() == settings
    assert run_with_few_trees(*command, tmp_path / "f1") == 0
    summary = json.loads((tmp_path / "f1/summary.json").read_text())
    assert summary["settings"]["short"] is True
    assert summary["detectors"] == ["log"]
    assert {f"figure{k}" for k in (3, 5, 6, 7, 8, 9)} == {path.name[:7] for path in tmp_path.glob("f1/*.png")}
    assert (tmp_path / "ws/models/log/card.toml").exists()


def test_a_table_takes_no_options_of_a_workspace(workspace, tmp_path, capsys):
    assert main(["study", "f1", "table.csv", "--iou", "0.3"]) == 1
    assert "are for a workspace" in capsys.readouterr().err
    assert main(["study", "f1", workspace]) == 1
    assert "give labels" in capsys.readouterr().err


def test_small_folders_are_united_or_left_out():
    sets = pd.Series(["a"] * 6 + ["b"] * 3 + ["c"] * 2)
    united, notes = splits.unite_small_folders(sets)
    assert united.tolist() == ["a"] * 6 + ["others"] * 5
    assert "2 folders with fewer than 5" in notes[0]
    kept, notes = splits.unite_small_folders(sets[:9])
    assert kept.isna().sum() == 3
    assert "3 images of 1 folders are left out" in notes[0]
