"""Detectors chosen for sessions: the table, the detections that follow, repeated runs and new sessions."""

import shutil

import numpy as np
import pandas as pd
import pytest
import tifffile

from emqa_dask import tables
from emqa_dask.pipeline.commands.triage import run
from emqa_dask.pipeline.workspace.detector_choices import DetectorChoices
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.settings import Detect, SettingsError, replace
from emqa_dask.settings.stages import AUTO_CLASS_NETWORKS, AUTO_NETWORK
from emqa_dask.store import parts
from emqa_dask.synthetic import cavities, lattices

CAVITY_NETWORK = AUTO_CLASS_NETWORKS["cavity"]
EXPOSURE = {"dose_e_per_px": 800.0, "mtf_sigma_px": 0.6}


def write_session(folder, draw, n, seed):
    folder.mkdir(parents=True)
    for k in range(n):
        tifffile.imwrite(folder / f"{k}.tif", draw(np.random.default_rng([seed, k])).astype(np.uint16))


def draw_columns(rng):
    return lattices.draw_lattice(rng, (256, 256), disorder=False, dtype="uint16", exposure=dict(EXPOSURE)).image


def draw_voids(rng):
    options = {"median_radius_px": 9, "contrast": 1.0, "background": 0.15, "n": 15, "dtype": "uint16", "facet": False}
    return cavities.draw_cavities(rng, (256, 256), exposure=dict(EXPOSURE), **options).image


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive") / "archive"
    write_session(folder / "march/columns", draw_columns, 3, 0)
    write_session(folder / "march/voids", draw_voids, 3, 4)
    return folder


@pytest.fixture(scope="module")
def automatic(in_process):
    return replace(in_process, {"detect": {"detectors": ["auto"]}, "run": {"timeout_s": 900.0}})  # a crowded machine


@pytest.fixture(scope="module")
def done(archive, automatic, tmp_path_factory):
    """(workspace, what the run printed)."""
    root = tmp_path_factory.mktemp("workspace") / "ws"
    lines = []
    assert run(str(archive), str(root), automatic, say=lines.append) == 0
    return root, lines


def read(root, name, settings):
    return parts.read_table(str(root), list_run_folders(settings)[name], SCHEMAS[name])


def read_choices(root):
    return parts.load_table(str(root / "detector_choices.parquet"), tables.DETECTOR_CHOICES)


def test_columns_go_to_log_and_voids_to_the_network(done, automatic):
    root, lines = done
    choices = read_choices(root)
    assert list(choices["folder"]) == ["march/columns", "march/voids"]
    assert list(choices["detector"]) == ["log", CAVITY_NETWORK]
    assert list(choices["content"]) == ["lattice", "cavity"]
    assert list(map(list, choices["classes"])) == [[], []]
    assert list(choices["n_micrographs"]) == [3, 3]
    assert any(line.startswith("session march/columns (3 micrographs): log: ") for line in lines)
    triage = pd.read_parquet(root / "triage.parquet")
    detectors = triage.groupby(triage["uri"].str.rpartition("/")[0])["detector"].unique().map(list)
    assert detectors.to_dict() == {"march/columns": ["log"], "march/voids": [CAVITY_NETWORK]}
    assert read(root, "embeddings", automatic)["micrograph_id"].nunique() == 3


def test_evidence_made_without_pixels_keeps_the_choice(done, automatic, archive, tmp_path):
    root = shutil.copytree(done[0], tmp_path / "ws")
    shutil.rmtree(root / list_run_folders(automatic)["evidence"])
    shutil.rmtree(root / list_run_folders(automatic)["predictions"])
    assert run(str(archive), str(root), automatic, say=lambda text: None) == 0
    pd.testing.assert_frame_equal(read(root, "evidence", automatic), read(done[0], "evidence", automatic))


def test_new_session_is_added_and_the_others_stay(done, automatic, archive, tmp_path):
    root = shutil.copytree(done[0], tmp_path / "ws")
    before = read_choices(root)
    write_session(archive / "april", draw_columns, 2, 5)
    try:
        assert run(str(archive), str(root), automatic, say=lambda text: None) == 0
    finally:
        shutil.rmtree(archive / "april")
    after = read_choices(root)
    pd.testing.assert_frame_equal(after.iloc[:2], before)
    assert list(after["folder"][2:]) == ["april"]


def test_sizes_of_log_follow_the_content_unless_they_were_set():
    rows = pd.DataFrame(
        {"folder": ["a", "b"], "instrument": ["", "x"], "detector": "log", "content": ["lattice", "dots"]}
    ).assign(classes=[(), ()])
    choices = DetectorChoices(rows)
    automatic = Detect(detectors=("auto",))
    assert choices.resolve(automatic, "a/1.tif", None).min_sigma == 1.2
    assert choices.resolve(automatic, "b/1.tif", "x").max_sigma == 4.0
    assert choices.resolve(automatic, "b/1.tif", None).detectors == ("log", AUTO_NETWORK, CAVITY_NETWORK)
    own = Detect(detectors=("auto",), min_sigma=2.0)
    assert choices.resolve(own, "a/1.tif", None) == Detect(detectors=("log",), min_sigma=2.0)
    named = Detect(detectors=("log",))
    assert choices.resolve(named, "a/1.tif", None) == named


def test_auto_stands_alone(in_process):
    with pytest.raises(SettingsError, match='names "auto" alone'):
        replace(in_process, {"detect": {"detectors": ["log", "auto"]}})


def test_unknown_class_is_named(in_process, archive, tmp_path):
    settings = replace(in_process, {"detect": {"detectors": ["cavity-tem"], "classes": ["loop"]}})
    with pytest.raises(ValueError, match=r"detect\.classes: loop: those of the networks are cavity"):
        run(str(archive), str(tmp_path / "ws"), settings, say=lambda text: None)
