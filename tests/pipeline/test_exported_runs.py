"""emqa export and emqa list on a finished run: the detections and files of the verdicts that were asked for."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emqa_dask import tables, triage_archive
from emqa_dask.cli import exchange_verbs, main
from emqa_dask.pipeline.workspace.labels import read_matched_labels
from emqa_dask.review.exports.formats import FORMATS
from emqa_dask.store import parts
from emqa_dask.store.layout import Workspace


@pytest.fixture(scope="module")
def run(small_archive, in_process, tmp_path_factory):
    """The workspace of a finished run, and its table of verdicts."""
    workspace = str(tmp_path_factory.mktemp("runs") / "ws.emqa")
    return workspace, triage_archive(small_archive, workspace, in_process, say=lambda text: None)


def count_detections(triage, *verdicts):
    rows = triage[triage["verdict"].isin(verdicts)]
    return len(rows), int(rows["n_detections"].fillna(0).sum())


def test_names_of_the_command_line_are_those_of_the_package():
    assert set(exchange_verbs.FORMATS) == set(FORMATS)
    assert exchange_verbs.VERDICTS == tables.VERDICTS


def test_coco_has_the_detections_that_the_verdicts_count(run, tmp_path, capsys):
    workspace, triage = run
    out = tmp_path / "objects.json"
    verdicts = ("trust", "review", "out_of_domain", "junk")
    arguments = [argument for verdict in verdicts for argument in ("--verdict", verdict)]
    assert main(["export", workspace, "--format", "coco", *arguments, "--out", str(out)]) == 0
    content = json.loads(out.read_bytes())
    n_images, n_objects = count_detections(triage, *verdicts)
    assert (len(content["images"]), len(content["annotations"])) == (n_images, n_objects)
    assert f"{n_images:,} micrographs with {n_objects:,} objects" in capsys.readouterr().out
    ledger = parts.load_table(Workspace(workspace).micrographs, tables.MICROGRAPHS)
    labels = read_matched_labels([str(out)], ledger)
    counts = triage.set_index("micrograph_id")["n_detections"]
    assert {key: len(label.boxes) for key, label in labels.items()} == {key: counts[key] for key in labels}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_written(run, tmp_path, name):
    workspace, triage = run
    out = tmp_path / f"out{FORMATS[name].suffix}"
    assert main(["export", workspace, "--format", name, "--verdict", "review", "--out", str(out)]) == 0
    n_images, n_objects = count_detections(triage, "review")
    assert n_images > 0
    if name == "csv":
        with open(out, newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        assert len(rows) == n_objects
        assert {row["verdict"] for row in rows} == {"review"}
    if name == "fiftyone":
        assert len(list((out / "data").glob("*.jpg"))) == n_images
    if name == "yolo":
        assert len(list((out / "labels").rglob("*.txt"))) == n_images
    if name == "napari":
        stacks = {path.name for path in Path(workspace, "micrographs.zarr").iterdir() if path.is_dir()}
        assert {path.name for path in out.iterdir()} <= stacks


def test_exports_go_to_the_workspace_and_replace_no_folder(run, capsys):
    workspace, _ = run
    assert main(["export", workspace, "--format", "csv"]) == 0
    assert Path(workspace, "exports", "csv.csv").is_file()
    assert main(["export", workspace, "--format", "yolo"]) == 0
    assert main(["export", workspace, "--format", "yolo"]) == 1
    assert "is there already" in capsys.readouterr().err
    assert main(["export", workspace, "--format", "csv", "--detector", "other"]) == 1
    assert "--detector other: this run has log" in capsys.readouterr().err


@pytest.mark.parametrize("null", [False, True])
def test_files_are_listed_by_verdict_and_reason(run, small_archive, capfdbinary, null):
    workspace, triage = run
    reason = triage.loc[triage["verdict"] == "review", "reasons"].iloc[0][0]
    arguments = ["list", workspace, "--verdict", "review", "--reason", reason, *(["--null"] if null else [])]
    assert main(arguments) == 0
    paths = capfdbinary.readouterr().out.split(b"\0" if null else b"\n")
    assert paths.pop() == b""
    is_listed = (triage["verdict"] == "review") & triage["reasons"].map(lambda reasons: reason in reasons)
    expected = {os.path.join(small_archive, uri) for uri in triage.loc[is_listed, "uri"]}
    assert sorted(map(os.fsdecode, paths)) == sorted(expected)


def test_all_files_are_listed_once_and_exist(run, capfdbinary):
    workspace, triage = run
    assert main(["list", workspace]) == 0
    paths = capfdbinary.readouterr().out.decode().splitlines()
    assert len(paths) == len(set(paths)) == triage["uri"].nunique()
    assert all(map(os.path.exists, paths))


def test_points_of_napari_lie_on_their_objects(run, tmp_path):
    workspace, triage = run
    out = tmp_path / "napari"
    verdicts = ["--verdict", "trust", "--verdict", "review", "--verdict", "out_of_domain"]
    assert main(["export", workspace, "--format", "napari", *verdicts, "--out", str(out)]) == 0
    tables_of_stacks = [pd.read_csv(path) for path in sorted(out.glob("*/points.csv"))]
    points = pd.concat(tables_of_stacks)
    assert len(points) == count_detections(triage, "trust", "review", "out_of_domain")[1]
    assert np.isfinite(points[["axis-0", "axis-1", "axis-2", "score"]]).all(axis=None)
